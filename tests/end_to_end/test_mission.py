"""The whole mission over real parts: the engine, gcloud, a bucket, and a machine that is reached through Google's tunnel."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
import torch

from tests.tools.gcs_server import GcsServer, needs_gcs
from tests.tools.programs import require
from tests.tools.ssh_machine import SshMachine, behind_iap, needs_sshd
from tests.tools.stand_in_cloud.place import BUCKET, Place
from tests.tools.stand_in_cloud.rest import Rest
from training.__main__ import main
from training.checkpoints.manifest import complete_checkpoints
from training.checkpoints.model_file import load_model
from training.data.simulation import Simulation, simulate

ROOT = Path(__file__).parents[2]
FAB = Path(sys.executable).parent / "fab"
STEPS = 5000  # half a minute: the power cut has to come before their end
TOKEN = f"hf_{uuid4().hex}"  # these files travel to the machine too
SCREEN = Simulation(
    n_cells=640, n_genes=60, n_perturbations=12, n_gem_groups=2, n_modules=4, feature_dim=8, n_hvg=10, n_embedding=6
)
RUN = f"""
name: screen
model: {{preset: identity_sm, hidden_dim: 16, num_layers: 1, num_heads: 2, head_dim: 8, intermediate_dim: 32, set_size: 16}}
data: {{split: data/screen/cells_split.toml, control: control, perturbation_features_file: data/screen/cells_features.npz,
        batch_size: 4, num_workers: 0}}
optim: {{lr: 1e-3}}
trainer: {{device: cpu, max_steps: {STEPS}, val_every_steps: 1000, log_every_steps: 500}}
checkpoints: {{every_steps: 500}}
"""


@dataclass
class Cloud:
    """One user, one project of theirs, and everything that it reaches."""

    place: Place
    machine: SshMachine
    gcs: GcsServer
    env: dict[str, str]

    def fab(self, *words: str, code: int = 0) -> str:
        """`fab WORDS`, which must end with `code`; what it prints."""
        start = time.monotonic()
        done = subprocess.run(
            [FAB, "-r", ROOT, *words], cwd=self.place.project, env=self.env, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=300,
        )  # fmt: skip
        print(f"{time.monotonic() - start:.1f} s: fab {' '.join(words)}\n{done.stdout}{done.stderr}")  # seen if the test fails
        assert done.returncode == code, f"fab {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    @property
    def results(self) -> Path:
        """What the bucket has of the run."""
        return self.gcs.folder / BUCKET / "runs" / "screen"


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    needs_sshd()
    needs_gcs()
    require("pulumi")
    place = Place.begin(tmp_path / "place")
    with Rest(place.world, tmp_path / "gcloud") as rest, GcsServer(tmp_path / "buckets") as gcs:
        machine = SshMachine(tmp_path / "machine", {**gcs.env, "OMP_NUM_THREADS": "1"})  # as in the test: sums in one order
        behind_iap(machine)
        machine.take_uv_cache(machine.disk / "incubator")
        machine.program("nvidia-smi", "echo 'NVIDIA L4, 580.159.03, 23034 MiB'")
        machine.program("sudo", "exit 0")
        key = (machine.folder / "user_key.pub").read_text().strip()
        place.set("l4", sshUser=machine.user, sshPublicKey=key)
        env = {**os.environ, **place.engine.env, **rest.env, **gcs.env}
        env["PATH"] = f"{machine.folder / 'laptop'}:{place.engine.env['PATH']}"
        env |= {"CLOUDSDK_CONFIG": str(tmp_path / "gcloud"), "PULUMI_STACK": "l4", "HF_TOKEN": TOKEN}
        env.pop("VIRTUAL_ENV", None)
        yield Cloud(place, machine, gcs, env)
        machine.switch_off()


def wait_for(seen: Callable[[], object], seconds: float, what: str) -> None:
    until = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < until, f"{what}: not within {seconds:g} seconds"
        time.sleep(0.3)


@pytest.mark.slow
@pytest.mark.cloud
def test_the_whole_mission(cloud, tmp_path, monkeypatch):
    screen = cloud.place.project / "data" / "screen"
    screen.mkdir(parents=True)
    monkeypatch.chdir(cloud.place.project)
    simulate(SCREEN, Path("data/screen/cells.h5ad"))
    (cloud.place.project / "screen.yaml").write_text(RUN)

    cloud.fab("up", "--stack", "storage")
    cloud.gcs.make_bucket(BUCKET)
    cloud.fab("up", "--stack", "l4")
    cloud.machine.boot()

    said = cloud.fab("bootstrap", "--data", "data/screen", "train", "--run", "screen.yaml")
    assert "NVIDIA L4, 23034 MiB, driver 580.159.03, torch for CUDA" in said
    assert "screen trains on incubator-l4 and needs nobody" in said
    wait_for(lambda: complete_checkpoints(cloud.results / "checkpoints"), 120, "a checkpoint in the bucket")

    cloud.machine.switch_off()  # all at once: run, supervisor, pusher
    cloud.machine.boot()
    cloud.machine.run("/mnt/data/incubator/boot-hook")  # as the start-up script does
    job = cloud.machine.disk / "incubator" / "jobs" / "screen"
    wait_for(lambda: '"finished"' in (job / "state.json").read_text(), 400, "the end of the run")
    assert "finished" in cloud.fab("status")
    starts = json.loads((cloud.machine.disk / "incubator" / "runs" / "screen" / "run.json").read_text())["starts"]
    assert [start["reason"] for start in starts] == ["start", "resume=true"]
    assert starts[1]["step"] >= 500

    assert "-> no idle guard" in cloud.fab("bootstrap", "--idle-minutes", "0")
    assert "all was there, nothing to do" in cloud.fab("bootstrap")  # and it is not on again

    cloud.fab("pull", "--into", str(tmp_path / "pulled"))
    sweep = cloud.fab("down")

    assert "Nothing of stack l4 costs money here" in sweep
    assert cloud.place.ids() == []
    assert [checkpoint.step for checkpoint in complete_checkpoints(cloud.results / "checkpoints")][-1] == STEPS
    uninterrupted = main(["fit", "screen.yaml", f"output_dir={tmp_path / 'here'}"])
    assert uninterrupted == 0
    expected = load_model(tmp_path / "here" / "screen" / "model.pt").weights
    for place in (tmp_path / "pulled" / "screen", cloud.results):
        found = load_model(place / "model.pt").weights
        assert all(torch.equal(found[name], expected[name]) for name in expected), place
    assert_no_token(TOKEN, cloud.machine.disk / "incubator", tmp_path / "pulled", cloud.gcs.folder)


def assert_no_token(token: str, *folders: Path) -> None:
    """In no file but the one that only its owner reads."""
    found = subprocess.run(
        ["grep", "-rlF", "--exclude-dir=cache", "--exclude-dir=.venv", token, *folders], capture_output=True, text=True
    ).stdout.splitlines()
    assert [path for path in found if not path.endswith("/incubator/env")] == []
