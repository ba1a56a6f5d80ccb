import re
from dataclasses import replace
from pathlib import Path

import pytest

from training.cells import Condition
from training.config import CellSetsConfig
from training.data.h5ad import H5adFile
from training.data.splits import CellType, HeldOut, assign_splits, find_files, read_split_file
from training.data.table import SPLITS, UNUSED, read_table
from training.errors import UserError


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def data(here, write_h5ad) -> Path:
    """one.h5ad: cell types A.1 and B; two.h5ad: B and C; perturbations P1, P2, P3 of each, 10 cells a condition."""
    write_h5ad(here / "one.h5ad", cell_types=("A.1", "B"))
    write_h5ad(here / "two.h5ad", cell_types=("B", "C"), seed=1)
    return here


def parse(text):
    Path("split.toml").write_text(text)
    return read_split_file(Path("split.toml"))


def splits(text):
    """Condition, control included -> the split of its cells."""
    parsed = parse(text)
    files = {name: [H5adFile(path) for path in paths] for name, paths in find_files(parsed).items()}
    table = read_table(files, CellSetsConfig(split="split.toml", control="control"))
    assigned = assign_splits(parsed, table)
    found: dict[Condition, set[str]] = {}
    for cell in range(table.n_cells):
        name = "unused" if assigned[cell] == UNUSED else SPLITS[assigned[cell]]
        found.setdefault(table.condition(cell), set()).add(name)
    assert all(len(names) == 1 for names in found.values())
    assert len(assigned) == 80 * len([path for paths in find_files(parsed).values() for path in paths])
    return {(c.dataset, c.cell_type, c.perturbation): names.pop() for c, names in found.items()}


ALL = ("control", "P1", "P2", "P3")
PERTURBED = ALL[1:]


def test_a_training_data_set_is_trained_on_whole(data):
    assert set(splits('datasets = {d = "one.h5ad"}\n[training]\nd = "train"').values()) == {"train"}


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_zero_shot_cell_type_goes_to_its_split_and_its_controls_to_training(data, split):
    found = splits(f'[datasets]\nd = "one.h5ad"\n[training]\nd = "train"\n[zeroshot]\n"d.A.1" = "{split}"')
    assert {found["d", "A.1", p] for p in PERTURBED} == {split}
    assert found["d", "A.1", "control"] == "train"
    assert {found["d", "B", p] for p in ALL} == {"train"}


def test_a_few_shot_cell_type_holds_out_the_perturbations_named_and_is_trained_on_the_others(data):
    found = splits('[datasets]\nd = "one.h5ad"\n[training]\nd = "train"\n[fewshot."d.B"]\nval = ["P1"]\ntest = ["P3"]')
    assert {p: found["d", "B", p] for p in ALL} == {"control": "train", "P1": "val", "P2": "train", "P3": "test"}
    assert {found["d", "A.1", p] for p in ALL} == {"train"}


def test_what_no_table_names_is_unused_but_a_few_shot_cell_type_is_trained_on_without_training(data):
    found = splits('[datasets]\nd = "one.h5ad"\n[fewshot."d.B"]\nval = []\ntest = ["P3"]')
    assert {found["d", "A.1", p] for p in ALL} == {"unused"}
    assert {p: found["d", "B", p] for p in ALL} == {"control": "train", "P1": "train", "P2": "train", "P3": "test"}


def test_the_same_cell_type_of_two_data_sets_may_be_in_two_splits(data):
    found = splits('[datasets]\nd = "one.h5ad"\ne = "two.h5ad"\n[training]\nd = "train"\n[zeroshot]\n"e.B" = "test"')
    assert found["d", "B", "P1"] == "train"
    assert found["e", "B", "P1"] == "test"
    assert found["e", "C", "P1"] == "unused"


def test_the_data_set_of_a_key_is_the_longest_name_that_fits(here):
    parsed = parse(
        '[datasets]\na = "x"\n"a.b" = "y"\n[training]\na = "train"\n[zeroshot]\n"a.b.c.d" = "test"\n[fewshot."a.c"]\ntest = ["P"]'
    )
    assert parsed.zeroshot == {CellType("a.b", "c.d"): "test"}
    assert parsed.fewshot == {CellType("a", "c"): HeldOut(val=(), test=("P",))}


