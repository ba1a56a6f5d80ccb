"""`fab bootstrap`, `train`, `status`, `logs`, `stop` and `pull` as typed, on a machine that no stack rents."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import yaml

from bootstrap.shipping import code
from tests.tools.ssh_machine import PLAIN, SshMachine, close_connections, needs_sshd
from training.checkpoints.manifest import complete_checkpoints
from training.data.simulation import Simulation, simulate

pytestmark = pytest.mark.cloud  # some minutes

ROOT = Path(__file__).parents[2]
FAB = Path(sys.executable).parent / "fab"
Done = subprocess.CompletedProcess[str]
TOKEN = f"hf_{uuid4().hex}"  # this file travels to the machine too
SCREEN = Simulation(
    n_cells=640, n_genes=60, n_perturbations=12, n_gem_groups=2, n_modules=4, feature_dim=8, n_hvg=10, n_embedding=6
)
RUN = {
    "model": {
        "preset": "identity_sm", "hidden_dim": 16, "num_layers": 1, "num_heads": 2, "head_dim": 8, "intermediate_dim": 32,
        "set_size": 16,
    },
    "data": {
        "split": "data/screen/cells_split.toml", "control": "control", "batch_size": 4, "num_workers": 0,
        "perturbation_features_file": "data/screen/cells_features.npz",
    },
    "optim": {"lr": 1e-3},
    "trainer": {"device": "cpu", "max_steps": 8, "val_every_steps": 4, "log_every_steps": 2},
    "checkpoints": {"every_steps": 4},
}  # fmt: skip
BUCKET = f"file://{pwd.getpwuid(os.getuid()).pw_dir}/bucket"  # as the machine calls it
ENDLESS = (
    "--set",
    "trainer.max_steps=1000000",
    "--set",
    "trainer.val_every_steps=1000000",
    "--set",
    "checkpoints.every_steps=1000",
)


def hears_ctrl_c() -> None:  # what a shell starts in the background ignores it, and so do its children
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Laptop:
    """Somebody who types `fab` in a folder with data and run files, and a machine that they reach by SSH."""

    def __init__(self, machine: SshMachine, folder: Path) -> None:
        self.machine, self.folder = machine, folder
        self.env = {**os.environ, **machine.laptop, "INCUBATOR_HOST": machine.as_host, "HF_TOKEN": TOKEN}
        self.env.pop("VIRTUAL_ENV", None)

    @property
    def root(self) -> Path:
        """The machine's folder, as it is seen from here."""
        return self.machine.home / "incubator"

    def fab(self, *words: str) -> Done:
        return subprocess.run(
            [FAB, "-r", ROOT, *words],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [FAB, "-r", ROOT, *words], cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, preexec_fn=hears_ctrl_c,
        )  # fmt: skip

    def run_file(self, name: str, **changes: object) -> str:
        """A run of this name; its file."""
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, **RUN, **changes}))
        return f"{name}.yaml"

    def state(self, name: str) -> dict[str, object]:
        return json.loads((self.root / "jobs" / name / "state.json").read_text())

    def wait_for(self, name: str, phase: str, seconds: float = 120) -> None:
        until = time.monotonic() + seconds
        while not (self.root / "jobs" / name / "state.json").exists() or self.state(name)["phase"] != phase:
            assert time.monotonic() < until, self.state(name)
            time.sleep(0.1)


@pytest.fixture(scope="module")
def laptop_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    needs_sshd()
    folder = tmp_path_factory.mktemp("laptop")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("data/screen").mkdir(parents=True)
        simulate(SCREEN, Path("data/screen/cells.h5ad"))
    with SshMachine(tmp_path_factory.mktemp("machine"), {"OMP_NUM_THREADS": "1"}) as machine:
        laptop = Laptop(machine, folder)
        machine.take_uv_cache(laptop.root)
        (machine.home / "bucket").mkdir()
        done = laptop.fab("bootstrap", "--data", "data/screen")
        assert done.returncode == 0, done.stdout + done.stderr
        yield laptop
        close_connections(folder / ".incubator")


@pytest.fixture
def laptop(laptop_of: Laptop) -> Iterator[Laptop]:
    """It, and no run goes on after the test."""
    yield laptop_of
    laptop_of.machine.run("pkill -f 'training.runner.*supervise'; while pgrep -f training.runner; do sleep 0.2; done")
    shutil.rmtree(laptop_of.root / "jobs")
    (laptop_of.root / "jobs").mkdir()


