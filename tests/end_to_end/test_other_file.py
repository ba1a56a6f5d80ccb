"""A trained model meets a file with its genes in another order, and others between them: the answers are the same to the bit."""

from pathlib import Path

import anndata
import numpy as np
import pytest
import scipy.sparse as sp


def write_other(adata, path, without=0):
    """The same cells with genes in reverse, three more between them, and without some of the first."""
    rng = np.random.default_rng(0)
    order = [*adata.var_names[without:], "NEW1", "NEW2", "NEW3"]
    new = sp.csr_matrix(rng.gamma(1, 1, (adata.n_obs, 3)).astype(np.float32))
    other = anndata.AnnData(sp.hstack([adata.X, new]).tocsr(), adata.obs)
    other.var_names = [*adata.var_names, "NEW1", "NEW2", "NEW3"]
    other.var["highly_variable"] = [*adata.var["highly_variable"], False, False, False]
    other = other[:, rng.permutation(order)].copy()
    other.obsm["X_hvg"] = other[:, other.var["highly_variable"].to_numpy()].X.toarray()
    other.obsm["X_state"] = adata.obsm["X_state"]
    other.write_h5ad(path)
    return other


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode",
    [
        (),
        ("data.embed_key=X_hvg", "data.output_space=gene"),
        ("data.embed_key=X_state", "data.output_space=gene"),
        ("data.embed_key=X_state", "data.output_space=all"),
    ],
    ids=lambda words: " ".join(words) or "X",
)
def test_the_same_cells_with_genes_in_another_order(screen, settings, training, mode):
    assert training("fit", *settings(*mode)).code == 0
    adata = anndata.read_h5ad("cells.h5ad")
    write_other(adata, "other.h5ad")
    write_other(adata, "fewer.h5ad", without=adata.n_vars - 2)
    for name in ("other", "fewer"):
        Path(f"{name}.toml").write_text(Path("cells_split.toml").read_text().replace("cells.h5ad", f"{name}.h5ad"))
    answers = {}
    for name in ("cells_split", "other"):
        done = training("predict", "run", "--output", f"{name}.predicted.h5ad", f"data.split={name}.toml")
        assert done.code == 0, done.err
        assert ("3 genes of X that the model was not trained on are left out" in done.out + done.err) == (
            name == "other" and mode[1:] not in [("data.output_space=gene",)]
        )
        assert training("evaluate", "run", f"data.split={name}.toml").code == 0
        answers[name] = anndata.read_h5ad(f"{name}.predicted.h5ad"), Path("run/evaluation.csv").read_bytes()
    predicted, other = answers["cells_split"][0], answers["other"][0]
    assert list(predicted.var_names) == list(other.var_names)
    np.testing.assert_array_equal(predicted.X, other.X)
    assert answers["cells_split"][1] == answers["other"][1]

    done = training("evaluate", "run", "data.split=fewer.toml")
    assert done.code == 2
    assert "genes that the model was trained on are not in " in done.err
