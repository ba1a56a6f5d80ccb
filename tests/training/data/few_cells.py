"""Small files whose groups have the sizes that a test asks for."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

from training.config import CellSetsConfig
from training.tasks.perturbation.cells import Cells, open_cells

SPLIT = '[datasets]\nd = "d.h5ad"\n[training]\nd = "train"\n[fewshot."d.B"]\nval = ["P2"]\ntest = ["P3"]\n'
BY_GEM_GROUP: dict[str, Any] = {"control_matching": "gem_group", "gem_group_column": "gem_group"}
CONTROLS = [("A", "control", "g1", 20), ("A", "control", "g2", 20), ("B", "control", "g1", 20), ("B", "control", "g2", 20)]


def write(groups: Iterable[tuple[str, str, str, int]], path: str = "d.h5ad") -> None:
    """Cells as (cell type, perturbation, GEM group, number of cells), and the split file."""
    Path("split.toml").write_text(SPLIT)
    rows = [(t, p, g) for t, p, g, n in groups for _ in range(n)]
    obs = pd.DataFrame(rows, columns=["cell_type", "perturbation", "gem_group"], index=[f"c{i}" for i in range(len(rows))])
    rates = np.random.default_rng(0).gamma(2, 2, (len(rows), 6))
    values = np.log1p(1e4 * rates / rates.sum(1, keepdims=True)).astype(np.float32)
    anndata.AnnData(values, obs, pd.DataFrame(index=[f"G{i}" for i in range(6)])).write_h5ad(path)


def opened(set_size: int = 8, **changes: Any) -> Cells:
    """The cells of split.toml, with sets of 8 and all else at its default."""
    return open_cells(CellSetsConfig(**({"split": "split.toml", "control": "control"} | changes)), set_size, 0)
