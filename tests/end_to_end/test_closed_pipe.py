"""Commands whose output goes into a pipe that nobody reads any more: no traceback, and what is more than output is finished."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
TRAINING = (str(BIN / "training"),)
SUPERVISION = (sys.executable, "-m", "training.runner", "--root", ".")
FAB = (sys.executable, "-P", "-m", "bootstrap.command", "-r", str(ROOT))
DEMO = str(ROOT / "configs/runs/demo.yaml")


def unread(*words: str, stderr: bool = False) -> tuple[int, str]:
    """Exit code and stderr of a command whose stdout, or stderr too, nobody reads from the beginning."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer if stderr else subprocess.PIPE, timeout=300
        )
    finally:
        os.close(writer)
    return done.returncode, (done.stderr or b"").decode()


@pytest.mark.parametrize(
    "words",
    [
        (*TRAINING, "--help"),
        (*TRAINING, "fit", "--help"),
        (sys.executable, "-m", "training", "--help"),
        (*TRAINING, "show-config", DEMO),
        (*SUPERVISION, "status"),
        (*SUPERVISION, "verify", "."),
        (*FAB, "--list"),
        (*FAB, "--help"),
        (*FAB, "--help", "logs"),
    ],
    ids=lambda words: " ".join(words[-2:]).replace(str(ROOT), ""),
)
def test_a_command_that_only_prints_ends_as_a_closed_pipe_ends_it(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)

    assert unread(*words) == (141, "")


@pytest.mark.cloud  # several commands, each with torch
def test_what_only_checks_ends_too(settings):
    assert unread(*TRAINING, "check", *settings()) == (141, "")


def test_a_refusal_that_nobody_reads_has_no_traceback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert unread(*TRAINING, "show-config", "nowhere.yaml", stderr=True)[0] == 141


@pytest.mark.slow
def test_head_gets_its_line(tmp_path):
    command = f'{BIN}/training show-config {DEMO} | head -n 1; echo "${{PIPESTATUS[@]}}"'
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=300)

    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 2
    assert done.stdout.splitlines()[1] in ("0 0", "141 0")  # head may be quicker or slower than the plan


@pytest.mark.cloud  # several commands, each with torch
def test_a_run_and_what_is_made_of_it_are_finished(settings):
    for words, product in (
        (("fit", *settings()), "run/model.pt"),
        (("predict", "run", "--output", "predicted.h5ad"), "predicted.h5ad"),
        (("evaluate", "run"), "run/metrics.json"),
        (("report", "run"), "run/report.html"),
    ):
        Path(product).unlink(missing_ok=True)
        assert unread(*TRAINING, *words, stderr=words[0] == "fit") == (0, ""), words
        assert Path(product).exists()
    assert "step 8/8" in Path("run/training.log").read_text()


@pytest.mark.cloud  # several commands, each with torch
def test_files_are_finished(settings):
    assert unread(*TRAINING, "simulate", "more.h5ad", "n_cells=200", "n_genes=60", "n_perturbations=8") == (0, "")
    assert Path("more_split.toml").exists()
    words = ("check", "--write-features", "genes.npz", *settings("data.perturbation_features_file=genes.npz"))
    assert unread(*TRAINING, *words) == (0, "")
    assert Path("genes.npz").exists()
