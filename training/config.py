"""Every field of a run: its type, default, unit and one sentence.

A run is one of several whole schemas, one for each task (`registry.py`). Each is a subclass of `Run`, with its own rows of settings
that have no effect or contradict each other. `config_loader.py` fills the fields in. This file imports no torch, so that a laptop
can refuse a run file before a GPU is paid for. The unit of a field stands in square brackets at the end of its sentence.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _word(value: object) -> object:
    """YAML reads an unquoted 2025 as a number; where a word is wanted it is one."""
    return str(value) if type(value) is int else value


Word = Annotated[str, BeforeValidator(_word)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class Part(BaseModel):
    """A section of the configuration: frozen, strict, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False)


class CellSetsConfig(Part):
    """Which cells, as sets of one (cell type, perturbation)."""

    kind: Literal["cell_sets"] = "cell_sets"
    """Sets of perturbed cells, each with a set of controls."""
    split: str
    """TOML file that names the data sets and says which of their cells are trained on, validated on and tested on."""
    perturbation_column: str = "perturbation"
    """`obs` column with the perturbation of a cell."""
    cell_type_column: str = "cell_type"
    """`obs` column with the cell type."""
    gem_group_column: str | None = None
    """`obs` column with the sequencing batch (GEM group), or null; carried into predictions and used where asked for."""
    control: Word
    """Label of the control cells in the perturbation column, for example `non-targeting`."""
    separator: Annotated[str, Field(min_length=1)] | None = "+"
    """What joins the parts of a combination in a perturbation's label (`KLF1+MYC`), or null: labels are no combinations."""
    embed_key: str | None = None
    """`obsm` key of the cells' representation that goes in and comes out (`X_state`, `X_hvg`), or null: the genes in `X`."""
    output_space: Literal["gene", "all", "embedding"] = "all"
    """What is predicted: `gene` (highly variable genes), `all` genes, or the `embedding` alone."""
    gene_name_column: str | None = None
    """`var` column with the gene names, or null: the index of `var`."""
    gene_alignment: Literal["refuse", "by_name"] = "refuse"
    """What to do where files differ in genes or their order: refuse, or keep the shared genes in the first file's order."""
    values: Literal["log1p", "counts"] = "log1p"
    """What the gene values are: log1p of library-normalised counts, or raw counts; the other is refused."""
    perturbation_features_file: str | None = None
    """File of name -> vector (.pt, .npz or .safetensors) that describes the perturbations, or null: one-hot."""
    missing_features: Literal["refuse", "zeros", "drop"] = "refuse"
    """What becomes of a perturbation without features: refuse the run, a vector of zeros, or leave its cells out."""
    control_matching: Literal["cell_type", "gem_group"] = "cell_type"
    """Controls share the cell type, or the cell type and the GEM group, with the perturbed cells of their set."""
    include_controls: bool = True
    """Whether sets of control cells are training samples too (their perturbation is the control)."""
    validation: Literal["split", "test", "none"] = "split"
    """What validates: the split file's `val` cells, its `test` cells (then the test is no longer held out), or nothing."""
    max_validation_sets: Positive | None = None
    """Upper limit of validation sets, spread evenly over cell types and perturbations, or null: all [sets]."""
    set_size: Annotated[int, Field(ge=2)] = 512
    """Cells that attend to one another: one set [cells]."""
    batch_size: Positive = 16
    """Sets of full size per micro-step; shorter sets come more to a batch, so the cells per micro-step stay [sets]."""
    num_workers: Annotated[int, Field(ge=0)] = 2
    """Processes that read ahead; 0 reads in the training process [processes]."""
    prefetch_batches: Positive = 4
    """Batches that each worker keeps ready [batches]."""

    @property
    def has_gene_decoder(self) -> bool:
        """Whether a gene decoder stands behind the predicted cell: an embedding goes in and genes come out."""
        return self.embed_key is not None and (
            self.output_space == "all" or (self.output_space == "gene" and self.embed_key != "X_hvg")
        )

    @property
    def reads_genes(self) -> bool:
        """Whether any gene value is read."""
        return self.input_is_genes or self.has_gene_decoder

    @property
    def input_is_genes(self) -> bool:
        """Whether the input representation is gene values rather than an embedding."""
        return self.embed_key in (None, "X_hvg")


