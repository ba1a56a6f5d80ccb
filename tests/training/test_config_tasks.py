"""A run is one of several whole schemas: the task is read first, and its schema judges all the rest."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import Field

from training.checkpoints.settings import config_sha256
from training.config import Part, Row, Run, RunConfig, TrainerConfig
from training.config_loader import load_config
from training.config_schema import CONFIGS, schema_of
from training.config_text import commented_yaml
from training.errors import UserError
from training.registry import TASKS, run_schema


class ToyData(Part):
    """What the toy reads."""

    kind: Literal["toy"] = "toy"
    """A toy."""
    table: str
    """Its table."""
    batch_size: int = 3
    """Rows of a step [rows]."""


class ToyModel(Part):
    """What the toy learns."""

    hidden_dims: Annotated[tuple[int, ...], Field(strict=False)] = ()
    """Widths."""
    dropout: float = 0.0
    """Dropout [fraction]."""


class ToyRun(Run):
    """One run of the toy."""

    task: Literal["toy"] = "toy"
    """The toy."""
    trainer: TrainerConfig
    data: ToyData
    model: ToyModel = ToyModel()

    NO_EFFECT: ClassVar[tuple[Row["ToyRun"], ...]] = (
        ("model.dropout", lambda c: not c.model.hidden_dims, "there is no hidden layer"),
    )


TOY = ["data.table=cells.csv", "trainer.max_steps=5"]


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """A second task: a line in the registry, and nothing else."""
    monkeypatch.setitem(TASKS, "toy", "toy_task")
    monkeypatch.setitem(sys.modules, "toy_task.config", SimpleNamespace(RUN=ToyRun))


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file of the working directory."""
    monkeypatch.chdir(tmp_path)

    def written(text: str, name: str = "run.yaml") -> Path:
        Path(name).write_text(text)
        return Path(name)

    return written


def refusal(path, *words):
    with pytest.raises(UserError) as refused:
        load_config(path, words)
    return str(refused.value)


def test_the_task_is_named_by_the_command_line_else_the_file_else_what_it_extends(write):
    write("task: toy\n", "below.yaml")
    below = write("extends: below.yaml\nname: mine\ntrainer.max_steps: 1\ndata.table: t.csv\n")
    assert isinstance(load_config(below), ToyRun)
    cells = ["data.split=s", "data.control=c"]
    assert isinstance(load_config(write("task: perturbation\nname: m\ntrainer.max_steps: 1\nmodel: state\n"), cells), RunConfig)
    bare = write("name: mine\ntrainer.max_steps: 1\ndata.table: t.csv\n")
    assert isinstance(load_config(bare, ["task=toy"]), ToyRun)
    assert isinstance(load_config(bare, ['+task="toy"']), ToyRun)
    assert refusal(bare).startswith("run.yaml: data.table: unknown key (value t.csv): data.table is a key of task toy")


def test_without_a_run_file_a_task_has_its_default_run():
    config = load_config(None, ["task=toy", "name=mine", *TOY])

    assert (config.task, config.name, config.output_dir, config.trainer.max_steps) == ("toy", "mine", "runs", 5)
    assert refusal(None, "task=toy", *TOY) == f"{CONFIGS / 'runs/base.yaml'}: name is missing: Name of the run; its folder is " \
        "`output_dir/name`."  # fmt: skip


def test_a_key_of_another_task_is_unknown_and_the_message_names_that_task():
    cells = ["data.split=s", "data.control=c"]
    assert refusal(None, *cells, "model.hidden_dims=[64]") == (
        "command line: model.hidden_dims: unknown key (value [64]): model.hidden_dims is a key of task tabular and toy, and the "
        "task of this run is perturbation"
    )
    assert "objective.loss is a key of task perturbation, and the task of this run is toy" in refusal(
        None, "task=toy", "name=mine", *TOY, "objective.loss=mse"
    )


def test_the_rows_are_those_of_the_task_and_those_of_every_run():
    words = ["task=toy", "name=mine", *TOY]

    assert refusal(None, *words, "model.dropout=0.5") == (
        "command line: model.dropout: 0.5 would have no effect: there is no hidden layer; leave it out"
    )
    assert load_config(None, [*words, "model.dropout=0.5", "model.hidden_dims=[4]"]).task == "toy"
    assert refusal(None, *words, "resume=true", "overwrite=true").endswith("resume: true: resume and overwrite exclude each other")


