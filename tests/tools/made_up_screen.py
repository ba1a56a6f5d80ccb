"""A small screen in the shape of a published one, made up: three cell lines, singles and doubles, 500 highly variable genes.

`python -m tests.tools.made_up_screen OUT.h5ad` writes it in some seconds, always the same. Its names are those of real genes and
lines; no value was measured. As in the real small screen that may lie beside the repository (REAL), perturbations of k562 have an
effect, doubles nearly that of their two genes together, and A172 and T98G have none, so that no model may win on them.
"""

import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

REAL = Path(__file__).parents[3] / "shared" / "data" / "perturbseq_small.h5ad"
"""The real one, where it lies beside the repository."""

ABOUT = "Made up by tests/tools/made_up_screen.py. Names of genes and cell lines are real, every value is invented."
DOUBLES = (
    "BPGM+SAMD1", "CBL+CNN1", "CEBPE+RUNX1T1", "CNN1+MAPK1", "FOXL2+HOXB9", "KLF1+TGFBR2", "MAPK1+TGFBR2", "PTPN12+PTPN9",
    "SAMD1+PTPN12", "SET+KLF1", "SGK1+TBX3", "ZBTB10+PTPN12",
)  # fmt: skip
SHARED = ("MAP2K3", "MAP2K6", "MAP3K21", "MAP4K3", "MAP4K5", "MAPK1", "SGK1", "TGFBR2")
"""Perturbed in every line."""

N_CELLS = 100  # of a perturbation in a line
N_MEASURED, N_GENES = 3000, 500
TARGET_SUM = 1e4


def write(path: Path) -> None:
    """Write the screen: X is CSR float32, log1p of counts normalised over more genes than are kept."""
    random = np.random.default_rng(20261125)
    singles = sorted({gene for double in DOUBLES for gene in double.split("+")} | set(SHARED))
    labels = {"k562": ("control", *singles, *DOUBLES), "A172": ("control", *SHARED), "T98G": ("control", *SHARED)}
    obs = pd.DataFrame(
        [(line, label) for line, names in labels.items() for label in names for _ in range(N_CELLS)],
        columns=["cell_type", "perturbation"],
    )
    obs = obs.iloc[random.permutation(len(obs))].reset_index(drop=True)

    base = random.normal(-1.0, 1.6, N_MEASURED)
    of_line = {line: base + random.normal(0, 0.6, N_MEASURED) for line in labels}
    effects = {gene: random.normal(0, 1.0, N_MEASURED) * (random.random(N_MEASURED) < 0.15) for gene in singles}
    counts = np.empty((len(obs), N_MEASURED), np.float32)
    for (line, label), rows in obs.groupby(["cell_type", "perturbation"]).indices.items():
        genes = [gene for gene in label.split("+") if line == "k562" and gene in effects]
        log_rate = of_line[line] + sum((effects[gene] for gene in genes), np.zeros(N_MEASURED)) * (0.9 if len(genes) > 1 else 1)
        share = np.exp(log_rate) / np.exp(log_rate).sum()
        depth = random.lognormal(np.log(4000), 0.35, len(rows))
        counts[rows] = random.poisson(depth[:, None] * share * random.gamma(4, 0.25, (len(rows), N_MEASURED)))

    values = np.log1p(counts / counts.sum(1, keepdims=True) * TARGET_SUM)
    mean = values.mean(0)
    dispersion = np.where(mean > 0.1, values.var(0) / mean.clip(1e-6), 0)
    kept = np.sort(np.argsort(-dispersion, kind="stable")[:N_GENES])
    spare = [f"MADEUP{i}" for i in range(N_GENES - len(singles))]
    obs["dataset"] = np.where(obs["cell_type"] == "k562", "made_up_activation", "made_up_interference")
    obs["perturbation_type"] = np.where(obs["cell_type"] == "k562", "CRISPRa", "CRISPRi")
    obs["gem_group"] = [f"{i}" for i in random.integers(1, 5, len(obs))]
    obs["ncounts"], obs["ngenes"] = counts.sum(1), (counts > 0).sum(1).astype(np.int32)
    obs.index = pd.Index([f"CELL{i:05d}-{group}" for i, group in enumerate(obs["gem_group"])])
    for column in ("cell_type", "perturbation", "dataset", "perturbation_type", "gem_group"):
        obs[column] = obs[column].astype("category")
    symbols = np.array([*singles, *spare])[random.permutation(N_GENES)]
    var = pd.DataFrame(
        {"ensembl_id": [f"ENSG9{i:010d}" for i in range(N_GENES)], "means": values[:, kept].mean(0), "highly_variable": True},
        index=pd.Index(symbols, name="gene_symbol"),
    )
    uns = {"about": ABOUT, "log1p": {"base": np.e}}
    anndata.AnnData(sp.csr_matrix(values[:, kept].astype(np.float32)), obs=obs, var=var, uns=uns).write_h5ad(
        path, compression="gzip"
    )


if __name__ == "__main__":
    write(Path(sys.argv[1]))