class StateTransitionConfig(Part):
    """The transformer over a set of control cells that predicts the set of perturbed cells."""

    kind: Literal["state_transition"] = "state_transition"
    """STATE transition model."""
    hidden_dim: Positive = 768
    """Width of the transformer."""
    num_layers: Positive = 8
    """Transformer blocks."""
    num_heads: Positive = 12
    """Attention heads per block."""
    head_dim: Positive = 64
    """Width of a head; a multiple of 8 keeps the fast attention kernels."""
    intermediate_dim: Positive = 3072
    """Width between the two halves of a block's MLP."""
    attention: Literal["bidirectional", "causal", "causal_rope"] = "bidirectional"
    """Every cell sees every cell (no order), or those before it, the latter with or without rotary positions."""
    encoder_layers: Annotated[int, Field(ge=1, le=4)] = 1
    """Linear layers in the encoders of perturbation and control."""
    output_layers: Annotated[int, Field(ge=1, le=4)] = 1
    """Linear layers from the transformer to the predicted cell."""
    control_encoder: Literal["mlp", "linear"] = "mlp"
    """Encoder of control cells: as deep as `encoder_layers`, or one linear layer."""
    residual: Literal["state", "none", "identity"] = "state"
    """`state`: STATE's skip connections; `none`; `identity`: control cell + a shift whose last layer starts at zero."""
    output_activation: Literal["auto", "relu", "none"] = "auto"
    """Keeps predicted cells non-negative; `auto`: where they are genes and `residual` is not `identity`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout in the encoders and the output layers [fraction]."""
    gem_group_embedding: bool = False
    """Whether the model is told each perturbed cell's GEM group; a prediction has that of the control it starts from."""
    decoder_hidden_dims: Annotated[tuple[Positive, ...], Field(strict=False)] = (1024, 1024, 512)
    """Widths of the gene decoder, which exists where an embedding goes in and genes come out."""
    decoder_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout in the gene decoder [fraction]."""


class PerturbationConfig(Part):
    """What is minimised: a distance between predicted and observed sets."""

    kind: Literal["perturbation"] = "perturbation"
    """Predict perturbed sets from control sets."""
    loss: Literal["energy", "sinkhorn", "mse", "energy_sinkhorn"] = "energy"
    """Distance of sets, for both heads: energy distance, Sinkhorn divergence, paired squared error, or the first two."""
    blur: Annotated[float, Field(gt=0)] = 0.05
    """Blur of the Sinkhorn divergence, in units of the cells' values."""
    sinkhorn_weight: Annotated[float, Field(ge=0)] = 0.01
    """Weight of the Sinkhorn divergence beside the energy distance in `energy_sinkhorn`."""
    decoder_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the gene term beside the embedding term."""
    detach_decoder: bool = False
    """Whether the gene term leaves everything but the decoder alone."""
    shift_penalty: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the mean absolute difference between a predicted cell and its control."""


class OptimConfig(Part):
    """AdamW: how fast the weights move; norms, biases and embeddings do not decay."""

    lr: Annotated[float, Field(gt=0)] = 1e-4
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """Decoupled weight decay."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up: constant, or a cosine down to `min_lr_fraction` at the last step."""
    warmup_fraction: Fraction = 0.0
    """Share of all steps in which the learning rate rises linearly to its peak [fraction]."""
    min_lr_fraction: Fraction = 0.1
    """Learning rate at the last step of a cosine, as a share of the peak [fraction]."""
    gradient_clip_norm: Annotated[float, Field(ge=0)] = 1.0
    """L2 norm above which the gradient is scaled down; 0 never does."""

    @property
    def varies(self) -> bool:
        """Whether the learning rate of a step depends on the length of the run."""
        return self.schedule == "cosine" or self.warmup_fraction > 0


def _precision(value: object) -> object:
    return "32" if value == 32 and not isinstance(value, bool) else value


class TrainerConfig(Part):
    """How long, on what, and how often one looks."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where the run computes; `auto` takes a GPU if there is one."""
    precision: Annotated[Literal["32", "bf16"], BeforeValidator(_precision)] = "32"
    """Number format of the matrix products; losses are always computed in 32 bit."""
    max_steps: Positive | None = None
    """Length of the run; exactly one of `max_steps` and `max_epochs` is set [optimizer steps]."""
    max_epochs: Positive | None = None
    """Length of the run; exactly one of `max_steps` and `max_epochs` is set [passes over the training cells]."""
    accumulate_micro_steps: Positive = 1
    """Batches whose gradients are averaged into one optimizer step [micro-steps]."""
    val_every_steps: Positive = 2000
    """Distance between validations; the last step validates too [optimizer steps]."""
    log_every_steps: Positive = 50
    """Distance between logged training values [optimizer steps]."""

    @model_validator(mode="after")
    def _one_length(self) -> "TrainerConfig":
        if (self.max_steps is None) == (self.max_epochs is None):
            raise ValueError(
                f"max_steps is {self.max_steps or 'null'} and max_epochs is {self.max_epochs or 'null'}; "
                "set exactly one and make the other null"
            )
        return self


