"""What the README says is so: its commands and its files (its map: test_house.py)."""

import inspect
import re
import shlex
from pathlib import Path

import yaml

import fabfile
from infra.prices import disk_usd_per_month
from infra.stack_config import MachineSettings, read_settings
from tests.tools.perturbation_run import load_config
from training.__main__ import _parsed
from training.data.splits import read_split_file

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    """Words of each command in a `sh` block."""
    lines = [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines]


def test_it_is_short_and_begins_with_the_two_commands_as_they_are_typed():
    assert README.count("\n") <= 300
    assert commands()[:2] == [["./fab", "demo"], ["./fab", "check"]]


def test_its_commands_are_of_the_command_line():
    typed = [words[1:] for words in commands() if words[0] == "training"]

    assert {words[0] for words in typed} >= {"check", "fit", "predict", "evaluate"}
    for words in typed:
        _parsed(words)


def test_its_verbs_of_fab_are_known_with_their_options():
    typed = [words[1:] for words in commands() if words[0] == "./fab"]

    assert {words[0] for words in typed} >= {
        "demo",
        "check",
        "preflight",
        "up",
        "bootstrap",
        "status",
        "logs",
        "stop",
        "train",
        "pull",
        "cost",
        "down",
        "sweep",
    }
    for verb, *options in typed:
        several = [verb, *(word for word in options if word in vars(fabfile))]
        parameters = {name for one in several for name in inspect.signature(getattr(fabfile, one).body).parameters}
        assert {option[2:].replace("-", "_") for option in options if option.startswith("--")} <= parameters


def test_its_stacks_and_their_prices_are_those_of_the_configuration():
    rows = re.findall(r"^\| `([\w-]+)` \| .*?([\d.]+) dollars an hour, ([\d.]+) for its disks", README, re.MULTILINE)

    assert [stack for stack, *_ in rows] == ["l4", "l4-spot", "cpu"]
    for stack, vm, disks in rows:
        told = yaml.safe_load((ROOT / "configs" / "stacks" / f"{stack}.yaml").read_text())["config"]
        settings = read_settings(stack, told | {"gcp:project": "my-cells"})
        assert isinstance(settings, MachineSettings)
        sizes = ((settings.boot_disk_type, settings.boot_disk_gib), (settings.data_disk_type, settings.data_disk_gib))
        a_month = sum(disk_usd_per_month(*size) or 0 for size in sizes)
        assert (vm, disks) == (f"{settings.price:.2f}", f"{a_month / 730:.2f}")


def test_its_run_file_and_its_split_file_are_accepted(tmp_path):
    for language, name in (("yaml", "screen.yaml"), ("toml", "screen_split.toml")):
        (block,) = blocks(language)
        (tmp_path / name).write_text(block)

    config = load_config(tmp_path / "screen.yaml", ["optim.lr=3e-4"])
    split = read_split_file(tmp_path / config.data.split)

    assert config.directory == Path("runs/screen")
    assert split.training == ("screen",)


def test_its_state_tx_train_command_is_accepted():
    (words,) = [words[2:] for words in commands() if any(word.startswith("data.kwargs.") for word in words)]

    config = load_config(None, words)

    assert (config.data.perturbation_column, config.trainer.max_steps) == ("target_gene", 40000)
