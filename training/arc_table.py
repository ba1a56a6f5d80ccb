"""Every key of `state tx train` (arc-state 0.9.x to 0.11.1), in our words or refused: the one table, read at the door.

"There" is `state tx train`; what it reads and ignores was found by running it and by reading it. The `+` keys that people add are
here too, whether or not anything there reads them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from training.config import RunConfig


@dataclass(frozen=True)
class Row:
    """What becomes of one key.

    A value in `words` is replaced, one in `holds` or that of `same_as` is accepted; any other is taken as it stands, or refused if
    there is a `reason`.
    """

    arc: str
    """The key there; `a.*` is every key below `a`, `group=option` a choice of a preset."""
    ours: str | None = None
    """Our key, or None: nothing is set."""
    words: Mapping[Any, Any] = field(default_factory=dict)
    """Value there -> ours."""
    holds: tuple[Any, ...] = ()
    """Values that only say what is so here anyway."""
    same_as: Callable[[RunConfig], object] | None = None
    """The value that would only say what the run has anyway."""
    unless: str = ""
    """A key there; where the same source of settings makes it false, nothing there reads this one, and every value is accepted."""
    reason: str = ""
    """Why all other values are refused, and what to use instead."""


LOSS, DISTRIBUTIONAL_LOSS = "model.kwargs.loss", "model.kwargs.distributional_loss"

NO_TRACKER = "this version has no tracker; metrics.jsonl and TensorBoard files are written without asking"
NO_FINE_TUNING = "this version does not fine-tune: all weights start at random, and all are trained"
NO_TOKENS = "there is no token table here, and the one there is never used; leave it out"
NO_CONFIDENCE = "the model here predicts no confidence; leave it out"
NO_BATCH_TOKEN = "the model here has no batch token; model.gem_group_embedding=true tells it the GEM group of each cell"
ONE_SET_SIZE = "one number rules data and model here; set data.set_size"
GENE_DECODER = "there is a gene decoder wherever an embedding goes in and genes come out; data.output_space=embedding has none"
NEVER_READ = "never had an effect there"
GPT2 = "its GPT-2 cannot be built with transformers 5; model=state model.attention=causal comes nearest"
OTHER_MODEL = "this project trains STATE's transition model and no other; use model=state"
BASELINE = "a baseline is no model to train; training evaluate judges every run beside the baselines"

TABLE = (
    # root
    Row("name", "name"),
    Row("output_dir", "output_dir"),
    Row("overwrite", "overwrite"),
    Row("use_wandb", holds=(False,), reason=NO_TRACKER),
    Row("return_adatas", holds=(False,), reason=f"{NEVER_READ}; training predict writes the predicted cells"),
    Row("pred_adata_path", holds=(None,), reason=f"{NEVER_READ}; training predict RUN --output FILE writes the predicted cells"),
    Row("true_adata_path", holds=(None,), reason=f"{NEVER_READ}; leave it out"),
    Row("wandb.*", unless="use_wandb", reason=NO_TRACKER),
    # presets; those of the same name on both sides (model=state, ...) pass as they stand
    Row("data=perturbation", holds=("perturbation",)),
    Row("data=default", reason="a stale file there, whose keys nothing reads; leave it out"),
    Row("training=default", holds=("default",)),
    Row("training=cpa", reason="settings of another model; leave it out"),
    Row("training=scvi", reason="settings of another model; leave it out"),
    Row("training=scgpt", reason="settings of another model; leave it out"),
    Row("wandb=default", holds=("default",)),
    Row("model=tahoe_llama_62089464", "model", words={"tahoe_llama_62089464": "tahoe_62m"}),
    Row("model=tahoe_llama_212693232", "model", words={"tahoe_llama_212693232": "tahoe_212m"}),
    Row("model=pertsets", reason=GPT2),
    Row("model=neuralot", reason=GPT2),
    Row("model=old_neuralot", reason="an early form of STATE; use model=state"),
    Row("model=pseudobulk", reason="averages cells before the loss; use model=state, whose sets keep their cells"),
    Row("model=embedsum", reason="crashes there; use model=state"),
    Row("model=decoder_only", reason="trains the gene decoder alone, which this project does not; use model=state"),
    Row("model=context_mean", reason=BASELINE),
    Row("model=celltypemean", reason=BASELINE),
    Row("model=perturb_mean", reason=BASELINE),
    Row("model=globalsimplesum", reason=BASELINE),
    Row("model=cpa", reason=OTHER_MODEL),
    Row("model=scvi", reason=OTHER_MODEL),
    Row("model=scgpt-chemical", reason=OTHER_MODEL),
    Row("model=scgpt-genetic", reason=OTHER_MODEL),
    # data
    Row("data.name", holds=("PerturbationDataModule",), reason="data.kind chooses here; leave it out"),
    Row("data.output_dir", holds=(None,), reason=f"{NEVER_READ}; set output_dir"),
    Row("data.debug", reason=f"{NEVER_READ}; leave it out"),
    Row("data.kwargs.toml_config_path", "data.split"),
    Row("data.kwargs.embed_key", "data.embed_key"),
    Row("data.kwargs.output_space", "data.output_space"),
    Row("data.kwargs.num_workers", "data.num_workers"),
    Row("data.kwargs.batch_col", "data.gem_group_column"),
    Row("data.kwargs.pert_col", "data.perturbation_column"),
    Row("data.kwargs.cell_type_key", "data.cell_type_column"),
    Row("data.kwargs.control_pert", "data.control"),  # with pert_col=drugname_drugconc it is set there to Tahoe's DMSO, unasked
    Row("data.kwargs.perturbation_features_file", "data.perturbation_features_file"),
    Row("data.kwargs.should_yield_control_cells", "data.include_controls"),
    Row("data.kwargs.basal_mapping_strategy", "data.control_matching", words={"random": "cell_type", "batch": "gem_group"},
        reason="there is no other way to match controls, there or here"),
    Row("data.kwargs.is_log1p", "data.values", words={True: "log1p", False: "counts"}, reason="set data.values"),
    Row("data.kwargs.prefetch_factor", "data.prefetch_batches"),  # ignored there: always 4
    Row("data.kwargs.persistent_workers", holds=(True,), reason="workers live as long as the run; leave it out"),
    Row("data.kwargs.pin_memory", holds=(True,), reason="memory is pinned wherever there is a GPU; leave it out"),
    Row("data.kwargs.pert_rep", same_as=lambda c: "onehot" if c.data.perturbation_features_file is None else "features",
        reason=f"{NEVER_READ}: data.perturbation_features_file alone decides, null is one-hot"),
    Row("data.kwargs.basal_rep", holds=("sample",), reason=f"{NEVER_READ}; controls are sampled cells"),
    Row("data.kwargs.n_basal_samples", holds=(1,), reason=f"{NEVER_READ}; each cell of a set has one control"),
    Row("data.kwargs.map_controls", holds=(True,), reason=f"{NEVER_READ}; data.include_controls says whether controls are samples"),
    Row("data.kwargs.downsample", holds=(None,), reason="counts are not thinned here; thin the files"),
    Row("data.kwargs.downsample_cells", holds=(None,), reason="cells are not left out here; thin the files"),
    Row("data.kwargs.val_subsample_fraction", holds=(1.0,), reason="the limit is a number of sets; set data.max_validation_sets"),
    Row("data.kwargs.additional_obs", holds=([], None), reason="batches carry no other columns; leave it out"),
    Row("data.kwargs.barcode", holds=(False,), reason="batches carry no barcodes; predictions name file and row of each control"),
    Row("data.kwargs.store_raw_basal", holds=(False,), reason="nothing reads the controls' raw values; leave it out"),
    Row("data.kwargs.int_counts", holds=(False,), reason="has no effect there since 0.10; set data.values=counts"),
    Row("data.kwargs.exp_counts", holds=(False,), reason="values are trained on as they are in the file; set data.values"),
    Row("data.kwargs.use_consecutive_loading", holds=(False,), reason="a set is a random draw, not neighbours in a file"),
    Row("data.kwargs.cache_perturbation_control_pairs", holds=(False,), reason="controls are drawn anew in every epoch"),
    Row("data.kwargs.drop_last", holds=(False,), reason="the last batch of an epoch is trained on, although it may be smaller"),
    Row("data.kwargs.random_seed", same_as=lambda c: c.seed, reason="one seed rules everything random; set seed"),
    Row("data.kwargs.h5_open_kwargs", holds=(None, {}), reason="files are opened in one way; leave it out"),
    Row("data.kwargs.h5_open_kwargs.*", reason="files are opened in one way; leave it out"),
    # training
    Row("training.batch_size", "data.batch_size"),
    Row("training.max_steps", "trainer.max_steps"),
    Row("training.train_seed", "seed"),
    Row("training.lr", "optim.lr"),
    Row("training.weight_decay", "optim.weight_decay"),  # without effect there (plain Adam); it acts here (AdamW)
    Row("training.gradient_clip_val", "optim.gradient_clip_norm", words={None: 0.0}),
    Row("training.val_freq", "trainer.val_every_steps"),  # micro-steps there, optimizer steps here
    Row("training.ckpt_every_n_steps", "checkpoints.every_steps"),  # without effect there since 0.9.32
    Row("training.log_every_n_steps", "trainer.log_every_steps"),
    Row("training.gradient_accumulation_steps", "trainer.accumulate_micro_steps"),
    Row("training.accumulate_grad_batches", "trainer.accumulate_micro_steps"),  # without effect there
    Row("training.precision", "trainer.precision",  # without effect there: always 32
        words={32: "32", "32": "32", "32-true": "32", "bf16": "bf16", "bf16-mixed": "bf16"},
        reason="fp16 overflows and 64 bit gains nothing; bf16 saves what 16 would"),
    Row("training.lr_scheduler", "optim.schedule", words={"constant": "constant", "cosine": "cosine", None: "constant"},
        reason="set optim.schedule"),  # without effect there: always constant, as the next two
    Row("training.warmup_ratio", "optim.warmup_fraction"),
    Row("training.min_lr_ratio", "optim.min_lr_fraction"),
    Row("training.lr_num_cycles", holds=(0.5,), reason="the cosine goes down once, which is half a cycle; leave it out"),
    Row("training.log_lr", holds=(True,), reason="the learning rate is always logged; leave it out"),
    Row("training.loss_fn", same_as=lambda c: c.objective.loss, reason=f"{NEVER_READ}; set objective.loss"),
    Row("training.wandb_track", holds=(False,), reason=f"{NEVER_READ}, and {NO_TRACKER}"),
    Row("training.devices", holds=(1,), reason="this version trains on one device; leave it out"),
    Row("training.strategy", holds=("auto",), reason="this version trains on one device; leave it out"),
    Row("training.use_mfu", holds=(False,), reason="cells per second and the wait for data are logged instead; leave it out"),
    Row("training.mfu_kwargs.*", unless="training.use_mfu",
        reason="cells per second and the wait for data are logged instead; leave it out"),
    Row("training.cumulative_flops_use_backward", reason="operations are not counted; cells per second are logged; leave it out"),
    # model
    Row("model.name", holds=("state", "PertSets", "pertsets"), reason="model.kind chooses here; leave it out"),
    Row("model.checkpoint", holds=(None,), reason=f"{NEVER_READ}, and {NO_FINE_TUNING}"),
    Row("model.device", same_as=lambda c: {"gpu": "cuda"}.get(c.trainer.device, c.trainer.device),
        reason=f"{NEVER_READ}; set trainer.device"),
    Row("model.cell_set_len", "data.set_size"),
    Row("model.kwargs.cell_set_len", "data.set_size"),
    Row("model.kwargs.hidden_dim", "model.hidden_dim"),
    Row("model.kwargs.n_encoder_layers", "model.encoder_layers"),
    Row("model.kwargs.n_decoder_layers", "model.output_layers"),
    Row("model.kwargs.use_basal_projection", "model.control_encoder", words={True: "mlp", False: "linear"},
        reason="set model.control_encoder"),
    Row("model.kwargs.predict_residual", "model.residual", words={True: "state", False: "none"}, reason="set model.residual"),
    Row("model.kwargs.dropout", "model.dropout"),
    Row("model.kwargs.batch_encoder", "model.gem_group_embedding"),
    Row("model.kwargs.decoder_hidden_dims", "model.decoder_hidden_dims"),
    Row("model.kwargs.decoder_dropout", "model.decoder_dropout"),
    Row("model.kwargs.gene_decoder_bool", holds=(True,), same_as=lambda c: c.data.has_gene_decoder, reason=GENE_DECODER),
    Row("model.kwargs.residual_decoder", holds=(False,), reason="the decoder has no residual form; set model.decoder_hidden_dims"),
    Row("model.kwargs.nb_decoder", holds=(False,), reason="there is no negative binomial decoder here, nor there since 0.11"),
    Row("model.kwargs.activation", holds=("gelu",), reason="encoders and output layers have GELU; leave it out"),
    Row("model.kwargs.softplus", reason=f"{NEVER_READ}; set model.output_activation"),
    Row("model.kwargs.extra_tokens", holds=(0,), reason="no tokens stand beside the cells; leave it out"),
    Row("model.kwargs.mask_attn", holds=(False,), reason="cells that attend only to themselves make no set; set model.attention"),
    Row("model.kwargs.transformer_decoder", holds=(False,), reason=f"{NEVER_READ}; leave it out"),
    Row("model.kwargs.use_effect_gating_token", holds=(False,), reason=f"{NEVER_READ}; leave it out"),
    Row("model.kwargs.llm_name", holds=(None,), reason=f"{NEVER_READ}; leave it out"),
    Row("model.kwargs.use_batch_token", holds=(False,), reason=NO_BATCH_TOKEN),
    Row("model.kwargs.batch_token_weight", unless="model.kwargs.use_batch_token", reason=NO_BATCH_TOKEN),
    Row("model.kwargs.batch_predictor", holds=(False,), reason=f"{NEVER_READ}, and {NO_BATCH_TOKEN}"),
    Row("model.kwargs.confidence_token", holds=(False,), reason=NO_CONFIDENCE),
    Row("model.kwargs.confidence_head", holds=(False,), reason=f"{NEVER_READ}, and {NO_CONFIDENCE}"),
    Row("model.kwargs.confidence_weight", unless="model.kwargs.confidence_token", reason=NO_CONFIDENCE),
    Row("model.kwargs.confidence_target_scale", unless="model.kwargs.confidence_token", reason=NO_CONFIDENCE),
    Row("model.kwargs.init_from", holds=(None,), reason=NO_FINE_TUNING),
    Row("model.kwargs.freeze_pert_backbone", holds=(False,), reason=NO_FINE_TUNING),
    Row("model.kwargs.freeze_pert", holds=(False,), reason=NO_FINE_TUNING),
    Row("model.kwargs.finetune_vci_decoder", holds=(False,), reason=NO_FINE_TUNING),
    Row("model.kwargs.lora", holds=(None, {}), reason=NO_FINE_TUNING),
    Row("model.kwargs.lora.enable", holds=(False,), reason=NO_FINE_TUNING),
    Row("model.kwargs.lora.*", unless="model.kwargs.lora.enable", reason=NO_FINE_TUNING),
    # the transformer
    Row("model.kwargs.transformer_backbone_key", holds=("llama",), reason=GPT2),
    Row("model.kwargs.transformer_backbone_kwargs.bidirectional_attention", "model.attention",
        words={True: "bidirectional", False: "causal_rope"}, reason="set model.attention"),
    Row("model.kwargs.transformer_backbone_kwargs.num_hidden_layers", "model.num_layers"),
    Row("model.kwargs.transformer_backbone_kwargs.num_attention_heads", "model.num_heads"),
    Row("model.kwargs.transformer_backbone_kwargs.head_dim", "model.head_dim"),
    Row("model.kwargs.transformer_backbone_kwargs.intermediate_size", "model.intermediate_dim"),
    Row("model.kwargs.transformer_backbone_kwargs.hidden_size", same_as=lambda c: c.model.hidden_dim,
        reason="one width rules all; set model.hidden_dim"),
    Row("model.kwargs.transformer_backbone_kwargs.num_key_value_heads", same_as=lambda c: c.model.num_heads,
        reason="each head has its own keys and values, as in every preset there; leave it out"),
    Row("model.kwargs.transformer_backbone_kwargs.max_position_embeddings", same_as=lambda c: c.data.set_size,
        reason=ONE_SET_SIZE),
    Row("model.kwargs.transformer_backbone_kwargs.n_positions", same_as=lambda c: c.data.set_size,
        reason=ONE_SET_SIZE),
    Row("model.kwargs.transformer_backbone_kwargs.n_embd", same_as=lambda c: c.model.hidden_dim,
        reason="GPT-2's word; set model.hidden_dim"),
    Row("model.kwargs.transformer_backbone_kwargs.n_layer", same_as=lambda c: c.model.num_layers,
        reason="GPT-2's word; set model.num_layers"),
    Row("model.kwargs.transformer_backbone_kwargs.n_head", same_as=lambda c: c.model.num_heads,
        reason="GPT-2's word; set model.num_heads"),
    Row("model.kwargs.transformer_backbone_kwargs.attention_dropout", holds=(0,),
        reason="the transformer drops nothing; set model.dropout for encoders and output layers"),
    Row("model.kwargs.transformer_backbone_kwargs.hidden_dropout", holds=(0,),
        reason=f"{NEVER_READ}; set model.dropout for encoders and output layers"),
    Row("model.kwargs.transformer_backbone_kwargs.resid_pdrop", holds=(0,), reason="GPT-2's word; set model.dropout"),
    Row("model.kwargs.transformer_backbone_kwargs.embd_pdrop", holds=(0,), reason="GPT-2's word; set model.dropout"),
    Row("model.kwargs.transformer_backbone_kwargs.attn_pdrop", holds=(0,), reason="GPT-2's word; set model.dropout"),
    Row("model.kwargs.transformer_backbone_kwargs.layer_norm_eps", holds=(1e-6,), reason=f"{NEVER_READ}; the norms have 1e-6"),
    Row("model.kwargs.transformer_backbone_kwargs.use_cache", holds=(False,), reason="nothing comes cell by cell; leave it out"),
    Row("model.kwargs.transformer_backbone_kwargs.vocab_size", reason=NO_TOKENS),
    Row("model.kwargs.transformer_backbone_kwargs.pad_token_id", holds=(0,), reason=NO_TOKENS),
    Row("model.kwargs.transformer_backbone_kwargs.bos_token_id", holds=(1,), reason=NO_TOKENS),
    Row("model.kwargs.transformer_backbone_kwargs.eos_token_id", holds=(2,), reason=NO_TOKENS),
    Row("model.kwargs.transformer_backbone_kwargs.tie_word_embeddings", holds=(False,), reason=NO_TOKENS),
    Row("model.kwargs.transformer_backbone_kwargs.rotary_dim", holds=(0,), reason=f"{NEVER_READ}; set model.attention"),
    Row("model.kwargs.transformer_backbone_kwargs.use_rotary_embeddings", holds=(False,),
        reason=f"{NEVER_READ}; set model.attention"),
    # the loss: `loss=energy` there is the distance that `distributional_loss` names
    Row(LOSS, "objective.loss", words={"energy": "energy", "sinkhorn": "sinkhorn", "mse": "mse", "se": "energy_sinkhorn"},
        reason="set objective.loss"),
    Row(DISTRIBUTIONAL_LOSS, "objective.loss", words={"energy": "energy", "sinkhorn": "sinkhorn"}, reason="set objective.loss"),
    Row("model.kwargs.blur", "objective.blur"),
    Row("model.kwargs.sinkhorn_weight", "objective.sinkhorn_weight"),
    Row("model.kwargs.energy_weight", holds=(1.0,), reason="the energy distance weighs 1; set objective.sinkhorn_weight"),
    Row("model.kwargs.decoder_weight", "objective.decoder_weight"),
    Row("model.kwargs.decoder_loss_weight", same_as=lambda c: c.objective.decoder_weight,
        reason=f"{NEVER_READ} (decoder_weight had); set objective.decoder_weight"),
    Row("model.kwargs.detach_decoder", "objective.detach_decoder"),  # there the decoder is given the true cells one time in ten
    Row("model.kwargs.regularization", "objective.shift_penalty"),
    Row("model.kwargs.mmd_num_chunks", holds=(1,), reason="the distance is taken over all columns at once; leave it out"),
    Row("model.kwargs.randomize_mmd_chunks", holds=(False,), reason="the distance is taken over all columns at once; leave it out"),
)  # fmt: skip
