"""What is read from `.npz` files, and what is refused with its file, array and element."""

import pickle
import re

import numpy as np
import pytest

from tests.tools.gcs_server import gcs_served
from tests.training.tasks.tabular.conftest import arrays
from training.errors import UserError
from training.tasks.tabular.arrays import TabularData, read_arrays
from training.tasks.tabular.config import ArraysConfig


def read(train, val=None) -> TabularData:
    return read_arrays(ArraysConfig(train=str(train), val=str(val or train)))


def refused(train, *texts, val=None) -> str:
    with pytest.raises(UserError) as refusal:
        read(train, val)
    message = str(refusal.value)
    for text in texts:
        assert text in message, message
    return message


def test_one_file_or_two_are_the_same(write):
    both, kept = write(), arrays()
    train = write("train.npz", X_val=None, y_val=None)
    val = write("val.npz", X_train=None, y_train=None)

    one, two = read(both), read(train, val)

    np.testing.assert_array_equal(one.train.x, kept["X_train"].astype(np.float32))
    np.testing.assert_array_equal(two.val.y, kept["y_val"])
    assert [str(one.train.x.dtype), str(one.train.y.dtype)] == ["float32", "int64"]
    assert one.fingerprint == two.fingerprint
    assert "3 columns" in one.summary()
    assert "train: 40 rows" in one.summary()


def test_the_fingerprint_changes_with_any_value(write):
    known = {read(write()).fingerprint}
    for name in ("X_train", "y_train", "X_val", "y_val"):
        changed = arrays()[name].copy()
        changed[0] = 1 - changed[0]
        known.add(read(write(**{name: changed})).fingerprint)

    assert len(known) == 5


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, bool], ids=str)
def test_labels_may_be_of_any_type_that_holds_whole_numbers_and_stand_in_a_column(write, dtype):
    read_labels = read(write(y_train=arrays()["y_train"].astype(dtype)[:, None])).train.y

    np.testing.assert_array_equal(read_labels, arrays()["y_train"])


def test_a_true_probability_and_names_of_columns_come_along(write):
    data = read(write(probability_val=np.linspace(0, 1, 20), columns=np.array(["a", "b", "c"])))

    assert data.columns == ("a", "b", "c")
    assert data.train.probability is None
    assert data.val.probability is not None
    assert data.val.probability[-1] == 1


# --- no file, or no .npz ------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_named_with_the_nearest(write, tmp_path):
    write("train_data.npz")

    refused(tmp_path / "train_dat.npz", "data.train: ", "no such file; did you mean train_data.npz?")


def test_a_folder_is_no_file(tmp_path):
    refused(tmp_path, "data.train: ", "cannot be read", "accepted: a .npz file")


NO_NPZ = {
    "empty": b"", "cut zip": b"PK\x03\x04 no zip", "csv": b"a,b\n1,2\n", "npy": b"\x93NUMPY\x01\x00",
    "pickle": pickle.dumps([1, 2]),
}  # fmt: skip


@pytest.mark.parametrize("content", NO_NPZ.values(), ids=NO_NPZ)
def test_what_is_no_npz_is_refused_with_the_way_from_a_table(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)

    refused(tmp_path / "x.npz", "data.train: ", "x.npz: is no .npz file", "training pack-table CSV --target COLUMN")


def test_a_damaged_array_is_named(write):
    path = write()
    content = bytearray(path.read_bytes())
    start = content.index(b"X_train.npy") + 300
    content[start : start + 8] = b"\xff" * 8
    path.write_bytes(content)

    refused(path, "X_train is damaged", "write the file again")


def test_a_cut_file_is_refused(write):
    path = write()
    path.write_bytes(path.read_bytes()[:-100])

    refused(path, "is no .npz file")


def test_python_objects_are_never_loaded(write):
    refused(
        write(X_train=np.array([[object()]], dtype=object)), "X_train holds Python objects", "X_train=X_train.astype('float32')"
    )


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_with_any_byte_changed_is_read_or_refused(tmp_path, save):
    save(tmp_path / "x.npz", columns=np.array(["a", "b", "c"]), **arrays())
    good, rng = (tmp_path / "x.npz").read_bytes(), np.random.default_rng(0)
    n_refused = 0
    for place, value in zip(rng.integers(len(good), size=150), rng.bytes(150), strict=True):
        (tmp_path / "x.npz").write_bytes(good[:place] + bytes([value]) + good[place + 1 :])
        try:
            read(tmp_path / "x.npz")
        except UserError:
            n_refused += 1

    assert n_refused > 100


# --- arrays that are missing or of the wrong shape -------------------------------------------------------------------------


def test_a_missing_array_is_named_with_what_there_is_and_the_nearest(write):
    message = refused(write(X_train=None, x_train=np.zeros((2, 2))), "no array X_train", "did you mean x_train?")

    assert "y_val" in message


