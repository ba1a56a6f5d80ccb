"""Bad input: exit code 2, one message that says what was seen and what is accepted, nothing left behind."""

import re
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def edit(path, old, new):
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new))


def change_cells(change):
    cells = anndata.read_h5ad("cells.h5ad")
    changed = change(cells)
    (cells if changed is None else changed).write_h5ad("cells.h5ad")


def with_value(value):
    def change(cells):
        cells.X.data[7] = value

    return change


def misspell_split(old, new):
    return lambda: edit("cells_split.toml", old, new)


def truncate():
    size = Path("cells.h5ad").stat().st_size
    with Path("cells.h5ad").open("r+b") as file:
        file.truncate(size // 2)


def second_file(change):
    """A second file of the data set, made from the first."""

    def make():
        cells = anndata.read_h5ad("cells.h5ad")
        change(cells).write_h5ad("more.h5ad")
        edit("cells_split.toml", '"cells.h5ad"', '"{cells,more}.h5ad"')

    return make


def raw_counts():
    def change(cells):
        cells.X = cells.layers["counts"].astype(np.float32)

    change_cells(change)


def relabel_controls(cells):
    cells.obs["perturbation"] = cells.obs["perturbation"].astype(str).replace("control", "contrl").astype("category")
    return cells


def nothing():
    pass


def edit_a_perturbation():
    text = Path("cells_split.toml").read_text()
    start = text.index('"GENE')
    Path("cells_split.toml").write_text(text[: start + 5] + "9999" + text[start + 10 :])


def drop_validation():
    lines = Path("cells_split.toml").read_text().splitlines()
    Path("cells_split.toml").write_text("\n".join(line for line in lines if not line.startswith("val")) + "\n")


def uneven_features():
    features = dict(np.load("cells_features.npz"))
    name = sorted(features)[0]
    np.savez("cells_features.npz", **features | {name: features[name][:-1]})


def drop_feature():
    features = dict(np.load("cells_features.npz"))
    np.savez("cells_features.npz", **{name: features[name] for name in sorted(features)[:-1]})


CASES = {
    "unknown key": (
        nothing,
        ["trainer.max_stps=3"],
        "command line: trainer.max_stps: unknown key .value 3.; did you mean trainer.max_steps",
    ),
    "key set twice": (nothing, ["+training.lr=3"], "optim.lr is set twice"),
    "wrong type": (nothing, ["trainer.val_every_steps=often"], "trainer.val_every_steps: often: input should be a valid integer"),
    "TOML syntax error": (misspell_split("[training]", "[training"), [], r"cells_split.toml: .*line \d"),
    "split file missing": (nothing, ["data.split=cells_splt.toml"], "cells_splt.toml.*did you mean cells_split.toml"),
    "data set path missing": (misspell_split("cells.h5ad", "cels.h5ad"), [], "cells_split.toml.*cels.h5ad"),
    "glob without match": (misspell_split("cells.h5ad", "cels*.h5ad"), [], r"cells_split.toml.*cels\*.h5ad"),
    "misspelt cell type": (misspell_split("simulated.type_1", "simulated.type_l"), [], "type_l.*type_1"),
    "misspelt perturbation": (edit_a_perturbation, [], "GENE9999.*its perturbations: GENE0"),
    "misspelt obs column": (nothing, ["data.cell_type_column=celltype"], "cells.h5ad.*celltype.*did you mean cell_type"),
    "misspelt embed key": (nothing, ["data.embed_key=X_stat"], "cells.h5ad.*X_stat.*did you mean X_state"),
    "misspelt control": (nothing, ["data.control=contrl"], "cells.h5ad.*contrl.*did you mean control"),
    "control absent in one file": (second_file(relabel_controls), [], "more.h5ad.*control.*did you mean contrl"),
    "files with different genes": (second_file(lambda cells: cells[:, ::-1].copy()), [], "more.h5ad.*genes?.*cells.h5ad|genes?"),
    "NaN in X": (lambda: change_cells(with_value(np.nan)), [], "cells.h5ad.*value nan in row"),
    "negative in X": (lambda: change_cells(with_value(-1)), [], "cells.h5ad.*value -1 in row"),
    "infinite in X": (lambda: change_cells(with_value(np.inf)), [], "cells.h5ad.*value inf in row"),
    "raw counts": (raw_counts, [], "cells.h5ad.*counts.*log1p"),
    "log1p where counts are said": (nothing, ["data.values=counts"], "cells.h5ad.*counts"),
    "no validation cells": (drop_validation, [], "val.*data.validation"),
    "features of different lengths": (uneven_features, [], "cells_features.npz.*length|cells_features.npz.*width"),
    "features missing": (drop_feature, [], "cells_features.npz.*GENE.*data.missing_features"),
    "truncated file": (truncate, [], "cells.h5ad.*(truncated|HDF5|readable)"),
    "no HDF5": (lambda: Path("cells.h5ad").write_text("cell,gene\n"), [], "cells.h5ad.*HDF5"),
    "folder not writable": (lambda: Path("file").write_text(""), ["output_dir=file"], "cannot be written.*output_dir"),
    "name too long": (nothing, [f"output_dir={'o' * 300}"], "cannot be written: its path is too long.*output_dir"),
    "path too long": (
        nothing,
        [f"output_dir={'/'.join(['deep' * 25] * 42)}"],
        "cannot be written: its path is too long.*output_dir",
    ),
    "split file with a name too long": (nothing, [f"data.split={'s' * 300}.toml"], "sss.toml: .*File name too long"),
    "features with a name too long": (
        nothing,
        [f"data.perturbation_features_file={'f' * 300}.npz"],
        "fff.npz: there is no such file",
    ),
    "set larger than every group": (nothing, ["data.set_size=4096"], "set_size.*4096"),
    "resume without a run": (nothing, ["resume=true"], "no run has begun there"),
    "no GPU": (nothing, ["trainer.device=gpu"], "no CUDA device"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("verb", ["fit", "check"])
def test_bad_input_is_refused_with_one_message_and_leaves_nothing(case, verb, screen, settings, training):
    harm, changes, message = CASES[case]
    if case == "no GPU" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    harm()
    before = files(screen)

    arguments = settings(*(word for word in changes if not word.startswith("+"))) + [w for w in changes if w.startswith("+")]
    done = training(verb, *arguments)

    assert done.code == 2, done.err
    assert done.err.startswith("refused: ")
    assert "Traceback" not in done.err
    assert done.err.count("\n") == 1, done.err
    assert files(screen) == before
    assert re.search(message, done.err), done.err


def test_a_check_that_is_refused_leaves_no_features_file(screen, settings, training):
    words = settings("data.perturbation_features_file=genes.npz", "data.set_size=4096")
    before = files(screen)

    assert training("check", *words, "--write-features", "genes.npz").code == 2
    assert files(screen) == before
    assert training("check", *settings("data.perturbation_features_file=genes.npz"), "--write-features", "genes.npz").code == 0
    assert Path("genes.npz").exists()


LONG = "l" * 300


@pytest.mark.parametrize(
    "words",
    [
        ["fit", f"{LONG}.yaml"],
        ["predict", LONG, "--output", "out.h5ad"],
        ["evaluate", LONG],
        ["report", LONG],
        ["simulate", f"{LONG}.h5ad"],
        ["simulate", f"{LONG}/cells.h5ad"],
        ["check", "{settings}", "--write-features", f"{LONG}.npz"],
    ],
    ids=" ".join,
)
def test_a_path_that_is_too_long_is_refused_by_every_verb(words, screen, settings, training):
    given = settings(f"data.perturbation_features_file={words[-1]}") if words[0] == "check" else []
    before = files(screen)

    done = training(*(word for each in words for word in (given if each == "{settings}" else [each])))

    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert done.err.startswith("refused: ")
    assert files(screen) == before


def test_a_path_that_is_too_long_is_refused_where_a_model_is_used(screen, settings, training):
    training("fit", *settings())
    before = files(screen)

    for words in (
        ["--output", f"{LONG}.h5ad"],
        ["--output", f"{'l' * 248}.h5ad"],  # the name itself would do, that of the half-written file would not
        ["--output", f"{LONG}/out.h5ad"],
        ["--output", "out.h5ad", "--table", f"{LONG}.csv"],
        ["--output", "out.h5ad", f"data.split={LONG}.toml"],
    ):
        done = training("predict", "run", *words)
        assert (done.code, done.err.count("\n")) == (2, 1), done.err
        assert "File name too long" in done.err
    assert files(screen) == before
