"""Tables of what to predict: what is read, and what is refused with its line."""

from dataclasses import replace

import numpy as np
import pytest

from training.cells import Condition
from training.errors import UserError
from training.tasks.perturbation.evaluation.requests import Request, requests_of_split, requests_of_table

KNOWN = ("KLF1", "TGFBR2", "CEBPA", "KLF1+TGFBR2", "control")
HEADER = "perturbation,cell_type,n_cells\n"


@pytest.fixture
def screen(make_screen):
    cells = np.zeros((3, 2))
    return make_screen({
        ("norman", "k562", "control", "train"): cells,
        ("norman", "k562", "KLF1", "test"): cells,
        ("norman", "k562", "CEBPA", "test"): cells[:2],
        ("replogle", "rpe1", "control", "train"): cells,
        ("replogle", "k562", "control", "train"): cells,
        ("replogle", "rpe1", "KLF1", "val"): cells,
    })  # fmt: skip


@pytest.fixture
def read(screen, tmp_path):
    def read(text, name="ask.csv"):
        path = tmp_path / name
        path.write_text(text)
        return requests_of_table(path, screen, KNOWN)

    return read


def test_a_split_asks_for_as_many_cells_as_it_has(screen):
    assert requests_of_split(screen, "test") == (
        Request(Condition("norman", "k562", "CEBPA"), 2),
        Request(Condition("norman", "k562", "KLF1"), 3),
    )
    with pytest.raises(UserError, match=r"screen.toml: no perturbed cells are in split train \(splits with some: val, test\)"):
        requests_of_split(screen, "train")


@pytest.mark.parametrize("name", ["ask.csv", "ask.tsv"])
def test_a_table_in_any_order_of_columns(read, name):
    text = "\ufeffn_cells, cell_type ,perturbation\n5,rpe1, KLF1\n\n1000000,rpe1,KLF1+TGFBR2\n"

    requests = read(text if name == "ask.csv" else text.replace(",", "\t"), name)

    assert requests == (
        Request(Condition("replogle", "rpe1", "KLF1"), 5),
        Request(Condition("replogle", "rpe1", "KLF1+TGFBR2"), 1_000_000),
    )


WANTED = (
    Request(Condition("replogle", "rpe1", "KLF1"), 5),
    Request(Condition("replogle", "rpe1", "KLF1+TGFBR2"), 7),
)