def test_the_files_of_train_and_val_the_wrong_way_round_are_seen(write):
    train, val = write("train.npz", X_val=None, y_val=None), write("val.npz", X_train=None, y_train=None)

    refused(val, "val.npz: no array X_train (it has: X_val, y_val", val=train)


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"X_train": np.zeros(5)}, ("X_train has shape (5,)", "X_train.reshape(-1, 1)")),
        ({"X_train": np.zeros((5, 2, 2))}, ("X_train has shape (5, 2, 2)", "two dimensions")),
        ({"X_train": np.zeros((0, 3))}, ("X_train is empty",)),
        ({"X_val": np.zeros((20, 0))}, ("X_val is empty",)),
        ({"y_val": np.zeros(0)}, ("y_val is empty",)),
        ({"y_train": np.eye(2)[np.zeros(40, int)]}, ("y_train has shape (40, 2)", "y_train.argmax(axis=1)")),
        ({"y_train": np.array(1)}, ("y_train has shape ()",)),
        ({"y_train": np.array([0, 1] * 19)}, ("y_train has 38 labels and X_train 40 rows",)),
        ({"X_val": np.zeros((20, 4))}, ("X_val has 4 columns (accepted: 3, as X_train of",)),
        ({"X_train": np.full((40, 3), "a")}, ("X_train is of type <U1 (accepted: numbers)",)),
        ({"y_train": np.array(["no", "yes"] * 20)}, ("y_train is of type <U3",)),
        ({"X_train": np.ones((40, 3), complex)}, ("X_train is of type complex128",)),
    ],
)
def test_shapes_and_types_are_refused(write, changes, texts):
    refused(write(**changes), "both.npz: ", *texts)


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_what_is_not_finite_in_32_bit_is_refused_with_row_and_column(write, value):
    x = arrays()["X_train"]
    x[7, 2] = x[9, 0] = value

    message = refused(write(X_train=x), "X_train[7, 2] is ", "2 values of 2 rows")

    assert str(value) in message


def test_a_column_is_named_where_its_name_is_known(write):
    x = arrays()["X_val"]
    x[3, 1] = np.nan

    refused(write(X_val=x, columns=np.array(["age", "fare", "class"])), "X_val[3, 1] (fare) is nan")


@pytest.mark.parametrize(
    ("labels", "texts"),
    [
        ([0, 1] * 19 + [0, 0.5], ("y_train[39] is 0.5, which is no class", "1 labels are neither")),
        ([0, 1] * 19 + [0, np.nan], ("y_train[39] is nan", "accepted: 0 and 1")),
        ([1, 2] * 20, ("y_train[1] is 2", "write y_train = (y_train == 2).astype(int)")),
        ([-1, 1] * 20, ("y_train[0] is -1", "write y_train = (y_train == 1).astype(int)")),
        ([0, 1, 2, 3] * 10, ("y_train[2] is 2", "accepted: 0 and 1, the two classes")),
    ],
)
def test_labels_that_are_no_classes_are_refused_with_their_row(write, labels, texts):
    refused(write(y_train=np.array(labels)), *texts)


def test_the_remedy_for_other_labels_works(write):
    y = np.array([1, 2] * 20)
    message = refused(write(y_train=y))

    (expression,) = re.findall(r"write y_train = (.*)$", message)
    mended = eval(expression, {"y_train": y})

    assert read(write(y_train=mended)).train.y.tolist() == [0, 1] * 20


def test_one_class_is_refused(write):
    refused(write(y_train=np.ones(40, int)), "y_train: every label is 1 (accepted: both 0 and 1 occur)")


def test_a_label_that_training_does_not_have_is_refused(write):
    refused(write(y_val=np.array([0, 1] * 9 + [0, 2])), "y_val[19] is 2 (accepted: 0 and 1")


@pytest.mark.parametrize(
    ("probability", "text"), [(np.full(19, 0.5), "has shape (19,)"), (np.full(20, 1.5), "probability_val[0] is 1.5")]
)
def test_a_true_probability_that_is_none_is_refused(write, probability, text):
    refused(write(probability_val=probability), text)


def test_columns_of_other_names_are_refused(write):
    train, val = write("train.npz", columns=np.array(["a", "b", "c"])), write("val.npz", columns=np.array(["a", "c", "b"]))

    refused(train, "val.npz: columns: a, c, b (accepted: a, b, c, as in", val=val)


def test_names_that_do_not_fit_the_columns_are_refused(write):
    refused(write(columns=np.array(["a", "b"])), "columns: is not 3 names")


def test_terminal_escapes_of_a_file_are_not_printed(write):
    message = refused(write(X_train=None, **{"a\x1b[31m": np.zeros(1)}))

    assert "\x1b" not in message


# --- a bucket ---------------------------------------------------------------------------------------------------------


def test_a_file_of_a_bucket_is_read(write, tmp_path, monkeypatch):
    path = write()
    with gcs_served(tmp_path / "gcs", monkeypatch) as server:
        server.make_bucket("bucket")
        server.put("bucket", "data/both.npz", path.read_bytes())

        assert read("gs://bucket/data/both.npz").fingerprint == read(path).fingerprint
        refused(
            "gs://bucket/data/bot.npz",
            "data.train: gs://bucket/data/bot.npz: there is no such object",
            "gcloud storage ls gs://bucket/data/",
        )
        refused("gs://bucket/data/", "no object of a bucket (accepted: gs://BUCKET/NAME.npz)")


def test_a_folder_may_stand_for_a_bucket(write):
    path = write()

    assert read(f"file://{path}").fingerprint == read(path).fingerprint


def test_a_bad_file_of_a_bucket_is_named_by_its_url(write):
    path = write(X_train=None)

    refused(f"file://{path}", f"file://{path}: no array X_train")
