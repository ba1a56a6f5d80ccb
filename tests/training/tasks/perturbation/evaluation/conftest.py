"""`Cells` whose values are in memory, so that their means are known, and a small model as a predictor."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pytest
import torch

from training.cells import FloatArray, IntArray, Representation, Sizes, Split
from training.config import CellSetsConfig, EvaluationConfig, StateTransitionConfig
from training.data.h5ad import Labels
from training.data.perturbations import PerturbationFeatures, one_hot
from training.data.set_aside import SetAside
from training.data.table import SET_ASIDE, SPLITS, CellTable
from training.tasks.perturbation.cells import Cells
from training.tasks.perturbation.evaluation.metrics import AnyFloats
from training.tasks.perturbation.evaluation.model_predictor import ModelPredictor
from training.tasks.perturbation.spec import PerturbationSpec

CONTROL = "control"


class ArrayReader:
    """Cells of an array, and how many were asked for at a time."""

    def __init__(self, values: dict[str, FloatArray]) -> None:
        self.values = values
        self.asked: list[int] = []

    def read(self, representation: Representation, cells: IntArray) -> FloatArray:
        self.asked.append(len(cells))
        return self.values[representation][cells]


@pytest.fixture
def make_screen() -> Callable[..., Cells]:
    """Build a screen from (data set, cell type, perturbation, split) -> cells.

    Controls are in `train`, or in `aside`: those measure, and no baseline sees them.
    """

    def make(
        cells: Mapping[tuple[str, str, str, Split | Literal["aside"]], AnyFloats],
        genes: AnyFloats | None = None,
        gem_groups: int = 0,
        seed: int = 0,
        features: PerturbationFeatures | None = None,
    ) -> Cells:
        rows = [(*key, row) for key, values in cells.items() for row in values]
        order = np.random.default_rng(0).permutation(len(rows))  # conditions lie scattered in a file
        columns = [[rows[i][part] for i in order] for part in range(4)]
        codes = np.arange(len(rows), dtype=np.int32) % max(gem_groups, 1)
        table = CellTable(
            dataset=labels(columns[0]),
            cell_type=labels(columns[1]),
            perturbation=labels(columns[2]),
            gem_group=Labels(codes, tuple(f"gem{i}" for i in range(gem_groups))) if gem_groups else None,
            file=Labels(np.zeros(len(rows), np.int32), ("/somewhere/screen.h5ad",)),
            row=np.arange(len(rows))[::-1].astype(np.int64),
            split=np.array([SET_ASIDE if split == "aside" else SPLITS.index(split) for split in columns[3]], np.int8),
            control=CONTROL,
        )
        values = {"input": np.stack([rows[i][4] for i in order]).astype(np.float32)}
        if genes is not None:
            values["genes"] = (values["input"] @ genes).astype(np.float32)
        return Cells(
            config=CellSetsConfig(
                split="screen.toml", control=CONTROL, perturbation_features_file=None if features is None else "features.npz"
            ),
            evaluation=EvaluationConfig(seed=seed),
            set_size=8,
            seed=42,
            table=table,
            reader=ArrayReader(values),
            features=features or one_hot(table.perturbation.names),
            sizes=Sizes(values["input"].shape[1], len(table.perturbation.names), None, gem_groups),
            input_names=(),
            judged="input" if genes is None else "genes",
            judged_names=(),
            set_aside=SetAside(seed, 0.3, {}, ()),
            fingerprint="",
        )

    return make


def labels(words: Sequence[str]) -> Labels:
    """A column of words as codes."""
    names = sorted(set(words))
    return Labels(np.array([names.index(word) for word in words], np.int32), tuple(names))


@pytest.fixture
def make_predictor() -> Callable[..., ModelPredictor]:
    """A small untrained model of which every layer has something to say, as a predictor.

    `kind`: genes in and out (`gene`), an embedding in and genes out (`all`), an embedding in and out (`embedding`).
    """

    def make(
        kind: Literal["gene", "all", "embedding"],
        input_dim: int,
        num_genes: int = 0,
        names: tuple[str, ...] = ("A", "B"),
        **changes: Any,
    ) -> ModelPredictor:
        settings = {"hidden_dim": 8, "num_layers": 1, "num_heads": 1, "head_dim": 8, "intermediate_dim": 16,
                    "residual": "identity", "decoder_hidden_dims": (8,)}  # fmt: skip
        config = StateTransitionConfig.model_validate(settings | changes)
        genes = kind == "gene"
        sizes = Sizes(input_dim, 4, num_genes or None, 2)
        generator = torch.Generator().manual_seed(1)
        spec = PerturbationSpec(
            config=config,
            set_size=8,
            sizes=sizes,
            output_space=kind,
            input_is_genes=genes,
            embed_key=None if genes else "X_state",
            input_names=tuple(f"input{i}" for i in range(input_dim)),
            judged_names=tuple(f"GENE{i}" for i in range(num_genes or input_dim)),
            perturbation_names=names,
            perturbation_vectors=torch.randn(len(names), 4, generator=generator),
            gem_group_names=(),
            trained_conditions=(),
        )
        model = spec.build()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
        return ModelPredictor(model, spec, torch.device("cpu"))

    return make