def test_a_second_bootstrap_does_nothing(laptop):
    done = laptop.fab("bootstrap", "--data", "data/screen")

    assert done.returncode == 0, done.stderr
    assert "is ready: all was there, nothing to do" in done.stdout
    assert "->" not in done.stdout


def test_a_dry_run_says_what_it_would_do_and_does_nothing(laptop):
    (laptop.folder / "more").mkdir(exist_ok=True)
    (laptop.folder / "more" / "cells.h5ad").write_bytes(b"cells")

    done = laptop.fab("bootstrap", "--data", "more", "--dry-run")

    assert done.returncode == 0, done.stderr
    assert "# data: 1 files to data/more\nrsync -e " in done.stdout
    assert not (laptop.root / "data" / "more").exists()


def test_a_changed_environment_is_synced_again_after_a_lost_connection(laptop):
    (laptop.root / "code" / ".venv" / ".synced").unlink()
    running = laptop.start("bootstrap")
    for line in running.stdout or ():
        if "uv sync" in line:
            break
    laptop.machine.switch_off()
    said, _ = running.communicate(timeout=60)
    laptop.machine.boot()

    again = laptop.fab("bootstrap")

    assert running.returncode == 1
    assert "the connection was lost" in said
    assert again.returncode == 0, again.stdout + again.stderr
    assert "-> environment: uv sync" in again.stdout


def test_a_run_from_its_start_over_a_stop_to_its_results(laptop, tmp_path):
    file = laptop.run_file("whole")
    started = laptop.fab("train", "--run", file, *ENDLESS, "--bucket", BUCKET)
    assert started.returncode == 0, started.stdout + started.stderr
    assert f"whole trains on 127.0.0.1 and needs nobody; its results go to {BUCKET}/runs/whole" in started.stdout

    twice = laptop.fab("train", "--run", file, *ENDLESS, "--bucket", BUCKET)
    seen = laptop.fab("status")
    told = laptop.fab("logs", "--number", "500")
    stopped = laptop.fab("stop")
    step = complete_checkpoints(laptop.root / "runs" / "whole" / "checkpoints")[-1].step
    steps = (
        "--set",
        f"trainer.max_steps={step + 3}",
        "--set",
        "trainer.val_every_steps=1000000",
        "--set",
        "checkpoints.every_steps=1000",
    )
    again = laptop.fab("train", "--run", file, *steps, "--bucket", BUCKET)
    laptop.wait_for("whole", "finished")
    pulled = laptop.fab("pull", "--run", "whole", "--into", str(tmp_path))
    (newest,) = (laptop.root / "runs" / "whole" / "checkpoints").glob(f"step=*{step + 3}/trainer.ckpt")
    newest.write_bytes(b"x" * newest.stat().st_size)
    damaged = laptop.fab("pull", "--into", "results")  # a relative folder

    assert twice.returncode == 2
    assert "whole is running already, at step" in twice.stderr
    assert "whole  running" in seen.stdout
    assert "supervisor: running" in told.stdout
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert f"everything is in {BUCKET}/runs/whole: safe to destroy" in stopped.stdout
    assert again.returncode == 0, again.stdout + again.stderr
    assert "(it goes on)" in again.stdout
    facts = json.loads((laptop.root / "runs" / "whole" / "run.json").read_text())
    assert [start["step"] for start in facts["starts"]] == [0, step]
    assert facts["git_commit"] == (laptop.root / "code" / ".commit").read_text() == code().commit
    assert pulled.returncode == 0, pulled.stdout + pulled.stderr
    assert complete_checkpoints(tmp_path / "whole" / "checkpoints")[-1].step == step + 3
    assert (tmp_path / "whole" / "model.pt").exists()
    assert damaged.returncode == 1
    assert "a file is not as its manifest tells" in damaged.stderr
    assert (laptop.folder / "results" / "whole" / "model.pt").exists()


def test_a_table_is_watched_until_ctrl_c(laptop):
    watching = laptop.start("status", "--watch")
    assert watching.stdout is not None
    first = watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    rest, _ = watching.communicate(timeout=30)

    assert first == "127.0.0.1: no run yet; start one: ./fab train --run RUN.yaml\n"
    assert watching.returncode == 0, rest
    assert "Traceback" not in rest


