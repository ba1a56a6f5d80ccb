import logging
import os
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from numpy.testing import assert_array_equal

from training.config import CellSetsConfig
from training.data.perturbations import features_for, one_hot, read_features, write_perturbed_genes
from training.errors import RunError, UserError

SUFFIXES = [".pt", ".npz", ".safetensors"]
VECTORS = {"KLF1": [1.0, 2.0, 3.0], "GATA1": [0.5, 0.0, -1.0], "BAK1": [0.0, 0.0, 4.0]}


def save(path: Path, vectors: Mapping[str, Sequence[float]]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **{name: np.array(vector) for name, vector in vectors.items()})  # type: ignore[arg-type]
    elif path.suffix == ".pt":
        torch.save({name: torch.tensor(vector) for name, vector in vectors.items()}, path)
    else:
        safetensors.torch.save_file({name: torch.tensor(vector) for name, vector in vectors.items()}, path)
    return path


def config(path: Path | None, **choices) -> CellSetsConfig:
    return CellSetsConfig(
        split="s.toml", control="control", perturbation_features_file=None if path is None else str(path), **choices
    )


def test_one_hot_is_sorted_and_each_name_has_its_own_place():
    features = one_hot(["b", "control", "a", "b"])
    assert features.names == ("a", "b", "control")
    assert features.vectors.dtype == np.float32
    assert_array_equal(features.vectors, np.eye(3))
    assert [features.index(name) for name in ("control", "a", "b")] == [2, 0, 1]
    with pytest.raises(
        UserError, match=r"perturbation 'Control_' has no vector; did you mean control\?; the 3 known are a, b, control"
    ):
        features.index("Control_")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_three_kinds_of_file_say_the_same(tmp_path, suffix):
    features = read_features(save(tmp_path / f"features{suffix}", VECTORS))
    assert features.names == ("BAK1", "GATA1", "KLF1")
    assert features.vectors.dtype == np.float32
    assert_array_equal(features.vectors, [VECTORS[name] for name in features.names])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int64, torch.bool])
def test_other_number_types_become_float32(tmp_path, dtype):
    torch.save({"A": torch.tensor([1, 0], dtype=dtype)}, tmp_path / "f.pt")
    assert_array_equal(read_features(tmp_path / "f.pt").vectors, [[1, 0]])


