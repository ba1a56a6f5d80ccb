"""The schema itself: every field explains itself, and what follows from several knobs."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from tests.tools.perturbation_run import load_config
from training.config import OptimConfig, Part, RunConfig
from training.config_schema import schema_of

FIELDS = schema_of(RunConfig).fields
WHOLE = ["data.split=split.toml", "data.control=control"]


def test_every_field_has_a_sentence_and_ends_it():
    assert [key for key, field in FIELDS.items() if not (field.description or "").endswith(".")] == []


def test_every_section_has_a_line_of_its_own():
    assert len(Part.__subclasses__()) >= 7
    assert [part for part in Part.__subclasses__() if not part.__doc__ or "\n" in part.__doc__] == []


def test_counts_say_what_they_count():
    counted = [key for key in FIELDS if key.endswith(("_steps", "_epochs", "_size", "_batches", "_workers", "_sets", "_fraction"))]

    assert [key for key in counted if not (FIELDS[key].description or "").endswith("].")] == []


def test_rows_name_fields():
    assert {key for key, *_ in (*RunConfig.NO_EFFECT, *RunConfig.CONTRADICTIONS)} <= FIELDS.keys()


def test_a_configuration_is_frozen():
    config = load_config(None, WHOLE)

    with pytest.raises(ValidationError, match="frozen"):
        config.optim.lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("value", [True, "1e-4", float("nan")])
def test_a_number_is_a_number(value):
    with pytest.raises(ValidationError, match="lr"):
        OptimConfig(lr=value)


@pytest.mark.parametrize(
    ("embed_key", "output_space", "has_gene_decoder", "input_is_genes"),
    [
        ("X_hvg", "gene", False, True),
        ("X_hvg", "all", True, True),
        ("X_state", "gene", True, False),
        ("X_state", "all", True, False),
        ("X_state", "embedding", False, False),
        ("X_hvg", "embedding", False, True),
        ("null", "all", False, True),
        ("null", "gene", False, True),
    ],
)
def test_representation_and_output_space_say_whether_there_is_a_gene_decoder(
    embed_key, output_space, has_gene_decoder, input_is_genes
):
    config = load_config(None, [*WHOLE, f"data.embed_key={embed_key}", f"data.output_space={output_space}"])

    assert (config.data.has_gene_decoder, config.data.input_is_genes) == (has_gene_decoder, input_is_genes)


@pytest.mark.parametrize("name", ["a b", "../a", "", ".hidden", "a/b"])
def test_a_runs_name_is_a_folders_name(name):
    with pytest.raises(ValueError, match=r"command line: name: .*(match pattern|valid string)"):
        load_config(None, [*WHOLE, f"name={name}"])


def test_schema_and_loader_open_without_torch():
    heavy = "{'torch', 'lightning', 'anndata', 'numpy'}"
    code = f"import sys, training.config_loader, training.config_text; sys.exit(bool({heavy} & sys.modules.keys()))"

    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_run_directory_may_lie_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_config(None, ["data.split=a.toml", "data.control=c", "output_dir=~/runs", "name=mine"])

    assert config.directory == tmp_path / "runs" / "mine"