def test_results_come_from_the_bucket_too_and_never_over_something_else(laptop, tmp_path):
    laptop.fab("train", "--run", laptop.run_file("kept"), "--bucket", BUCKET)
    laptop.wait_for("kept", "finished")
    laptop.fab("stop", "--run", "kept")
    (tmp_path / "other" / "kept").mkdir(parents=True)
    (tmp_path / "other" / "kept" / "my notes").touch()
    url = f"file://{laptop.machine.home}/bucket"

    over = [laptop.fab("pull", "--run", "kept", "--into", str(tmp_path / "other"), *more) for more in ((), ("--bucket", url))]
    good = [laptop.fab("pull", "--run", "kept", "--into", str(tmp_path / "here"), "--bucket", url) for _ in range(2)]

    assert [done.returncode for done in over] == [2, 2]
    assert [path.name for path in (tmp_path / "other" / "kept").iterdir()] == ["my notes"]
    assert [done.returncode for done in good] == [0, 0], good[0].stderr
    assert complete_checkpoints(tmp_path / "here" / "kept" / "checkpoints")[-1].step == 8


def test_a_pull_of_a_living_run_whose_checkpoints_rotate(laptop, tmp_path):
    often = (
        "--set",
        "trainer.max_steps=1000000",
        "--set",
        "trainer.val_every_steps=1000000",
        "--set",
        "checkpoints.every_steps=50",
    )
    laptop.fab("train", "--run", laptop.run_file("rotating"), *often)
    laptop.wait_for("rotating", "running")
    until = time.monotonic() + 60
    while not complete_checkpoints(laptop.root / "runs" / "rotating" / "checkpoints"):
        assert time.monotonic() < until
        time.sleep(0.1)

    pulled = [laptop.fab("pull", "--into", str(tmp_path)) for _ in range(3)]

    assert [done.returncode for done in pulled] == [0, 0, 0], pulled[0].stderr
    assert complete_checkpoints(tmp_path / "rotating" / "checkpoints")
    assert not [p for p in (tmp_path / "rotating" / "checkpoints").iterdir() if not (p / "MANIFEST.json").exists()]


def test_two_laptops_that_start_the_same_run(laptop):
    file = laptop.run_file("shared")
    both = [laptop.start("train", "--run", file, *ENDLESS) for _ in range(2)]
    said = [one.communicate(timeout=280)[0] for one in both]

    assert sorted(one.returncode for one in both) == [0, 2], said
    assert len(laptop.machine.run("pgrep -f 'supervise shared'").stdout.split()) == 1


def test_a_run_that_dies_before_its_first_step_shows_the_end_of_its_log(laptop):
    (laptop.root / "runs" / "taken").mkdir(exist_ok=True)
    (laptop.root / "runs" / "taken" / "somebody's").touch()

    done = laptop.fab("train", "--run", laptop.run_file("taken"))

    assert done.returncode == 2
    assert "runs/taken: exists already and is no run directory" in done.stderr
    assert list((laptop.root / ".staged").iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("optim.lr=fast",), "optim.lr: fast: input should be a valid number"),
        (("data.split=/data/split.toml",), "data.split: /data/split.toml: on the machine, paths start at the project's folder"),
        (("resume=true",), "resume and overwrite are decided on the machine"),
        (("name=a b",), "command line: name: a b"),
    ],
)
def test_what_the_laptop_can_judge_is_refused_before_the_machine_is_asked(laptop, settings, message):
    words = [word for setting in settings for word in ("--set", setting)]

    done = laptop.fab("train", "--run", laptop.run_file("judged"), *words, "--host", "nobody@127.0.0.1:1")

    assert done.returncode == 2
    assert message in done.stderr.replace('"', "'"), done.stderr


def test_data_that_are_not_there_are_refused_by_the_machine(laptop):
    done = laptop.fab("train", "--run", laptop.run_file("absent"), "--set", "data.split=data/absent/split.toml")

    assert done.returncode == 2
    assert "data/absent/split.toml" in done.stderr


