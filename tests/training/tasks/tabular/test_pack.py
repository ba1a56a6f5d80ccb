"""From a CSV file to the two `.npz` files, and what of a CSV file is refused."""

import json

import numpy as np
import pytest

from tests.training.tasks.tabular.conftest import REAL
from training.errors import UserError
from training.tasks.tabular.arrays import read_arrays
from training.tasks.tabular.config import ArraysConfig
from training.tasks.tabular.pack import PackedTable, pack_table, split_rows
from training.tasks.tabular.simulation import simulate_table

# Of scikit-learn 1.7.2: train_test_split(np.arange(891), test_size=0.2, random_state=42)
VAL_OF_SCIKIT_LEARN, TRAIN_OF_SCIKIT_LEARN = [709, 439, 840, 720, 39, 290, 300, 333, 208, 136], [331, 733, 382, 704, 813, 118]


@pytest.fixture
def table(tmp_path):
    """Write a CSV file of a header and 25 rows: a number, a category and a target; `rows` replaces rows, `header` the header."""

    def written(rows=None, header="age,port,sick", n=25):
        lines = [f"{20 + 3 * (i % 7)},{'ABC'[i % 3]},{i % 2}" for i in range(n)]
        for number, line in (rows or {}).items():
            lines[number] = line
        path = tmp_path / "table.csv"
        path.write_text("\n".join([header, *lines]) + "\n")
        return path

    return written


def refused(path, *texts, target="sick", **options):
    with pytest.raises(UserError) as refusal:
        pack_table(path, target, path.parent / "out", **options)
    for text in texts:
        assert text in str(refusal.value), str(refusal.value)
    assert not list(path.parent.rglob("*.npz"))
    assert not list(path.parent.rglob("*.partial"))
    return str(refusal.value)


def opened(packed: PackedTable):
    return np.load(packed.train, allow_pickle=False), np.load(packed.val, allow_pickle=False)


def test_the_split_is_that_of_scikit_learn():
    val, train = split_rows(891, 42)

    assert (len(val), len(train)) == (179, 712)
    assert val[:10].tolist() == VAL_OF_SCIKIT_LEARN
    assert train[:6].tolist() == TRAIN_OF_SCIKIT_LEARN
    assert sorted([*val, *train]) == list(range(891))