class TestBadFiles:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_vectors_of_different_lengths(self, tmp_path, suffix):
        path = save(tmp_path / f"f{suffix}", VECTORS | {"MAP2K6": [1.0, 2.0]})
        with pytest.raises(UserError, match=rf"f\{suffix}: vectors differ in length: 'BAK1' has 3 values, 'MAP2K6' has 2"):
            read_features(path)

    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_values_that_are_not_finite(self, tmp_path, suffix, value):
        path = save(tmp_path / f"f{suffix}", VECTORS | {"MAP2K6": [1.0, value, 3.0]})
        with pytest.raises(UserError, match=rf"f\{suffix}: 'MAP2K6' has 1 values that are not finite, the first {value} at 1"):
            read_features(path)

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_no_vectors(self, tmp_path, suffix):
        with pytest.raises(UserError, match=rf"f\{suffix}: the file is empty"):
            read_features(save(tmp_path / f"f{suffix}", {}))

    @pytest.mark.parametrize("content", [b"", b"no such format", b"hello", b"a = 1", b"KLF1,1,2\n"])
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_another_format_or_no_byte(self, tmp_path, suffix, content):
        (tmp_path / f"f{suffix}").write_bytes(content)
        with pytest.raises(UserError, match=rf"f\{suffix}: cannot be read as a \{suffix} file of name -> vector: ."):
            read_features(tmp_path / f"f{suffix}")

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_truncated(self, tmp_path, suffix):
        path = save(tmp_path / f"f{suffix}", VECTORS)
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(UserError, match="cannot be read as"):
            read_features(path)

    def test_an_array_instead_of_an_archive(self, tmp_path):
        with (tmp_path / "f.npz").open("wb") as stream:
            np.save(stream, np.ones(3))
        with pytest.raises(UserError, match="the file holds a ndarray; accepted: a dictionary"):
            read_features(tmp_path / "f.npz")

    def test_missing_with_the_nearest_name(self, tmp_path):
        save(tmp_path / "esm2_features.pt", VECTORS)
        with pytest.raises(UserError, match=r"esm2-feature\.pt: there is no such file; did you mean esm2_features\.pt\?"):
            read_features(tmp_path / "esm2-feature.pt")

    def test_another_suffix(self, tmp_path):
        with pytest.raises(UserError, match=r"features end in '\.csv'; accepted: \.npz, \.pt, \.safetensors"):
            read_features(tmp_path / "f.csv")

    def test_code_in_a_pt_file_is_not_run(self, tmp_path):
        torch.save({"A": Bomb(tmp_path / "exploded")}, tmp_path / "f.pt")
        with pytest.raises(UserError, match=r"f\.pt: cannot be read"):
            read_features(tmp_path / "f.pt")
        assert not (tmp_path / "exploded").exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (torch.ones(2, 3), "the file holds a Tensor; accepted: a dictionary"),
            ({7: torch.ones(3)}, "the key 7 is a int; accepted: names"),
            ({"A": "text"}, "'A' is a str; accepted: a vector of numbers"),
            ({"A": torch.ones(2, 3)}, r"'A' is a ndarray of shape \(2, 3\) and type float32; accepted: a vector"),
            ({"A": torch.tensor(1.0)}, r"'A' is a ndarray of shape \(\) and"),
            ({"A": torch.ones(0)}, r"'A' is a ndarray of shape \(0,\)"),
            (
                {"A": torch.ones(3, 1)},
                r"shape \(3, 1\) .*; accepted: a vector of numbers \(flatten\(\) makes it one\)",
            ),
            ({"A": torch.ones(3).to_sparse()}, "'A' is a tensor that is sparse; accepted: a dense vector of real numbers"),
            ({"A": torch.ones(2, 2).to_sparse_coo()}, "'A' is a tensor that is sparse"),
            ({"A": torch.ones(3, dtype=torch.complex64)}, "'A' is a tensor that is complex"),
            ({"A": torch.ones(3, device="meta")}, "'A' is a tensor that is without values"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:Validating sparse tensor")  # torch says so while it loads
    def test_what_is_no_dictionary_of_vectors(self, tmp_path, content, message):
        torch.save(content, tmp_path / "f.pt")
        with pytest.raises(UserError, match=message):
            read_features(tmp_path / "f.pt")

    @pytest.mark.filterwarnings("ignore")  # torch says that they will go
    def test_a_quantized_tensor(self, tmp_path):
        torch.save({"A": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}, tmp_path / "f.pt")
        with pytest.raises(UserError, match="'A' is a tensor that is quantized; accepted: a dense vector"):
            read_features(tmp_path / "f.pt")

    @pytest.mark.parametrize("content", [{"A": np.ones(3)}, pd.DataFrame({"A": [1.0]}), {"A": np.float64(1)}])
    def test_python_objects_in_a_pt_file(self, tmp_path, content):
        torch.save(content, tmp_path / "f.pt")
        message = r"vector: it holds Python objects other than tensors; save a dict of name -> tensor$"
        with pytest.raises(UserError, match=message) as refused:
            read_features(tmp_path / "f.pt")
        assert str(refused.value).isprintable()

    def test_text_that_is_called_pt(self, tmp_path):
        (tmp_path / "f.pt").write_text("gene,a,b\nKLF1,1,2\n")
        with pytest.raises(UserError, match=r"vector: torch\.save did not write it; save a dict of name -> tensor$"):
            read_features(tmp_path / "f.pt")

    def test_a_link_that_leads_nowhere_and_a_folder(self, tmp_path):
        (tmp_path / "f.pt").symlink_to(tmp_path / "gone.pt")
        with pytest.raises(UserError, match=r"f\.pt: is a link to .*gone\.pt, which does not exist"):
            read_features(tmp_path / "f.pt")
        (tmp_path / "g.pt").mkdir()
        with pytest.raises(UserError, match=r"g\.pt: this is a folder"):
            read_features(tmp_path / "g.pt")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_matrix_of_one_row_is_a_vector(tmp_path, suffix):
    path = save(tmp_path / f"f{suffix}", {"A": [[1.0, 2.0]], "B": [3.0, 4.0]})  # type: ignore[list-item]
    assert_array_equal(read_features(path).vectors, [[1, 2], [3, 4]])


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


class TestFeaturesOfTheData:
    def test_without_a_file_they_are_one_hot(self):
        features, dropped = features_for(config(None), ["control", "B", "A"])
        assert features.names == ("A", "B", "control")
        assert_array_equal(features.vectors, np.eye(3))
        assert dropped == ()

    def test_exactly_those_of_the_data_and_zeros_for_the_control(self, tmp_path, caplog):
        caplog.set_level(logging.INFO)
        path = save(tmp_path / "f.pt", VECTORS)
        features, dropped = features_for(config(path), ["KLF1", "control", "BAK1"])
        assert (features.names, dropped) == (("BAK1", "KLF1", "control"), ())
        assert_array_equal(features.vectors, [VECTORS["BAK1"], VECTORS["KLF1"], [0, 0, 0]])
        assert caplog.messages == [
            f"{path}: 2 of 2 perturbations of the data have features, 3 wide",
            f"{path}: the control 'control' has no features and gets zeros",
        ]

    def test_a_control_with_features_keeps_them(self, tmp_path):
        features, _ = features_for(config(save(tmp_path / "f.pt", VECTORS | {"control": [9.0, 9.0, 9.0]})), ["KLF1", "control"])
        assert_array_equal(features.vectors[features.index("control")], [9, 9, 9])

    def test_missing_features_are_refused_with_the_list(self, tmp_path):
        path = save(tmp_path / "f.pt", VECTORS)
        message = (
            r"f\.pt: 1 of 3 perturbations of the data have features; missing: Bak-1, MAP2K6; did you mean BAK1\?; "
            r"the file has BAK1, GATA1, KLF1; .* set data\.missing_features to zeros or drop$"
        )
        with pytest.raises(UserError, match=message):
            features_for(config(path), ["KLF1", "MAP2K6", "Bak-1", "control"])

    def test_zeros_on_request(self, tmp_path, caplog):
        path = save(tmp_path / "f.pt", VECTORS)
        features, dropped = features_for(config(path, missing_features="zeros"), ["KLF1", "MAP2K6", "control"])
        assert (features.names, dropped) == (("KLF1", "MAP2K6", "control"), ())
        assert_array_equal(features.vectors, [VECTORS["KLF1"], [0, 0, 0], [0, 0, 0]])
        (record,) = caplog.records
        assert "perturbations without features are given zeros" in record.getMessage()
        assert record.getMessage().endswith(": MAP2K6")

    def test_dropped_on_request(self, tmp_path, caplog):
        path = save(tmp_path / "f.pt", VECTORS)
        features, dropped = features_for(config(path, missing_features="drop"), ["KLF1", "MAP2K6", "control"])
        assert (features.names, dropped) == (("KLF1", "control"), ("MAP2K6",))
        assert_array_equal(features.vectors, [VECTORS["KLF1"], [0, 0, 0]])
        assert "perturbations without features are left out: MAP2K6" in caplog.text

    @pytest.mark.parametrize("missing_features", ["refuse", "zeros", "drop"])
    def test_a_file_that_covers_nothing_is_refused_whatever_is_set(self, tmp_path, missing_features):
        path = save(tmp_path / "f.pt", VECTORS)
        with pytest.raises(
            UserError, match=r"0 of 2 perturbations .*missing: X1, X2; .* \(which needs at least one with features\)"
        ):
            features_for(config(path, missing_features=missing_features), ["X1", "X2", "control"])


class TestPerturbedGenes:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_a_place_for_each_gene(self, tmp_path, suffix):
        path = tmp_path / f"genes{suffix}"
        write_perturbed_genes(path, ["KLF1+BAK1", "BAK1+control", "control", "TGFBR2", "BAK1"], "control", "+")
        features = read_features(path)
        expected = {"BAK1": [1, 0, 0], "BAK1+control": [1, 0, 0], "KLF1+BAK1": [1, 1, 0], "TGFBR2": [0, 0, 1], "control": [0, 0, 0]}
        assert features.names == tuple(sorted(expected))
        assert_array_equal(features.vectors, [expected[name] for name in features.names])
        assert [p.name for p in tmp_path.iterdir()] == [path.name]

    def test_another_separator_and_a_control_that_contains_it(self, tmp_path):
        write_perturbed_genes(tmp_path / "g.npz", ["A_B", "non_targeting", "B"], "non_targeting", "_")
        features = read_features(tmp_path / "g.npz")
        assert_array_equal(features.vectors, [[1, 1], [0, 1], [0, 0]])

    def test_parts_of_the_controls_label_are_no_genes_and_those_found_are_named(self, tmp_path, caplog):
        caplog.set_level("INFO")
        labels = ["NegCtrl0_NegCtrl0", "KLF1_NegCtrl0", "MYC_NegCtrl0", "MYC_KLF1", "GATA1_NegCtrl0"]
        write_perturbed_genes(tmp_path / "g.npz", labels, "NegCtrl0_NegCtrl0", "_")
        assert "g.npz: 3 perturbed genes found in the labels: GATA1, KLF1, MYC" in caplog.text
        features = read_features(tmp_path / "g.npz")
        assert features.vectors[features.index("MYC_KLF1")].tolist() == [0, 1, 1]
        assert not any(record.levelname == "WARNING" for record in caplog.records)

    def test_labels_in_which_the_separator_joins_nothing_are_one_gene_and_named(self, tmp_path, caplog):
        labels = ["control", "2i (LIF+MEKi+GSK3i)", "LIF", "MEKi", "Ca2+", "half (A+B", "A+B"]
        write_perturbed_genes(tmp_path / "g.npz", labels, "control", "+")
        idle = "'2i (LIF+MEKi+GSK3i)', 'Ca2+', 'half (A+B'"
        assert f"joins nothing there, in the labels {idle}" in caplog.text
        features = read_features(tmp_path / "g.npz")
        both = features.vectors[features.index("2i (LIF+MEKi+GSK3i)")] * features.vectors[features.index("MEKi")]
        assert not both.any()
        assert features.vectors.shape[1] == 7

    def test_bad_labels_and_names_are_refused(self, tmp_path):
        with pytest.raises(UserError, match="no gene is perturbed in the labels control"):
            write_perturbed_genes(tmp_path / "g.pt", ["control"], "control", "+")
        with pytest.raises(UserError, match=r"features end in '\.h5'"):
            write_perturbed_genes(tmp_path / "g.h5", ["A"], "control", "+")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_what_exists_is_not_overwritten(self, tmp_path, suffix):
        path = tmp_path / f"g{suffix}"
        path.write_text("real features")
        with pytest.raises(UserError, match="there is a file of this name already, which is not overwritten"):
            write_perturbed_genes(path, ["A"], "control", "+")
        assert path.read_text() == "real features"
        path.unlink()
        path.symlink_to(tmp_path / "gone")
        with pytest.raises(UserError, match="there is a file of this name already"):
            write_perturbed_genes(path, ["A"], "control", "+")
        path.unlink()
        path.mkdir()
        with pytest.raises(UserError, match="there is a folder of this name already"):
            write_perturbed_genes(path, ["A"], "control", "+")
        with pytest.raises(UserError, match=r"there is no folder .*nowhere; make it first"):
            write_perturbed_genes(tmp_path / "nowhere" / f"g{suffix}", ["A"], "control", "+")
        assert [p.name for p in tmp_path.iterdir()] == [path.name]

    @pytest.mark.parametrize(("suffix", "unfit"), [(".npz", "A.npy"), (".npz", "A\0B"), (".safetensors", "__metadata__")])
    def test_names_that_a_format_cannot_hold_are_refused_by_it_alone(self, tmp_path, suffix, unfit):
        for other in SUFFIXES:
            path = tmp_path / f"g{other}"
            if other == suffix:
                with pytest.raises(UserError, match=rf"a \{suffix} file cannot hold perturbations named '.*'; write a .pt file"):
                    write_perturbed_genes(path, ["A", unfit], "control", "+")
                assert not path.exists()
            elif "\0" not in unfit:
                write_perturbed_genes(path, ["A", unfit], "control", "+")
                assert read_features(path).names == tuple(sorted(["A", unfit]))

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_names_of_numpys_keywords_and_folders(self, tmp_path, suffix):
        names = ("A/B", "args", "compressed", "file", "kwds")
        write_perturbed_genes(tmp_path / f"g{suffix}", names, "control", "+")
        features = read_features(tmp_path / f"g{suffix}")
        assert features.names == names
        assert_array_equal(features.vectors, np.eye(5))

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_a_full_disk_leaves_nothing_behind(self, tmp_path, suffix):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        try:
            with pytest.raises(RunError, match=r"g\.\w+: the file cannot be written \(File too large\); nothing is left of it"):
                write_perturbed_genes(tmp_path / f"g{suffix}", ["A"], "control", "+")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_folder_without_permission_is_refused(self, tmp_path):
        tmp_path.chmod(0o500)
        with pytest.raises(UserError, match=r"the file cannot be made \(Permission denied\)"):
            write_perturbed_genes(tmp_path / "g.npz", ["A"], "control", "+")
        tmp_path.chmod(0o700)

    def test_a_name_that_is_too_long_is_refused(self, tmp_path):
        with pytest.raises(UserError, match=r"the file cannot be made \(File name too long\)"):
            write_perturbed_genes(tmp_path / f"{'g' * 300}.npz", ["A"], "control", "+")
