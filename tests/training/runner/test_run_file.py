"""What the runner knows of a run file: by asking the run's own code."""

import json
import sys
from pathlib import Path

import pytest

from training.checkpoints.settings import config_sha256
from training.config_loader import load_config
from training.errors import RunError, UserError
from training.runner import run_file
from training.runner.run_file import RunSettings, settings_of

DEMO = Path("configs/runs/demo.yaml")


def answer(monkeypatch, text: str, code: int = 0) -> None:
    """As if the code there printed this."""
    program = f"import sys; print({text!r}); print('why', file=sys.stderr); sys.exit({code})"
    monkeypatch.setattr(run_file, "settings_command", lambda file: [sys.executable, "-c", program])


def test_the_code_says_what_a_run_file_asks_for():
    config = load_config(DEMO)

    assert settings_of(DEMO.absolute(), Path.cwd()) == RunSettings("demo", config_sha256(config), 600, None, None, "cpu")


def test_a_refused_run_file_is_refused_with_its_message(tmp_path):
    (tmp_path / "run.yaml").write_text("name: a\nnonsense: 1\n")

    with pytest.raises(UserError, match=r"^\S+run\.yaml: nonsense: unknown key \(value 1\)"):
        settings_of(tmp_path / "run.yaml", Path.cwd())


def test_fields_of_a_newer_version_are_ignored_and_missing_ones_have_a_default(monkeypatch):
    answer(monkeypatch, json.dumps({"name": "a", "of tomorrow": {}}))

    assert settings_of(DEMO, Path.cwd()) == RunSettings("a")


@pytest.mark.parametrize(("text", "code"), [("no JSON", 0), ('{"name": 7}', 0), ("", 1), ("", -9)])
def test_no_answer_is_a_failure_not_a_refusal(monkeypatch, text, code):
    answer(monkeypatch, text, code)

    with pytest.raises(RunError, match=r"demo\.yaml: what it asks for is not known"):
        settings_of(DEMO, Path.cwd())