def test_a_run_reads_what_is_packed(table, tmp_path):
    packed = pack_table(table(), "sick", tmp_path)

    data = read_arrays(ArraysConfig(train=str(packed.train), val=str(packed.val)))

    assert (packed.n_train, packed.n_val) == (len(data.train), len(data.val)) == (20, 5)
    assert data.columns == ("age", "port")
    np.testing.assert_allclose(data.train.x.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(data.train.x.std(axis=0), 1, atol=1e-6)


def test_scales_and_medians_are_those_of_the_training_rows_alone(table, tmp_path):
    val, train = split_rows(25, 42)
    path = table({int(val[0]): "1000,A,1", int(val[1]): ",A,0", int(train[0]): ",B,1"})
    ages = np.array([20.0 + 3 * (i % 7) for i in range(25)])
    seen = np.delete(ages[train], 0)

    train_file, val_file = opened(pack_table(path, "sick", tmp_path))

    median = np.median(seen)
    filled = np.concatenate([[median], seen])
    assert train_file["medians"][0] == median
    np.testing.assert_allclose([train_file["means"][0], train_file["scales"][0]], [filled.mean(), filled.std()])
    np.testing.assert_allclose(val_file["X_val"][:2, 0], (np.array([1000, median]) - filled.mean()) / filled.std())
    assert val_file["row_val"].tolist() == val.tolist()
    for name in ("columns", "medians", "means", "scales", "categories", "classes"):
        np.testing.assert_array_equal(train_file[name], val_file[name])


def test_categories_are_coded_by_the_alphabet_and_gaps_take_the_most_frequent(table, tmp_path):
    _, train = split_rows(25, 42)
    path = table({i: f"30,{'C' if i % 4 else 'A'},{i % 2}" for i in range(25)} | {int(train[3]): "30,,1"})

    file, _ = opened(pack_table(path, "sick", tmp_path))

    assert json.loads(file["categories"][1]) == ["A", "C"]
    assert json.loads(file["categories"][0]) is None
    assert file["medians"][1] == 1  # C
    assert file["X_train"][3, 1] == file["X_train"][:, 1].max()


def test_a_target_of_two_texts_becomes_0_and_1(table, tmp_path):
    packed = pack_table(table({i: f"{i},A,{'yes' if i % 2 else 'no'}" for i in range(25)}), "sick", tmp_path, columns=["age"])

    assert packed.classes == ("no", "yes")
    assert opened(packed)[0]["y_train"].tolist() == [i % 2 for i in split_rows(25, 42)[1]]


def test_the_lessons_columns_are_taken_where_they_are(tmp_path):
    simulate_table(tmp_path / "passengers.csv")

    packed = pack_table(tmp_path / "passengers.csv", "Survived", tmp_path)

    assert [column.name for column in packed.columns] == ["Pclass", "Sex", "Age", "SibSp", "Parch", "Fare", "Embarked"]
    assert packed.columns[1].levels == ("female", "male")
    assert packed.columns[6].levels == ("C", "Q", "S")
    assert "Sex: female 0, male 1" in packed.summary()


@pytest.mark.skipif(not REAL.is_file(), reason="the real table does not lie beside the repository")
def test_the_real_table_becomes_what_the_lesson_makes_of_it_but_for_the_rows_that_scale(tmp_path):
    import pandas as pd

    frame = pd.read_csv(REAL)
    frame["Sex"] = (frame["Sex"] == "male").astype(int)
    frame["Embarked"] = frame["Embarked"].fillna("S").map({"C": 0, "Q": 1, "S": 2})
    val, train = split_rows(len(frame), 42)
    for name in ("Age", "Fare"):
        frame[name] = frame[name].fillna(frame[name].iloc[train].median())
    x = frame[["Pclass", "Sex", "Age", "SibSp", "Parch", "Fare", "Embarked"]].to_numpy(np.float64)
    x = (x - x[train].mean(axis=0)) / x[train].std(axis=0)

    train_file, val_file = opened(pack_table(REAL, "Survived", tmp_path))

    np.testing.assert_allclose(train_file["X_train"], x[train], atol=1e-12)
    np.testing.assert_allclose(val_file["X_val"], x[val], atol=1e-12)
    assert val_file["y_val"].tolist() == frame["Survived"].iloc[val].tolist()


def test_files_that_exist_are_left_alone(table, tmp_path):
    (tmp_path / "val_data.npz").write_bytes(b"mine")

    with pytest.raises(UserError, match=r"val_data\.npz: exists already"):
        pack_table(table(), "sick", tmp_path)

    assert (tmp_path / "val_data.npz").read_bytes() == b"mine"
    assert not (tmp_path / "train_data.npz").exists()


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_an_identifier_must_be_left_out_by_name(table):
    path = table({i: f"{1000 + i},{i / 7},{i % 2}" for i in range(25)}, header="id,weight,sick")

    message = refused(path, "id: looks like an identifier", "--columns weight")

    assert pack_table(path, "sick", path.parent / "out", columns=message.rpartition("--columns ")[2].split(",")).n_val == 5


def test_a_column_of_many_texts_is_an_identifier_and_refused_when_it_is_named(table):
    path = table({i: f"{i % 5},name {i},{i % 2}" for i in range(25)})

    refused(path, "port: looks like an identifier", "--columns age")
    refused(path, "column port has 25 different texts (accepted: at most 20", columns=["age", "port"])


@pytest.mark.parametrize(
    ("rows", "texts"),
    [
        ({3: "2x,A,1"}, ("line 5 (row 4), column age: '2x': no number, as 24 values of this column are",)),
        ({3: "inf,A,1"}, ("line 5 (row 4), column age: 'inf': is infinite",)),
        ({3: "1e999,A,1"}, ("column age: '1e999': is infinite",)),
        ({3: "30,A"}, ("line 5 has 2 values (accepted: 3",)),
        ({3: "30,A,1,9"}, ("line 5 has 4 values",)),
        ({3: "30,A,"}, ("line 5 (row 4), column sick: '': the target has no value",)),
        ({3: "30,A,0.5"}, ("line 5 (row 4), column sick: '0.5': is no class",)),
        ({3: "30,A,2"}, ("line 5 (row 4), column sick: '2': the target has 3 classes: 0, 1, 2 (accepted: two)",)),
        ({i: f"3{i % 7},A,1" for i in range(25)}, ("column sick: '1': is the class of every row",)),
        ({i: f",A,{i % 2}" for i in range(25)}, ("column age: no training row has a value",)),
        ({3: '30,"A,1'}, ("not a readable CSV file",)),
    ],
)
def test_bad_cells_are_refused_with_line_row_and_column(table, rows, texts):
    refused(table(rows), "table.csv: ", *texts)


@pytest.mark.parametrize(
    ("header", "text"),
    [("age,age,sick", "names age twice"), ("age,,sick", "has a column without a name"), ("", "line 1: the header is missing")],
)
def test_bad_headers_are_refused(table, header, text):
    refused(table(header=header), text)


def test_a_file_without_rows_or_of_another_encoding_is_refused(table, tmp_path):
    refused(table(n=0), "has no rows")
    (tmp_path / "table.csv").write_bytes(b"age,sick\n\xff\xfe,1\n")
    refused(tmp_path / "table.csv", "not a readable CSV file", "UTF-8")
    refused(tmp_path / "tabel.csv", "no such file; did you mean table.csv?")


def test_a_folder_that_cannot_be_made_is_refused(table):
    path = table()

    with pytest.raises(UserError, match=r"--output .*table\.csv/out: cannot be made: Not a directory"):
        pack_table(path, "sick", path / "out")


def test_a_byte_order_mark_and_spaces_are_no_part_of_a_name(table, tmp_path):
    path = table(header="\ufeffage, port ,sick")

    assert [column.name for column in pack_table(path, "sick", tmp_path).columns] == ["age", "port"]


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({"target": "sik"}, ("no column 'sik' (accepted: age, port, sick); did you mean sick?",)),
        ({"columns": ["age", "prt"]}, ("no column 'prt'", "did you mean port?")),
        ({"columns": ["age", "sick"]}, ("--columns: sick: is what is to be predicted",)),
        ({"columns": ["age", "age"]}, ("names a column twice",)),
        ({"columns": []}, ("or none",)),
        ({"seed": -1}, ("--seed -1 (accepted: 0 to 2**32 - 1)",)),
        ({"probability": "age"}, ("column age: '20': is no probability",)),
        ({"probability": "port"}, ("column port: 'A': is no probability",)),
    ],
)
def test_bad_choices_are_refused(table, options, texts):
    refused(table(), *texts, **options)


def test_rows_that_all_validate_as_one_class_are_refused(table):
    val, _ = split_rows(25, 42)
    refused(table({i: f"30,A,{int(i in val)}" for i in range(25)}), "the 20 training rows have one class", "--seed")
