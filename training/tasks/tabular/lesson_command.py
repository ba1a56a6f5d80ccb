"""The command line of the lesson's script, translated once into a run.

    --train F --val F [--epochs 1000] [--learning_rate 1e-4] [--patience 10] [--min_delta 1e-3] [--restore_best true]

Results go to the folder that `AIP_MODEL_DIR` names, or to the working directory. The run directory is `runs/train_nn`.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from pydantic import ValidationError

from training.errors import UserError, did_you_mean
from training.tasks.tabular.config import LESSON_LR, LESSON_MAX_EPOCHS, LESSON_MIN_DELTA, LESSON_PATIENCE, TabularConfig
from training.text import escaped

RUN_NAME = "train_nn"
_KEYS = {
    "train": "data.train", "val": "data.val", "epochs": "trainer.max_epochs", "learning_rate": "optim.lr",
    "patience": "early_stopping.patience", "min_delta": "early_stopping.min_delta", "restore_best": "early_stopping.restore_best",
}  # fmt: skip
"""Option of the script -> key of a run file."""
_TRUE, _FALSE = ("1", "true", "yes", "y"), ("0", "false", "no", "n")


@dataclass(frozen=True)
class LessonCommand:
    """What a command line of the script asks for."""

    config: TabularConfig
    output: str
    """Folder or `gs://` prefix that receives the results besides the run directory."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        text = escaped(message.removeprefix("argument "))
        accepted = "" if "(accepted: " in text else f" (accepted: {' '.join(f'--{option} VALUE' for option in _KEYS)})"
        raise UserError(f"command line: {text}{accepted}")


def is_lesson_command(argv: Sequence[str]) -> bool:
    """Whether a command line is one of the script's: it has `--train` or `--val`."""
    return any(word.partition("=")[0] in ("--train", "--val") for word in argv)


def read_lesson_command(argv: Sequence[str], environment: Mapping[str, str]) -> LessonCommand:
    """Translate a command line of the script.

    A run of the same command replaces the one before, as there.

    Raises: UserError that names the option, the value and what is accepted.
    """
    parser = _Parser(prog="train_nn", allow_abbrev=False, add_help=False)
    parser.add_argument("--train", required=True)
    parser.add_argument("--val", required=True)
    parser.add_argument("--epochs", type=_whole, default=LESSON_MAX_EPOCHS)
    parser.add_argument("--learning_rate", type=_number, default=LESSON_LR)
    parser.add_argument("--patience", type=_whole, default=LESSON_PATIENCE)
    parser.add_argument("--min_delta", type=_number, default=LESSON_MIN_DELTA)
    parser.add_argument("--restore_best", type=_truth, default=True)
    chosen, unknown = parser.parse_known_args(list(argv))
    if unknown:
        word = unknown[0].partition("=")[0]
        near = did_you_mean(word, [f"--{option}" for option in _KEYS])
        parser.error(f"{word}: no option of the script{near}")
    try:
        config = TabularConfig.model_validate({
            "task": "tabular", "name": RUN_NAME, "overwrite": True, "data": {"train": chosen.train, "val": chosen.val},
            "trainer": {"max_epochs": chosen.epochs}, "optim": {"lr": chosen.learning_rate},
            "early_stopping": {"patience": chosen.patience, "min_delta": chosen.min_delta, "restore_best": chosen.restore_best},
        })  # fmt: skip
    except ValidationError as error:
        raise UserError("\n".join(_refusal(each["loc"], each["input"], each["msg"]) for each in error.errors())) from None
    return LessonCommand(config, environment.get("AIP_MODEL_DIR") or ".")


def _refusal(location: Sequence[object], value: object, why: str) -> str:
    key = ".".join(map(str, location))
    option = next((f"--{option}" for option, of in _KEYS.items() if of == key), key)
    reason = why.removeprefix("Value error, ")
    return f"command line: {option} {escaped(str(value))}: {reason[0].lower()}{reason[1:]}"


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no whole number (accepted: such as 10)") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no number (accepted: such as 0.001)") from None


def _truth(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise argparse.ArgumentTypeError(f"{text} is neither yes nor no (accepted: {', '.join(_TRUE + _FALSE)})")
    return text.lower() in _TRUE