def test_a_bucket_that_is_not_there_is_told(laptop):
    done = laptop.fab("train", "--run", laptop.run_file("homeless"), "--bucket", f"{BUCKET}-of-nobody")

    assert done.returncode == 2
    assert "bucket-of-nobody of 127.0.0.1, not of this laptop, which is not there; make it: ssh -F" in done.stderr


def test_no_bootstrap_changes_the_code_under_a_living_run(laptop):
    laptop.fab("train", "--run", laptop.run_file("living"), *ENDLESS)
    code = laptop.root / "code" / "training" / "cells.py"
    was = code.read_text()
    code.write_text(was + "# an older version\n")

    refused = laptop.fab("bootstrap")
    laptop.fab("stop")
    done = laptop.fab("bootstrap")

    assert refused.returncode == 2
    assert "living runs there, and this would change 1 files of training/ (training/cells.py) under it" in refused.stderr
    assert done.returncode == 0, done.stderr
    assert code.read_text() == was


def test_no_token_stands_in_any_file_or_process(laptop):
    laptop.fab("train", "--run", laptop.run_file("secret"), *ENDLESS, "--bucket", BUCKET)

    processes = laptop.machine.run("ps axww -o args").stdout
    of_the_run = laptop.machine.run("cat /proc/$(pgrep -f 'training fit' | head -n 1)/environ | tr '\\0' '\\n'").stdout
    words = ["grep", "-rlF", "--exclude-dir=cache", "--exclude-dir=.venv", TOKEN, laptop.machine.home, laptop.folder]
    files = subprocess.run(words, capture_output=True, text=True).stdout.splitlines()

    assert "training fit" in processes
    assert TOKEN not in processes
    assert f"HF_TOKEN={TOKEN}" in of_the_run  # it arrives where it is needed
    assert files == [str(laptop.root / "env")]
    assert (laptop.root / "env").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("bootstrap", "--data", "nowhere/data"), "nowhere/data"),
        (("bootstrap", "--data", "gs:/cells"), "gs:/cells"),
        (("bootstrap", "--swap-gib", "many"), "--swap-gib: many (accepted: a whole number, 1 or more)"),
        (("bootstrap", "--host", "me@@box"), "--host: me@@box: accepted: [user@]host[:port]"),
        (("bootstrap", "--stack", "l4", "--host", "me@box"), "one machine at a time"),
        (("bootstrap", "--folder", "here"), "--folder: here: accepted: a path from / or ~/"),
        (("train",), "which run? --run RUN.yaml"),
        (("bootstrap", "--data", str(ROOT)), "holds the project itself"),
        (("bootstrap", "--folder", "/"), "--folder: /: accepted: a path from / or ~/"),
        (("logs", "--run", "nobody's"), "no run nobody's (there: none yet)"),
        (("stop",), "which run? name it (there: none yet)"),
        (("pull", "--bucket", "gs://cells", "--host", "me@box"), "needs no machine; leave out --host"),
    ],
)
def test_bad_input_is_one_message(laptop, words, message):
    done = laptop.fab(*words)

    assert (done.returncode, done.stdout.count("Traceback")) == (2, 0), done.stdout + done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("refused: ")


def test_a_machine_that_was_never_made_ready_says_how(laptop):
    done = laptop.fab("status", "--folder", "~/elsewhere")

    assert done.returncode == 2
    assert "is not ready: there is no environment in" in done.stderr
    assert "run: ./fab bootstrap" in done.stderr


def test_a_disk_with_too_little_room_is_refused(laptop):
    done = laptop.fab("bootstrap", "--folder", "/mnt/64m/incubator")

    assert done.returncode == 2
    assert "0.1 GiB free at /mnt/64m/incubator; the environment needs 15 GiB" in done.stderr


def test_a_machine_without_python_and_without_a_way_to_one_says_so(tmp_path, laptop):
    bare = SshMachine(tmp_path / "bare", {"UV_PYTHON_DOWNLOADS": "never"})
    for name in [path.name for folder in PLAIN.split(":") for path in Path(folder).glob("python*")]:
        bare.without(name)
    with bare:
        said = Laptop(bare, laptop.folder).fab("bootstrap", "--host", bare.as_host)

    assert said.returncode == 1
    assert "environment: uv sync: ended with exit code 2" in said.stderr
    assert "o interpreter found" in said.stdout + said.stderr
