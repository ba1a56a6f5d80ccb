"""A task is added by one folder and one line: it trains, goes on after a kill to the bit, is pushed, pulled and reported."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from training.checkpoints.manifest import complete_checkpoints
from training.runner.mirror.pull import pull_run
from training.runner.mirror.push import Pusher

pytestmark = pytest.mark.slow  # eight processes that load torch

ROOT = Path(__file__).parents[2]
REGISTRY = Path("training/registry.py")
RUN = "task: toy\nname: {name}\nseed: 1\noptim: {{lr: 1e-2}}\ncheckpoints: {{every_steps: 50}}\n" + (
    "trainer: {{device: cpu, max_steps: 1000000, val_every_steps: 50, log_every_steps: 10}}\n"
)


@pytest.fixture
def project(tmp_path):
    """The source as it is, with the toy's folder and a line in the registry."""
    for name in ("training", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(Path(__file__).parent / "toy", tmp_path / "training" / "tasks" / "toy")
    (tmp_path / "training" / "tasks" / "toy" / "__init__.py").touch()
    registry = (tmp_path / REGISTRY).read_text()
    (tmp_path / REGISTRY).write_text(registry.replace("TASKS = {\n", 'TASKS = {\n    "toy": "training.tasks.toy",\n', 1))
    for name in ("whole", "killed"):
        (tmp_path / f"{name}.yaml").write_text(RUN.format(name=name))
    return tmp_path


def training(project, *words, check=True):
    environment = os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "training", *words], cwd=project, env=environment, capture_output=True, text=True, timeout=300
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def killed_once(project):
    """Kill a run after some steps. Returns: its newest checkpoint's step."""
    environment = os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "training", "fit", "killed.yaml"]
    with subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.DEVNULL) as process:
        while not (found := complete_checkpoints(project / "runs/killed/checkpoints")) or found[-1].step < 500:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    return complete_checkpoints(project / "runs/killed/checkpoints")[-1].step


def test_a_new_task_needs_one_folder_and_one_line(project, tmp_path_factory):
    training(project, "check", "--overfit", "whole.yaml")
    steps = killed_once(project) + 100
    training(project, "fit", "killed.yaml", "resume=true", f"trainer.max_steps={steps}")
    training(project, "fit", "whole.yaml", f"trainer.max_steps={steps}")

    whole, killed = (torch.load(project / "runs" / name / "model.pt", weights_only=True) for name in ("whole", "killed"))
    assert whole["step"] == killed["step"]
    assert all(torch.equal(weight, killed["weights"][name]) for name, weight in whole["weights"].items())
    with (project / "runs/whole/eval_history.csv").open() as file:
        losses = [float(row["val/loss_total"]) for row in csv.DictReader(file)]
    assert min(losses) < losses[0] / 4  # it learned the line

    bucket = tmp_path_factory.mktemp("bucket")
    (project / "jobs" / "whole").mkdir(parents=True)
    Pusher(project / "runs/whole", project / "jobs/whole", f"file://{bucket}", 60.0).once()
    pulled = pull_run(f"file://{bucket}", "whole", project / "pulled", checkpoints="newest")
    assert pulled.steps[-1] == steps
    assert (project / "pulled/model.pt").read_bytes() == (project / "runs/whole/model.pt").read_bytes()

    assert "Loss" in Path(project / training(project, "report", "pulled").stdout.strip()).read_text()
    assert "reproduced to the bit" in training(project, "reproduce", "runs/whole").stdout
    refused = training(project, "evaluate", "runs/whole", check=False)
    assert (refused.returncode, refused.stderr) == (2, "refused: training evaluate: task toy has no such verb\n")
    assert training(project, "show-config", "whole.yaml", "model=identity_sm", check=False).returncode == 2
    settings = training(project, "show-config", "--json", "whole.yaml").stdout
    assert '"name": "whole"' in settings


def test_no_other_file_of_the_source_is_changed(project):
    changed = {
        str(path.relative_to(project))
        for path in (project / "training").rglob("*.py")
        if not (ROOT / path.relative_to(project)).exists() or path.read_bytes() != (ROOT / path.relative_to(project)).read_bytes()
    }

    toy = {f"training/tasks/toy/{name}.py" for name in ("__init__", "config", "spec", "task")}
    assert changed == {*toy, str(REGISTRY)}
    lines = [(ROOT / REGISTRY).read_text().splitlines(), (project / REGISTRY).read_text().splitlines()]
    assert len(lines[1]) == len(lines[0]) + 1
