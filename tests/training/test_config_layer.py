"""A source of settings is judged key by key: text as it was typed, and all that is refused in one message."""

import re
import shlex
from pathlib import Path

import pytest

from tests.tools.perturbation_run import load_config
from training.errors import UserError

RUN = "name: mine\ndata.split: split.toml\ndata.control: control\ntrainer: {max_steps: 10}\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write run.yaml in the working directory."""
    monkeypatch.chdir(tmp_path)

    def written(text: str) -> Path:
        Path("run.yaml").write_text(text)
        return Path("run.yaml")

    return written


@pytest.mark.parametrize("label", ["[('DMSO_TF', 0.0, 'uM')]", "*", "[a, b]", "{a: b}", "a: b", "@home", "%", "'quoted' not"])
@pytest.mark.parametrize("key", ["data.control", "+data.kwargs.control_pert", "control_pert"])
def test_text_of_the_command_line_needs_no_quotes_of_yaml(label, key):
    assert load_config(None, ["data.split=split.toml", f"{key}={label}"]).data.control == label


def test_quotes_of_yaml_and_interpolations_are_still_read(monkeypatch):
    monkeypatch.setenv("LABEL", "wild type")

    for word, meant in {
        '"no"': "no",
        "'[a, b]'": "[a, b]",
        "${oc.env:LABEL}": "wild type",
        r"\${oc.env:LABEL}": "${oc.env:LABEL}",
    }.items():
        assert load_config(None, ["data.split=split.toml", f"data.control={word}"]).data.control == meant


def test_everything_that_is_refused_comes_in_one_message_a_line_a_key(write):
    run = write("optim: {lr: fast}\nuse_wandb: true\ndata.kwargs.prt_col: gene\nseed: 1\ntraining.train_seed: 2\n")

    with pytest.raises(UserError) as refusal:
        load_config(run, ["model=stat", "trainer.max_stps=3", "seed", "optim.schedule=cosin"])
    assert re.findall(r"^[\w. ]+: [\w.]+", str(refusal.value), re.MULTILINE) == [
        "run.yaml: use_wandb",
        "run.yaml: data.kwargs.prt_col",
        "run.yaml: seed",
        "command line: model",
        "command line: trainer.max_stps",
        "command line: seed",
        "run.yaml: optim.lr",
        "command line: optim.schedule",
    ]


def test_what_only_follows_from_a_misread_key_is_not_said(write):
    run = write("name: mine\ndata: {split: s.toml, contrl: c}\noptim: {schdule: cosine, min_lr_fraction: 0.2}\n")

    with pytest.raises(UserError) as refusal:
        load_config(run, ["trainer.max_stps=3"])
    assert re.findall(r"did you mean ([\w.]+)", str(refusal.value)) == [
        "data.control",
        "optim.schedule",
        "trainer.max_steps",
    ]


def test_settings_without_effect_and_contradictions_come_together(write):
    run = write(RUN + "objective: {blur: 0.7}\ndata.output_space: embedding\n")

    with pytest.raises(UserError) as refusal:
        load_config(run, ["optim.min_lr_fraction=0.3", "training.train_seed=1", "use_wandb=true", "resume=true", "overwrite=true"])
    lines = str(refusal.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "use_wandb", "objective.blur", "optim.min_lr_fraction", "data.output_space", "resume",
    ]  # fmt: skip


@pytest.mark.parametrize("section", ["objective:", "objective: {}", "objective: null"])
def test_a_section_whose_last_line_was_taken_out_changes_nothing(section, write):
    assert load_config(write(f"{RUN}{section}\n")) == load_config(write(RUN))


CHANGED = ["007", "NO", "0x10", "1:30", "1e5", "true", "1_000", "0b11", "1.50", "Off"]


@pytest.mark.parametrize("word", CHANGED)
def test_a_word_that_yaml_changes_is_refused_and_taken_in_quotes_as_told(write, word):
    run = write(RUN)
    with pytest.raises(UserError) as refused:
        load_config(run, [f"data.control={word}"])
    message = str(refused.value)
    assert message.startswith(f"command line: data.control: {word}: text is wanted, and YAML reads this as ")
    (override,) = shlex.split(message.partition("; write ")[2])
    assert load_config(run, [override]).data.control == word

    text = "name: r\ndata:\n  split: split.toml\n  control: %s\nmodel: state_sm\ntrainer: {max_steps: 10}\n"
    with pytest.raises(UserError) as refused:
        load_config(write(text % word))
    message = str(refused.value)
    assert message.startswith(f"run.yaml: data.control: {word}: text is wanted, and YAML reads this as ")
    assert "\n" not in message
    line = message.partition("; write ")[2]
    assert load_config(write(text.replace("control: %s", line))).data.control == word


def test_words_that_yaml_changes_are_found_in_every_way_of_writing(write):
    run = write(RUN)
    for key in ("name", "output_dir", "data.perturbation_column", "data.gem_group_column", "data.kwargs.control_pert"):
        with pytest.raises(UserError, match=rf"{key}.*: 0x10: text is wanted, and YAML reads this as 16; write '{key}=\"0x10\"'"):
            load_config(run, [f"{key}=0x10"])
    with pytest.raises(
        UserError, match=r"data.control: NO: text is wanted, and YAML reads this as false; write 'data.control=\"NO\"'"
    ):
        load_config(run, ["data={control: NO}"])
    with pytest.raises(UserError, match="command line: seed: ") as refused:
        load_config(run, ["seed=1e5"])
    assert "text is wanted" not in str(refused.value)


@pytest.mark.parametrize("word", ["2025", "0", "-3", "'007'", '"NO"', "N0", "1.2.3", "${oc.env:LABEL}"])
def test_other_words_are_taken_as_they_are_written(write, word, monkeypatch):
    monkeypatch.setenv("LABEL", "x7")
    expected = "x7" if "$" in word else word.strip("'\"")
    assert load_config(write(RUN), [f"data.control={word}"]).data.control == expected
