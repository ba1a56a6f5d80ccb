"""Patterns of a split file, as the laptop reads them without the data's own code."""

import os
from pathlib import Path

import pytest

from bootstrap.data import _folder, _here, alternatives, matching
from training.data.splits import _files

PATTERNS = (
    "d", "d/", "d/*.h5ad", "d/[ab]*.h5ad", "d/[!a].h5", "d/?.h5ad", "d/**/*.h5ad", "**/*.h5", "d/e*", "d/{a,b}.h5ad", "d/a.h5ad",
    "*/e/*.h5ad", "d/.hidden.h5ad", "./d/a.h5ad", "d/a+b.h5ad",
)  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_names_here_what_the_split_file_names(tmp_path, monkeypatch, pattern):
    monkeypatch.chdir(tmp_path)
    for name in (
        "d/a.h5ad",
        "d/b.h5ad",
        "d/b.h5",
        "d/a+b.h5ad",
        "d/.hidden.h5ad",
        "d/e/c.h5ad",
        "d/e/f/g.h5ad",
        "d/e/x.h5",
        "h.h5",
        "d/n.txt",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()

    expected = {os.path.normpath(file) for each in alternatives(pattern) for file in _files(Path("s.toml"), "screen", each)}
    plain = [os.path.normpath(each) for each in alternatives(pattern)]
    found = {file for each in plain for file in matching(each, _here(Path(), _folder(each)))}

    assert found == {file for file in expected if _folder(plain[0]) or "/" not in file}  # the project itself is not walked through


@pytest.mark.parametrize("pattern", ["data/[z-a].h5ad", "data/[!]].h5ad"])
def test_a_pattern_that_is_none_is_left_to_training_check(pattern):
    assert matching(pattern, {"data/a.h5ad": (1, 1)}) == {}
