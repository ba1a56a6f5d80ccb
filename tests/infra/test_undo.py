"""The way back out of a versioned bucket, as infra/README.md and `fab down` tell it, with the real gcloud."""

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.advice import next_step
from tests.tools.gcs_server import GcsServer, needs_gcs

pytestmark = [pytest.mark.cloud, pytest.mark.slow]
README = (Path(__file__).parents[2] / "infra" / "README.md").read_text()
Shell = Callable[..., str]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """Runs a command line, in which BUCKET is a versioned bucket, and NAME a run in it."""
    needs_gcs()
    with GcsServer(tmp_path / "gcs", backend="memory") as server:
        server.make_bucket("cells", versioning=True)
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)

        def run(command: str, stdin: str = "", fails: bool = False) -> str:
            command = command.replace("BUCKET", "cells").replace("NAME", "screen")
            done = subprocess.run(["bash", "-c", command], input=stdin, capture_output=True, text=True)
            assert (done.returncode != 0) == fails, done.stdout + done.stderr
            return done.stdout

        yield run


def _commands() -> tuple[str, str]:
    """How to list, and how to restore."""
    listing, restoring = re.findall(r"`(gcloud storage [^`]+)`", README)
    return listing, restoring


def test_what_was_deleted_or_overwritten_comes_back_as_the_readme_says(shell):
    listing, restoring = _commands()
    for content in ("first", "second"):
        shell("gcloud storage cp - gs://BUCKET/runs/NAME/model.pt", stdin=content)
    shell("gcloud storage cp - gs://BUCKET/runs/NAME/metrics.json", stdin="figures")
    shell("gcloud storage rm gs://BUCKET/runs/NAME/metrics.json")

    versions = sorted(shell(listing).split())  # a generation is a time: the earliest first

    first, deleted = (next(name for name in versions if file in name) for file in ("model.pt", "metrics.json"))
    for file, version in (("model.pt", first), ("metrics.json", deleted)):
        shell(restoring.replace("FILE", file).replace("GENERATION", version.partition("#")[2]))
    assert shell("gcloud storage cat gs://BUCKET/runs/NAME/model.pt") == "first"
    assert shell("gcloud storage cat gs://BUCKET/runs/NAME/metrics.json") == "figures"


def test_a_bucket_that_looks_empty_is_emptied_as_the_advice_says(shell):
    shell("gcloud storage cp - gs://BUCKET/runs/NAME/model.pt", stdin="first")
    shell("gcloud storage rm gs://BUCKET/runs/NAME/model.pt")
    advice = next_step("storage", "Error trying to delete bucket cells containing objects without `force_destroy` set to true")
    listing, deleting = re.findall(r"gcloud storage \w+ --all-versions '[^']+'", advice)

    shell("gcloud storage ls 'gs://BUCKET/**'", fails=True)  # it looks empty
    assert "model.pt#" in shell(listing)
    shell(deleting)

    shell(listing, fails=True)