def touch(*paths):
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("a/one.h5ad", ["a/one.h5ad"]),
        ("a", ["a/one.h5ad", "a/two.h5"]),
        ("a/", ["a/one.h5ad", "a/two.h5"]),
        ("*/*.h5ad", ["a/one.h5ad", "b/one.h5ad", "b/three.h5ad"]),
        ("*", ["a/one.h5ad", "a/two.h5", "b/one.h5ad", "b/three.h5ad"]),
        ("b/{one,three}.h5ad", ["b/one.h5ad", "b/three.h5ad"]),
        ("{a,b}/{ one , three,one}.h5ad", None),
        ("{a/two.h5,b/*.h5ad}", ["a/two.h5", "b/one.h5ad", "b/three.h5ad"]),
        ("b/o[mn]?.h5ad", ["b/one.h5ad"]),
        ("{a,a/*.h5ad}", ["a/one.h5ad", "a/two.h5"]),
    ],
)
@pytest.mark.parametrize("absolute", [False, True])
def test_a_data_set_is_a_file_a_folder_or_a_pattern(here, pattern, found, absolute):
    touch("a/one.h5ad", "a/two.h5", "a/notes.txt", "b/one.h5ad", "b/three.h5ad")
    parsed = parse('[datasets]\nd = "x"\n[training]\nd = "train"')
    parsed = replace(parsed, datasets={"d": f"{here}/{pattern}" if absolute and not pattern.startswith("{") else pattern})
    if found is None:
        with pytest.raises(UserError, match=r"a/three\.h5ad: no such file or folder"):
            find_files(parsed)
    else:
        assert [path.resolve() for path in find_files(parsed)["d"]] == [here / name for name in found]


DATASETS = '[datasets]\nd = "one.h5ad"\ne = "two.h5ad"\n'
BOTH = DATASETS + '[training]\nd = "train"\ne = "train"\n'

WHOLE = {
    "not TOML": ('[datasets]\nd = "one.h5ad\n', r'not TOML: .*line 2.*: d = "one.h5ad'),
    "a key twice": ('[datasets]\nd = "x"\nd = "two.h5ad"\n', r"not TOML: Cannot overwrite a value \(at line 3.*two.h5ad"),
    "a table twice": ('[datasets]\nd = "x"\n[datasets]\n', r"not TOML: Cannot declare .*datasets.* twice \(at line 3"),
    "thousands of brackets": ("a = " + "[" * 5000, r"not TOML: brackets are nested too deeply"),
    "a number of thousands of digits": ("a = " + "1" * 5000, r"not TOML: .*digits"),
    "unknown table": (DATASETS + "[trainning]\n", r"\[trainning\]: no such table; did you mean training\? \(accepted: datasets,"),
    "a word where a table is": ('training = "d"\n' + DATASETS, r"training: is a table"),
    "no data": ("[training]\n", r"\[datasets\]: names no data"),
    "a path that is no text": ("[datasets]\nd = 3\n", r"\[datasets\] d: 3 is int, not text"),
    "training without data": (DATASETS + '[training]\nf = "train"\n', r"\[training\] f: no such data set in \[datasets\].*d, e"),
    "training on val": (DATASETS + '[training]\nd = "val"\n', r"\[training\] d: 'val'; the one accepted value is \"train\""),
    "data nobody uses": (DATASETS + '[training]\nd = "train"\n', r"\[datasets\] e: is used nowhere"),
}
HELD_OUT = {
    "zeroshot of no split": ('[zeroshot]\n"d.B" = "tset"\n', r'\[zeroshot\] "d.B": \'tset\'; did you mean test'),
    "zeroshot of no data": ('[zeroshot]\n"ee.B" = "test"\n', r'\[zeroshot\] "ee.B": is no "DATASET.CELL_TYPE".*did you mean e'),
    "zeroshot of no cell type": ('[zeroshot]\n"d." = "test"\n', r'\[zeroshot\] "d.": is no "DATASET.CELL_TYPE"'),
    "zeroshot unquoted": ('[zeroshot]\nd.B = "test"\n', r'\[zeroshot\] d: is cut at a dot; put the name in quotes: "d.B"'),
    "zeroshot and fewshot": (
        '[zeroshot]\n"d.B" = "val"\n[fewshot."d.B"]\nval = ["P"]',
        r'"d.B": is in \[zeroshot\] and in \[fewshot\]',
    ),
    "fewshot unquoted": (
        '[fewshot.d.B]\ntest = ["P1"]\n',
        r'\[fewshot\] d: is cut at a dot; put the name in quotes: \[fewshot."d.B"\]',
    ),
    "fewshot unquoted with two dots": ('[fewshot.d.A.1]\ntest = ["P1"]\n', r'put the name in quotes: \[fewshot."d.A.1"\]'),
    "zeroshot unquoted with two dots": ('[zeroshot]\nd.A.1 = "test"\n', r'put the name in quotes: "d.A.1"'),
    "fewshot of no data": ('[fewshot.d]\ntest = ["P1"]\n', r'\[fewshot\] "d": is no "DATASET.CELL_TYPE", in quotes'),
    "fewshot cut": ('[fewshot."d.B".C]\ntest = ["P1"]\n', r'is cut at a dot; put the name in quotes: \[fewshot."d.B.C"\]'),
    "fewshot as a word": ('[fewshot]\n"d.B" = "test"\n', r'\[fewshot."d.B"\]: is a table'),
    "fewshot key": ('[fewshot."d.B"]\ntets = ["P1"]\n', r'\[fewshot."d.B"\] tets: no such key; did you mean test'),
    "fewshot train": ('[fewshot."d.B"]\ntrain = ["P1"]\n', r"train: what is in neither val nor test is trained on"),
    "fewshot list": ('[fewshot."d.B"]\ntest = "P1"\n', r"test: 'P1' is not a list of perturbations in quotes"),
    "fewshot numbers": ('[fewshot."d.B"]\ntest = [1]\n', r"test: \[1\] is not a list"),
    "fewshot empty": ('[fewshot."d.B"]\nval = []\n', r'\[fewshot."d.B"\]: holds nothing out'),
    "in val and in test": ('[fewshot."d.B"]\nval = ["P1", "P2"]\ntest = ["P2"]\n', r'\[fewshot."d.B"\]: P2: in val and in test'),
}
FORM = WHOLE | {case: (BOTH + text, message) for case, (text, message) in HELD_OUT.items()}