@pytest.mark.parametrize("name", ["ask.csv", "ask.tsv"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("header", ["perturbation,cell_type,n_cells", "gene,cell_line,n_cells", "gene,cell_type,n_cells"])
@pytest.mark.parametrize("index", [False, True])
def test_a_table_as_a_spreadsheet_or_pandas_writes_it(screen, tmp_path, name, separator, header, index):
    """With the run's own names of the columns, its separator, and an index."""
    lines = [header, "KLF1,rpe1,5", "KLF1+TGFBR2,rpe1,7"]
    if index:
        lines = [f",{lines[0]}", *(f"{i},{line}" for i, line in enumerate(lines[1:]))]
    path = tmp_path / name
    path.write_text("\ufeff" + "\r\n".join(lines).replace(",", separator), newline="")
    config = screen.config.model_copy(update={"perturbation_column": "gene", "cell_type_column": "cell_line"})
    assert requests_of_table(path, replace(screen, config=config), KNOWN) == WANTED


def test_columns_under_two_names_and_no_name(screen, tmp_path):
    config = screen.config.model_copy(update={"perturbation_column": "gene", "cell_type_column": "cell_line"})
    path = tmp_path / "ask.csv"
    for text, message in (
        ("gene;perturbation;cell_line;n_cells\n", r"ask.csv:1: column perturbation stands there 2 times, as gene, perturbation$"),
        ("cell_line;n_cells\n", r"ask.csv:1: no column perturbation or gene \(columns: cell_line, n_cells; needed: pert"),
        ("gene;cell_lin;n_cells\n", r"ask.csv:1: unknown column 'cell_lin'; did you mean cell_line or"),
        ("gene;;n_cells\n", r"ask.csv:1: unknown column ''"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            requests_of_table(path, replace(screen, config=config), KNOWN)


@pytest.mark.parametrize(
    ("asked", "known"),
    [("TGFBR2+KLF1", "KLF1+TGFBR2"), ("KLF1+control", "KLF1"), ("control+KLF1", "KLF1"), ("KLF1 + TGFBR2", "KLF1+TGFBR2")],
)
def test_another_name_of_a_known_perturbation_is_taken_for_it_and_logged(read, caplog, asked, known):
    caplog.set_level("INFO")

    assert read(HEADER + f"{asked},rpe1,5\n") == (Request(Condition("replogle", "rpe1", known), 5),)
    assert f"ask.csv:2: {asked} is taken for {known}, which names the same perturbations" in caplog.text
    with pytest.raises(UserError, match=r"ask.csv:3: .*: line 2 asks for the same condition"):
        read(HEADER + f"{asked},rpe1,5\n{known},rpe1,5\n")


def test_a_known_name_is_itself_and_an_unclear_one_is_refused(screen, tmp_path, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "ask.csv"
    path.write_text(HEADER + "B+A,rpe1,5\n")
    assert requests_of_table(path, screen, ("A+B", "B+A"))[0].condition.perturbation == "B+A"
    assert "taken for" not in caplog.text
    path.write_text(HEADER + "A+control+B,rpe1,5\n")
    with pytest.raises(UserError, match=r"ask.csv:2: unknown perturbation 'A\+control\+B'"):
        requests_of_table(path, screen, ("A+B", "B+A"))
    path.write_text(HEADER + "control+control,rpe1,5\n")
    with pytest.raises(UserError, match=r"unknown perturbation 'control\+control'"):
        requests_of_table(path, screen, ("A", "control"))


def test_a_data_set_is_named_where_it_is_needed(read):
    header = "perturbation,cell_type,n_cells,dataset\n"

    assert read(header + "KLF1,k562,5,norman\nKLF1,rpe1,5,\n")[0].condition.dataset == "norman"
    with pytest.raises(
        UserError, match=r"ask.csv:2: cell_type k562 is in the data sets norman, replogle: say which in a column dataset"
    ):
        read(HEADER + "KLF1,k562,5\n")
    with pytest.raises(UserError, match=r"ask.csv:2: unknown dataset of k562 'norma'; did you mean norman\?"):
        read(header + "KLF1,k562,5,norma\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "KLF1,rpe1,5\nTGFBR3,rpe1,5\n", r"ask.csv:3: unknown perturbation 'TGFBR3'; did you mean TGFBR2\?"),
        (HEADER + "KLF1,rpe-l,5\n", r"ask.csv:2: unknown cell_type 'rpe-l'; did you mean rpe1\? \(accepted: k562, rpe1\)"),
        (HEADER + "KLF1,hepg2,5\n", r"ask.csv:2: unknown cell_type 'hepg2' \(accepted: k562, rpe1\)"),
        (HEADER + "KLF1,rpe1,0\n", r"ask.csv:2: n_cells '0': a whole number of at least 1"),
        (HEADER + "KLF1,rpe1,2.5\n", r"ask.csv:2: n_cells '2.5': a whole number"),
        (HEADER + "KLF1,rpe1,20000000000\n", r"ask.csv:2: n_cells '20000000000': .* at most 10,000,000"),
        (HEADER + f"KLF1,rpe1,{'9' * 5000}\n", r"ask.csv:2: n_cells '9{40}'"),
        (HEADER + "KLF1,rpe1,-3\n", r"ask.csv:2: n_cells '-3'"),
        (HEADER + "KLF1,rpe1\n", r"ask.csv:2: 2 values \(KLF1, rpe1\) for 3 columns"),
        (HEADER + "KLF1,rpe1,5\nCEBPA,rpe1,5\nKLF1,rpe1,7\n", r"ask.csv:4: KLF1 in rpe1: line 2 asks for the same condition"),
        (HEADER, r"ask.csv: no rows below the header"),
        ("", r"ask.csv:1: no column perturbation \(columns: none; needed: perturbation, cell_type, n_cells\)"),
        ("perturbation,cell_type\n", r"ask.csv:1: no column n_cells \(columns: perturbation, cell_type; needed"),
        ("perturbation,cell_type,num_cells\n", r"ask.csv:1: unknown column 'num_cells'; did you mean n_cells\?"),
        ("perturbation,cell_type,n_cells,n_cells\n", r"ask.csv:1: column n_cells stands there 2 times"),
        ('perturbation,cell_type,n_cells\n"KLF1,rpe1,5\n', r"ask.csv: not a readable table"),
    ],
)  # fmt: skip
def test_what_cannot_be_predicted_is_refused_with_its_line(read, text, message):
    with pytest.raises(UserError, match=message):
        read(text)


def test_files_that_are_no_tables(screen, tmp_path):
    with pytest.raises(UserError, match=r"ask.xlsx: a table of what to predict ends in .csv or .tsv"):
        requests_of_table(tmp_path / "ask.xlsx", screen, KNOWN)
    with pytest.raises(UserError, match=r"ask.csv: no such table"):
        requests_of_table(tmp_path / "ask.csv", screen, KNOWN)
    (tmp_path / "ask.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match=r"ask.csv: not a readable table"):
        requests_of_table(tmp_path / "ask.csv", screen, KNOWN)
