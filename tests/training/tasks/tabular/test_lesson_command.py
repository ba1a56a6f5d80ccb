"""The command line of the lesson's script, and what of it is refused."""

import pytest

from training.errors import UserError
from training.tasks.tabular.lesson_command import is_lesson_command, read_lesson_command

FILES = ["--train", "train.npz", "--val=gs://bucket/val.npz"]


def refused(*words, files=FILES) -> str:
    with pytest.raises(UserError) as refusal:
        read_lesson_command([*files, *words], {})
    return str(refusal.value)


def test_defaults_are_those_of_the_script():
    command = read_lesson_command(FILES, {})
    config = command.config

    assert (config.data.train, config.data.val) == ("train.npz", "gs://bucket/val.npz")
    assert (config.trainer.max_epochs, config.optim.lr, config.optim.weight_decay, config.seed) == (1000, 1e-4, 0.0, 42)
    assert config.early_stopping.model_dump() == {"patience": 10, "min_delta": 1e-3, "restore_best": True}
    assert config.model.hidden_dims == (64, 32)
    assert command.output == "."


def test_every_option_of_the_lesson_is_taken_in_both_forms():
    words = ["--epochs=200", "--learning_rate", "0.001", "--patience=5", "--min_delta", "0", "--restore_best=no"]

    config = read_lesson_command([*FILES, *words], {}).config

    assert (config.trainer.max_epochs, config.optim.lr) == (200, 1e-3)
    assert config.early_stopping.model_dump() == {"patience": 5, "min_delta": 0, "restore_best": False}


def test_results_go_where_vertex_says():
    assert read_lesson_command(FILES, {"AIP_MODEL_DIR": "gs://bucket/job/model/"}).output == "gs://bucket/job/model/"
    assert read_lesson_command(FILES, {"AIP_MODEL_DIR": ""}).output == "."


@pytest.mark.parametrize("word", ["1", "true", "Yes", "y"])
def test_words_for_yes(word):
    assert read_lesson_command([*FILES, "--restore_best", word], {}).config.early_stopping.restore_best


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (["--patience", "0"], ("command line: --patience 0: input should be greater than or equal to 1",)),
        (["--patience=1.5"], ("--patience: 1.5 is no whole number (accepted: such as 10)",)),
        (["--epochs", "0"], ("--epochs 0: input should be greater than or equal to 1",)),
        (["--epochs"], ("--epochs: expected one argument",)),
        (["--learning_rate", "fast"], ("--learning_rate: fast is no number",)),
        (["--learning_rate", "0"], ("--learning_rate 0.0: input should be greater than 0",)),
        (["--learning_rate", "nan"], ("--learning_rate nan: ",)),
        (["--min_delta=-1"], ("--min_delta -1.0: input should be greater than or equal to 0",)),
        (["--restore_best", "perhaps"], ("--restore_best: perhaps is neither yes nor no (accepted: 1, true, yes, y, 0",)),
        (["--model_out", "x"], ("--model_out: no option of the script", "accepted: --train VALUE --val VALUE")),
        (["--learning-rate", "1"], ("did you mean --learning_rate?",)),
        (["--epoch", "1"], ("did you mean --epochs?",)),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_option(words, texts):
    message = refused(*words)

    assert message.startswith("command line: ")
    assert "\n" not in message
    for text in texts:
        assert text in message, message


def test_both_files_are_wanted():
    assert "the following arguments are required: --val" in refused(files=["--train", "x.npz"])
    assert "--train s3://x.npz: accepted: a path, gs://BUCKET/NAME.npz" in refused(files=["--train", "s3://x.npz", "--val", "y"])


def test_a_command_of_the_script_is_known_by_its_files():
    assert is_lesson_command(["--train=x"])
    assert not is_lesson_command(["run.yaml", "data.train=x"])