class EvaluationConfig(Part):
    """How a trained model is judged. The seed of the training has no part in it, so that figures of runs can be compared."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of all that is drawn to judge: controls that are set aside, halves of cells, controls that predictions start from."""
    control_fraction: Annotated[float, Field(ge=0.1, le=0.5)] | None = 0.3
    """Share of a cell type's controls that only measure and are never trained on, or null: none, and no win counts [fraction]."""


class EarlyStoppingConfig(Part):
    """When a run ends before its last step; `model.pt` has the best weights either way."""

    patience: Positive | None = None
    """Validations without an improvement after which the run ends, or null: it trains to its last step [validations]."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """A validation improves only if its `val/loss_total` is more than this below the best."""

    def __str__(self) -> str:
        """As run.json has it."""
        return f"patience {self.patience}, min_delta {self.min_delta!r}"

    @property
    def rule(self) -> str | None:
        """The same; None where nothing ends a run early."""
        return None if self.patience is None else str(self)


class CheckpointsConfig(Part):
    """What is kept on disk."""

    every_steps: Positive = 2000
    """Distance between checkpoints; the last step is saved too [optimizer steps]."""
    keep_last: Positive = 2
    """Newest checkpoints that are kept; the best by validation is kept besides [checkpoints]."""


R = TypeVar("R")
Row = tuple[str, Callable[[R], bool], str]
"""A key, the runs that the row applies to, and the reason."""


class Run(Part):
    """One run, whole: the fields and rows that every task has."""

    task: str
    """What is trained; it decides which settings there are."""
    name: Annotated[Word, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._=-]*$", max_length=100)]
    """Name of the run; its folder is `output_dir/name`."""
    output_dir: str = "runs"
    """Folder that holds the folders of runs."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 42
    """Seed of everything random; the same seed, data and configuration give the same weights."""
    resume: bool = False
    """Whether to go on from the highest complete checkpoint of a run that has begun."""
    overwrite: bool = False
    """Whether to delete a run of this name that has begun."""
    trainer: Any
    """Length, device, precision and intervals: a section with what `TrainerConfig` has, as fields or as properties."""
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()

    NO_EFFECT: ClassVar[tuple[Row[Any], ...]] = (
        ("early_stopping.min_delta", lambda c: c.early_stopping.patience is None, "early_stopping.patience is null"),
    )
    """Settings that have no effect in some runs: they are refused where the user wrote them."""
    CONTRADICTIONS: ClassVar[tuple[Row[Any], ...]] = (
        ("output_dir", lambda c: "://" in c.output_dir, "a folder of this machine is wanted"),
        ("resume", lambda c: c.resume and c.overwrite, "resume and overwrite exclude each other"),
    )
    """Settings that contradict others of the run: they are refused whoever wrote them."""
    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset({
        "name", "output_dir", "resume", "overwrite", "trainer.max_steps", "trainer.max_epochs", "trainer.device",
        "trainer.log_every_steps", "checkpoints.every_steps", "checkpoints.keep_last",
        "early_stopping.patience", "early_stopping.min_delta",
    })  # fmt: skip
    """Settings that a resumed run may change: they name paths, cadences and lengths, and leave the weights of a given step alone.
    (The length does not under a cosine; whoever lengthens such a run knows it.)"""
    AS_BEFORE: ClassVar[Mapping[str, str]] = {}
    """Settings that came later, with the values (as JSON) under which a run is what it was before; its hash leaves them out."""
    RENAMED: ClassVar[Mapping[str, str]] = {}
    """A key's former name, which is still accepted and which the hash of a run has, and its name today."""
    DEFAULT_RUN: ClassVar[str] = "runs/base.yaml"
    """The run file, in configs/, that is taken where the command line names none."""
    PRESETS: ClassVar[str | None] = None
    """The folder, in configs/, of the files that `model: NAME` takes; None: the task has no presets."""
    ACCEPTS_STATE_KEYS: ClassVar[bool] = False
    """Whether the keys of `state tx train` are translated (`arc_table.py`)."""

    @property
    def directory(self) -> Path:
        """The run's folder."""
        return Path(self.output_dir).expanduser() / self.name

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """Keys that name files which the run reads, and the paths."""
        return ()

    @property
    def varies_with_length(self) -> bool:
        """Whether the learning rate of a step depends on the length of the run."""
        return False