@pytest.mark.parametrize("case", FORM)
def test_a_malformed_split_file_is_refused(here, case):
    text, message = FORM[case]
    with pytest.raises(UserError, match=r"^split\.toml: .*" + message):
        parse(text)


MATCH = {
    "cell type": ('[zeroshot]\n"d.A1" = "test"', r"\[zeroshot\] \"d.A1\": no cell of d has the cell type 'A1'; did you mean A.1\?"),
    "cell type of the other data": ('[zeroshot]\n"d.C" = "test"', r"no cell of d has the cell type 'C' \(A.1, B\)"),
    "few-shot cell type": ('[fewshot."d.b2"]\ntest = ["P1"]', r"\[fewshot.\"d.b2\"\]: no cell of d has the cell type 'b2'"),
    "perturbation": ('[fewshot."d.B"]\ntest = ["P1", "PP2"]', r"\[fewshot.\"d.B\"\] test: no cell .* 'PP2'; did you mean P2"),
    "control held out": ('[fewshot."d.B"]\nval = ["control"]', r"val: 'control' is the control"),
}


@pytest.mark.parametrize("case", MATCH)
def test_a_name_that_matches_no_cell_is_refused(data, case):
    text, message = MATCH[case]
    with pytest.raises(UserError, match=message):
        splits(BOTH + text)


def test_a_zero_shot_cell_type_of_controls_alone_is_refused(here, write_h5ad):
    write_h5ad(here / "one.h5ad", perturbations=())
    with pytest.raises(UserError, match=r'\[zeroshot\] "d.A": has no cells but controls'):
        splits('[datasets]\nd = "one.h5ad"\n[zeroshot]\n"d.A" = "test"')


PATHS = {
    "missing file": (
        "on.h5ad",
        r"\[datasets\] d: on.h5ad: no such file or folder; did you mean one.h5ad.*; relative paths start at /",
    ),
    "missing folder": ("cells/one.h5ad", r"cells/one.h5ad: no such file or folder; cells is no folder"),
    "pattern": ("tw*.h5", r"tw\*.h5: matches no .h5 or .h5ad file"),
    "pattern without suffix": ("on*", r"on\*: matches no folder with .h5 or .h5ad files"),
    "one of two": ("{one,three}.h5ad", r"three.h5ad: no such file"),
    "empty folder": ("empty", r"empty: no .h5 or .h5ad file in this folder \(it holds: notes.txt\)"),
    "shared file": ("./two.h5ad", r"\[datasets\] e: two.h5ad belongs to d too"),
}


@pytest.mark.parametrize("case", PATHS)
def test_a_path_that_matches_no_file_is_refused(here, case):
    touch("one.h5ad", "two.h5ad", "empty/notes.txt")
    path, message = PATHS[case]
    with pytest.raises(UserError, match=message):
        find_files(parse(BOTH.replace("one.h5ad", path)))