def test_neither_the_presets_nor_the_keys_of_state_reach_another_task():
    words = ["task=toy", "name=mine", *TOY]

    assert refusal(None, *words, "model=state") == "command line: model: state is a value, but model is a section of keys"
    assert refusal(None, *words, "model.preset=state").startswith("command line: model.preset: unknown key (value state)")
    assert refusal(None, *words, "training.batch_size=4").startswith(
        "command line: training.batch_size: unknown key (value 4); did you mean data.batch_size?"
    )


def test_its_text_reads_back_equal_and_its_hash_has_its_task(write):
    config = load_config(None, ["task=toy", "name=mine", *TOY])
    text = commented_yaml(config)

    assert load_config(write(text)) == config
    assert [line for line in text.splitlines() if line.endswith(":")] == [
        "data:",
        "model:",
        "trainer:",
        "checkpoints:",
        "early_stopping:",
    ]
    assert config_sha256(config) != config_sha256(load_config(None, ["task=toy", "name=mine", *TOY, "seed=7"]))
    assert config_sha256(config) == config_sha256(load_config(None, ["task=toy", "name=other", *TOY, "resume=true"]))


def test_every_task_is_registered_under_its_own_name_and_loads_without_torch():
    for task in TASKS:
        assert schema_of(run_schema(task)).task == task
    real = [task for task in TASKS if task != "toy"]
    code = f"import sys; from training.registry import *; [run_schema(t) for t in {real}]; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_loader_imports_the_schema_of_the_task_at_hand_alone():
    code = (
        "import sys; from training import registry; registry.TASKS['broken'] = 'no_such_module:Run'; "
        "from training.config_loader import load_config; load_config(None, ['data.split=s', 'data.control=c'])"
    )

    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Hashes in the manifests of runs that were written before there were tasks: they go on, and are recognised, as long as these stay.
HASHES = {
    "d580211951df6fbbccbe1da834efc80225a72fbe75ed3067aa554be238d56664": ("demo", []),
    "601e94dfef2b0da713d94fa5a9b34ccedf8d2b339165ea38197b62f1761f8515": ("seed_000", []),
    "b8d1659e2ffc91146ac78093fc208343d82306eedf16630eed094269862d6071": (
        "transition", ["data.split=split.toml", "data.control=control"],
    ),
    "7e9aa350d16f7161764ab097fdf9f4f0bdf47cfe70c95850ce3bc1dc6c4a9531": (
        "seed_000", ["model=state_lg", "model.set_size=64", "data.separator=_"],
    ),
    "f32fb1fdfc399d8f78065a06f3edcf01e450282803a406b2a0ca76afb5d5fc83": (
        "demo", ["evaluation.control_fraction=null", "model.set_size=16"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("expected", HASHES)
def test_a_run_keeps_the_hash_that_it_had_before_there_were_tasks(expected):
    run, words = HASHES[expected]

    assert config_sha256(load_config(CONFIGS / "runs" / f"{run}.yaml", words)) == expected


def test_a_config_yaml_from_before_there_were_tasks_reads_as_the_run_that_it_was(write):
    demo = load_config(CONFIGS / "runs" / "demo.yaml")
    lines = commented_yaml(demo).splitlines(keepends=True)
    at = lines.index("task: perturbation\n")

    assert load_config(write("".join(lines[: at - 1] + lines[at + 1 :]))) == demo


def test_a_key_is_accepted_by_its_former_name(write):
    cells = ["data.split=s", "data.control=c"]
    now = load_config(None, [*cells, "data.set_size=32"])
    assert load_config(None, [*cells, "model.set_size=32"]) == now
    assert load_config(None, [*cells, "+training.lr=1e-4", "model.kwargs.cell_set_len=32"]) == now

    run = write("name: transition\nmodel: {preset: state, set_size: 32}\noptim.gradient_clip_norm: 10\ntrainer.max_steps: 40000\n")
    assert load_config(run, cells) == now
    assert isinstance(preset := load_config(run, [*cells, "model=state_sm"]), RunConfig)
    assert preset.data.set_size == 128
    assert refusal(run, *cells, "model.set_size=1") == (
        "command line: model.set_size (here data.set_size): 1: input should be greater than or equal to 2"
    )
    assert refusal(run, *cells, "model.set_size=8", "data.set_size=9") == (
        "command line: data.set_size is set twice: model.set_size=8 and data.set_size=9; leave one out"
    )
    assert "model.set_size: unknown key" in refusal(None, "task=toy", "name=mine", *TOY, "model.set_size=8")