class RunConfig(Run):
    """One run of the task perturbation."""

    task: Literal["perturbation"] = "perturbation"
    """What is trained; it decides which settings there are."""
    trainer: TrainerConfig
    data: CellSetsConfig
    model: StateTransitionConfig
    objective: PerturbationConfig = PerturbationConfig()
    optim: OptimConfig = OptimConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    NO_EFFECT: ClassVar[tuple[Row["RunConfig"], ...]] = (
        ("data.missing_features",
         lambda c: c.data.perturbation_features_file is None, "there is no data.perturbation_features_file"),
        ("data.values", lambda c: not c.data.reads_genes, "the run reads no genes"),
        ("data.gene_name_column", lambda c: not c.data.reads_genes, "the run reads no genes"),
        ("data.gene_alignment", lambda c: not c.data.reads_genes, "the run reads no genes"),
        ("data.prefetch_batches", lambda c: c.data.num_workers == 0, "data.num_workers is 0"),
        ("data.max_validation_sets", lambda c: c.data.validation == "none", "data.validation is none"),
        ("trainer.val_every_steps", lambda c: c.data.validation == "none", "data.validation is none"),
        ("optim.min_lr_fraction", lambda c: c.optim.schedule == "constant", "optim.schedule is constant"),
        ("objective.blur", lambda c: "sinkhorn" not in c.objective.loss, "objective.loss has no Sinkhorn term"),
        ("objective.sinkhorn_weight", lambda c: c.objective.loss != "energy_sinkhorn", "objective.loss is not energy_sinkhorn"),
        ("objective.decoder_weight", lambda c: not c.data.has_gene_decoder, "the run has no gene decoder"),
        ("objective.detach_decoder", lambda c: not c.data.has_gene_decoder, "the run has no gene decoder"),
        ("model.dropout", lambda c: c.model.encoder_layers == 1 == c.model.output_layers, "encoders and output are one layer each"),
        ("model.control_encoder",
         lambda c: c.model.encoder_layers == 1, "model.encoder_layers is 1, and both words mean one layer"),
        ("model.decoder_hidden_dims", lambda c: not c.data.has_gene_decoder, "the run has no gene decoder"),
        ("model.decoder_dropout", lambda c: not c.data.has_gene_decoder, "the run has no gene decoder"),
        *Run.NO_EFFECT,
    )  # fmt: skip
    CONTRADICTIONS: ClassVar[tuple[Row["RunConfig"], ...]] = (
        ("data.output_space",
         lambda c: c.data.embed_key is None and c.data.output_space == "embedding", "embedding needs data.embed_key"),
        ("data.control_matching",
         lambda c: c.data.control_matching == "gem_group" and c.data.gem_group_column is None, "needs data.gem_group_column"),
        ("model.gem_group_embedding",
         lambda c: c.model.gem_group_embedding and c.data.gem_group_column is None, "needs data.gem_group_column"),
        ("early_stopping.patience",
         lambda c: c.early_stopping.patience is not None and c.data.validation == "none", "data.validation is none"),
        ("model.head_dim",
         lambda c: c.model.attention == "causal_rope" and c.model.head_dim % 2 == 1, "rotary positions need an even width"),
        *Run.CONTRADICTIONS,
    )  # fmt: skip
    MAY_CHANGE = Run.MAY_CHANGE | {
        "data.split", "data.perturbation_features_file", "data.num_workers", "data.prefetch_batches",
    }  # fmt: skip
    AS_BEFORE = {
        "task": '"perturbation"', "evaluation.seed": "0", "evaluation.control_fraction": "null", "data.separator": '"+"',
    }  # fmt: skip
    RENAMED = {"model.set_size": "data.set_size"}
    DEFAULT_RUN = "runs/transition.yaml"
    PRESETS = "models"
    ACCEPTS_STATE_KEYS = True

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """The split file, and the features of perturbations if there are any."""
        features = self.data.perturbation_features_file
        return (("data.split", self.data.split), *((("data.perturbation_features_file", features),) if features else ()))

    @property
    def varies_with_length(self) -> bool:
        """As its schedule does."""
        return self.optim.varies