def test_a_missing_split_file_is_refused_with_the_nearest(here):
    touch("split.toml")
    with pytest.raises(UserError, match=r"splt.toml: no such split file; did you mean split.toml\?; relative paths start at .*/.*"):
        read_split_file(Path("splt.toml"))
    with pytest.raises(UserError, match=rf"relative paths start at the working directory {here} \(data.split\)"):
        read_split_file(Path("other.toml"))
    with pytest.raises(UserError, match=r"other.toml: no such split file \(data.split\)"):
        read_split_file(here / "other.toml")
    with pytest.raises(UserError, match=r"not a readable split file: .*directory"):
        read_split_file(here)


@pytest.mark.filterwarnings("ignore")  # zarr's, of formats to come
@pytest.mark.parametrize("named", ["screen.zarr", "screen.zarr/", "*.zarr", "folder"])
def test_a_zarr_store_is_written_as_h5ad_by_the_line_that_is_offered(here, write_h5ad, follow, named):
    (here / "folder").mkdir()
    adata = write_h5ad(here / "one.h5ad")
    adata.write_zarr(here / "folder" / "screen.zarr" if named == "folder" else here / "screen.zarr")
    (here / "one.h5ad").unlink()
    split = parse(f'[datasets]\nd = "{named}"\n[training]\nd = "train"\n')
    with pytest.raises(
        UserError, match=rf"\[datasets\] d: {re.escape(named)}: this is a zarr store, and .h5 or .h5ad is"
    ) as refused:
        find_files(split)
    follow(refused.value)
    name = str(refused.value).rpartition("; then name ")[2]
    assert name == ("folder/screen.h5ad" if named == "folder" else "screen.h5ad")
    split = parse(f'[datasets]\nd = "{name}"\n[training]\nd = "train"\n')
    assert H5adFile(find_files(split)["d"][0]).labels("perturbation").names == ("P1", "P2", "P3", "control")


def test_a_split_file_may_begin_with_a_byte_order_mark(here):
    Path("split.toml").write_bytes(b'\xef\xbb\xbf[datasets]\nd = "x"\n[training]\nd = "train"\n')
    assert read_split_file(Path("split.toml")).training == ("d",)


def test_links_that_lead_nowhere_are_named_with_their_target(here):
    Path("split.toml").symlink_to("gone.toml")
    with pytest.raises(UserError, match=rf"^split.toml: is a link to {here}/gone.toml, which does not exist \(data.split\)"):
        read_split_file(Path("split.toml"))
    Path("split.toml").unlink()
    Path("one.h5ad").symlink_to("gone.h5ad")
    Path("two.h5ad").symlink_to("two.h5ad")
    with pytest.raises(UserError, match=rf"\[datasets\] d: one.h5ad: is a link to {here}/gone.h5ad, which does not exist$"):
        find_files(parse(BOTH))
    with pytest.raises(UserError, match=rf"\[datasets\] d: two.h5ad: is a link to {here}/two.h5ad, which leads back to itself$"):
        find_files(parse('datasets = {d = "two.h5ad"}\n[training]\nd = "train"'))
    (found,) = find_files(parse('datasets = {d = "{*.h5ad,*.h5ad}"}\n[training]\nd = "train"')).values()
    assert {path.name for path in found} == {"one.h5ad", "two.h5ad"}


@pytest.mark.parametrize("pattern", ["~/cells/one.h5ad", "~/cells", "{~/cells/*.h5ad}"])
def test_a_tilde_is_the_home_folder(here, monkeypatch, pattern):
    monkeypatch.setenv("HOME", str(here / "home"))
    touch("home/cells/one.h5ad")
    (found,) = find_files(parse(f'datasets = {{d = "{pattern}"}}\n[training]\nd = "train"')).values()
    assert found == (here / "home/cells/one.h5ad",)


def test_a_split_file_that_is_no_text_is_refused(here):
    Path("split.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"split.toml: not a readable split file: .*utf-8"):
        read_split_file(Path("split.toml"))


def test_the_example_is_a_split_file():
    parsed = read_split_file(Path(__file__).parents[3] / "configs" / "splits" / "example.toml")
    assert parsed.zeroshot == {CellType("replogle", "hepg2"): "test"}
    assert parsed.fewshot == {CellType("replogle", "jurkat"): HeldOut(val=("AARS1", "NUP107"), test=("RPUSD4", "SMG5"))}
