"""A disk that is full when a trained run is judged: one line, and what was there before is intact."""

import shutil
from pathlib import Path

import pytest

JUDGED = ("evaluation.csv", "metrics.json", "report.html")


def fill(folder):
    """Leave no room for a file of any length."""
    with (folder / "filler").open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"0" * size)
            except OSError:
                pass


@pytest.mark.parametrize("verb", ["evaluate", "report"])
def test_a_full_disk_leaves_the_earlier_figures_and_no_half_file(verb, training, settings, small_disk):
    run = small_disk / "run"
    assert training("fit", *settings("output_dir=small")).code == 0
    assert training("evaluate", run).code == 0
    before = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    fill(small_disk)

    done = training(verb, run, *(["--split", "val"] if verb == "evaluate" else []))

    assert (done.code, done.err.count("\n")) == (1, 1), done.err
    assert done.err.startswith("failed: small/run/") or done.err.startswith(f"failed: {run}/"), done.err
    assert "No space left on device" in done.err
    assert {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()} == before
    assert {path.name for path in before} >= set(JUDGED)

    (small_disk / "filler").unlink()
    assert training(verb, run, *(["--split", "val"] if verb == "evaluate" else [])).code == 0
    assert shutil.disk_usage(small_disk).free > 0


def test_a_full_disk_lets_no_run_begin_and_says_so(training, settings, small_disk):
    fill(small_disk)

    done = training("fit", *settings("output_dir=small"))

    assert done.code != 0
    assert done.err.count("\n") == 1, done.err
    assert "No space left on device" in done.err
    assert not list(Path("small").glob(".*"))
