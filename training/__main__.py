"""The command line: `training VERB`. Exit codes: 0 done, 1 failed, 2 the user's input was refused.

What takes time to load is loaded by the verb that needs it.
"""

import argparse
import errno
import faulthandler
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from training.arguments import Parser
from training.closed_pipe import end_at_closed_pipe, outlive_closed_pipe
from training.errors import RunError, UserError
from training.interrupts import end_at_interrupt, ignore_interrupt, raise_at_interrupt

if TYPE_CHECKING:
    from training.config import Run

LESSON_OPTIONS = ("--train", "--val")
"""A fit with one of these is a command line of the lesson's script (training/tasks/tabular/lesson_command.py)."""
Verbs: TypeAlias = "argparse._SubParsersAction[Parser]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns: the exit code.
    """
    try:
        chosen = _parsed(arguments)
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
        logging.captureWarnings(True)
        verb: Callable[[argparse.Namespace], None] = chosen.verb
        if verb not in _PRINTS_ONLY or getattr(chosen, "write_features", None):
            outlive_closed_pipe()
        verb(chosen)
    except UserError as refusal:
        return _said(f"refused: {refusal}", 2)
    except RunError as failure:
        return _said(f"failed: {failure}", 1)
    except OSError as failure:
        if failure.errno == errno.ENAMETOOLONG:  # no path is so long but one that was given
            return _said(f"refused: {_of_file(failure)}", 2)
        return _said(f"failed: {_of_file(failure)}", 1)  # a disk that fills up or goes away under a run
    except KeyboardInterrupt as interrupt:
        said = str(interrupt)
        return _said(f"interrupted{' ' if said and said[0] != ';' else ''}{said}", 1)
    return 0


def _said(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code


def _of_file(failure: OSError) -> str:
    return f"{failure.filename}: {failure.strerror}" if failure.filename and failure.strerror else str(failure)


def command() -> None:
    """`main`, then out.

    After a failure nothing is tidied up: HDF5 crashes at exit (139 instead of 1) where a full disk kept it from closing a file.
    """
    code = main()
    ignore_interrupt()
    sys.stdout.flush()
    sys.stderr.flush()
    if code == 1:
        os._exit(code)
    sys.exit(code)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The verb and its words; argparse alone refuses settings that come after an option."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["fit"] and any(word.partition("=")[0] in LESSON_OPTIONS for word in words):
        chosen = parser().parse_args(["fit"])
        chosen.lesson_command = words[1:]
        return chosen
    chosen, rest = parser().parse_known_args(words)
    if rest:
        if not hasattr(chosen, "settings") or any("=" not in word for word in rest):
            raise UserError(f"training: {rest[0]}: one word too many (what a verb takes: training VERB --help)")
        chosen.settings += rest
    return chosen


def parser() -> argparse.ArgumentParser:
    """All verbs with their options; each has an example."""
    top = Parser(prog="training", description="Train, predict with and judge virtual-cell models.")
    verbs = top.add_subparsers(title="verbs", required=True, metavar="VERB")
    _add_training_verbs(verbs)
    _add_result_verbs(verbs)
    _add_simulate(verbs)
    _add_table_verbs(verbs)
    return top


def _add_training_verbs(verbs: Verbs) -> None:
    run = _verb(verbs, "fit", _fit, "train a model on a run file", "training fit configs/runs/demo.yaml optim.lr=3e-4")
    _run_file(run)
    run.set_defaults(lesson_command=None)
    run = _verb(
        verbs,
        "check",
        _check,
        "read and verify everything that a run needs, without training: files, split, memory, one pass",
        "training check configs/runs/demo.yaml",
    )
    _run_file(run)
    run.add_argument(
        "--write-features",
        type=Path,
        metavar="FILE",
        help="before that, write a new features file (.npz, .pt or .safetensors) that says which genes each perturbation of the "
        "data names (default: none is written)",
    )
    run.add_argument(
        "--overfit", action="store_true", help="also train on one batch for some seconds, to near its floor (default: no)"
    )
    example = "training show-config configs/runs/demo.yaml optim.lr=3e-4"
    what = "print every setting with its value and its meaning, and the plan of the run"
    run = _verb(verbs, "show-config", _show_config, what, example)
    _run_file(run)
    run.add_argument("--json", action="store_true", help="print what the runner needs of it, as JSON, without looking at the data")


def _add_result_verbs(verbs: Verbs) -> None:
    example = "training predict runs/demo --output cells.h5ad --table wanted.csv"
    run = _verb(verbs, "predict", _predict, "write predicted cells of a trained model to an .h5ad file", example)
    _trained_run(run)
    run.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="OUT.h5ad",
        help="file to write; earlier predictions in it are replaced, any other file is refused",
    )
    table = "CSV or TSV file with the columns perturbation, cell_type and n_cells: what to predict (default: the split)"
    run.add_argument("--table", type=Path, metavar="FILE", help=table)
    _trained_run(
        _verb(
            verbs,
            "evaluate",
            _evaluate,
            "compare predictions with real cells and with simple baselines; write metrics.json and report.html",
            "training evaluate runs/demo --split test",
        )
    )
    what = "train a finished run again in a fresh process, and compare weights and history to the bit"
    run = _verb(verbs, "reproduce", _reproduce, what, "training reproduce runs/demo")
    run.add_argument("run_directory", type=Path, metavar="RUN_DIR", help="folder of a run, such as runs/demo")
    run.add_argument("--output", type=Path, metavar="FOLDER", help="folder of the new run (default: RUN_DIR.again)")
    run = _verb(verbs, "report", _report, "write report.html of a run again", "training report runs/demo")
    run.add_argument("run_directory", type=Path, metavar="RUN_DIR", help="folder of a run, such as runs/demo")


def _add_simulate(verbs: Verbs) -> None:
    example = "training simulate runs/cells.h5ad n_cells=20000"
    run = _verb(verbs, "simulate", _simulate, "write a simulated screen whose true effects are known", example)
    beside = "file to write; OUT_features.npz and OUT_split.toml go beside it"
    run.add_argument("output", type=Path, metavar="OUT.h5ad", help=beside)
    from training.data.simulation_settings import Simulation

    defaults = ", ".join(f"{field.name}={field.default}" for field in fields(Simulation))
    run.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help=f"settings that differ from the defaults, which are {defaults}"
    )


def _add_table_verbs(verbs: Verbs) -> None:
    example = "training simulate-table runs/passengers.csv"
    sentence = "write a made-up table of passengers whose true probabilities of surviving are known"
    run = _verb(verbs, "simulate-table", _simulate_table, sentence, example)
    run.add_argument("output", type=Path, metavar="OUT.csv", help="file to write")
    run.add_argument("--rows", type=int, default=891, metavar="N", help="rows of the table (default: %(default)s)")
    run.add_argument("--seed", type=int, default=42, metavar="N", help="seed of all that is drawn (default: %(default)s)")
    example = "training pack-table titanic_train.csv --target Survived --output data"
    sentence = "make the two .npz files of a tabular run, train_data.npz and val_data.npz, from a CSV file"
    run = _verb(verbs, "pack-table", _pack_table, sentence, example)
    run.add_argument("csv", type=Path, metavar="CSV", help="table with a header")
    run.add_argument("--target", required=True, metavar="COLUMN", help="column with the two classes")
    run.add_argument("--output", type=Path, default=Path("."), metavar="FOLDER", help="where the files go (default: here)")
    columns = "columns that the model sees, with commas (default: those of the passenger table if all are there, else all)"
    run.add_argument("--columns", type=lambda text: text.split(","), metavar="A,B,C", help=columns)
    known = "column with the true probability of class 1, where the table is made up (default: none)"
    run.add_argument("--probability", metavar="COLUMN", help=known)
    run.add_argument("--seed", type=int, default=42, metavar="N", help="seed of the split (default: %(default)s)")


def _verb(
    verbs: Verbs,
    name: str,
    call: Callable[[argparse.Namespace], None],
    sentence: str,
    example: str,
) -> argparse.ArgumentParser:
    added = verbs.add_parser(name, help=sentence, description=f"{sentence[0].upper()}{sentence[1:]}.", epilog=f"example: {example}")
    added.set_defaults(verb=call)
    return added


def _run_file(added: argparse.ArgumentParser) -> None:
    added.add_argument(
        "settings",
        nargs="*",
        metavar="RUN.yaml | KEY=VALUE",
        help="a run file (default: configs/runs/transition.yaml), then settings that replace those of the file, such as "
        "optim.lr=3e-4; settings of `state tx train` are accepted too",
    )


def _trained_run(added: argparse.ArgumentParser) -> None:
    added.add_argument("run_directory", type=Path, metavar="RUN_DIR", help="folder of a run, such as runs/demo")
    added.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="settings that replace those of the run, such as data.split=other.toml"
    )
    added.add_argument("--split", choices=("test", "val"), help="which held-out cells of the split file (default: test)")
    added.add_argument(
        "--checkpoint",
        metavar="WHICH",
        help="weights to use: best, last, or a step such as 4000 (default: model.pt, which has the best)",
    )


def _config(chosen: argparse.Namespace) -> "Run":
    from training.config_loader import load_config

    files = [word for word in chosen.settings if "=" not in word]
    if len(files) > 1 or (files and chosen.settings[0] != files[0]):
        raise UserError(f"command line: {files[-1]}: neither KEY=VALUE nor the one run file that comes first")
    return load_config(Path(files[0]) if files else None, chosen.settings[len(files) :])


def _fit(chosen: argparse.Namespace) -> None:
    output = None
    if chosen.lesson_command is None:
        config = _config(chosen)  # a configuration is judged before torch is loaded
    else:
        from training.tasks.tabular.lesson_command import read_lesson_command

        command = read_lesson_command(chosen.lesson_command, os.environ)
        config, output = command.config, command.output
    assert sys.__stderr__ is not None
    faulthandler.register(signal.SIGUSR1, file=sys.__stderr__)  # stacks of all threads: the watchdog asks for them
    from training import run

    raise_at_interrupt()
    directory = run.fit(config)
    if output is not None:
        from training.tasks.tabular.outputs import copy_artifacts

        print("\n".join(copy_artifacts(directory, output)))


def _check(chosen: argparse.Namespace) -> None:
    config = _config(chosen)
    from training import run

    raise_at_interrupt()
    run.check(config, chosen.write_features, chosen.overfit)


def _show_config(chosen: argparse.Namespace) -> None:
    from training.config_text import commented_yaml

    config = _config(chosen)
    if chosen.json:
        from training.checkpoints.settings import for_runner

        print(json.dumps(for_runner(config)))
        return
    print(commented_yaml(config))
    from training import run

    raise_at_interrupt()
    print("\n".join(f"# {line}" for line in run.show_plan(config).splitlines()))


def _predict(chosen: argparse.Namespace) -> None:
    from training import run

    raise_at_interrupt()
    if chosen.table is not None and chosen.split is not None:
        raise UserError(f"command line: --split {chosen.split} has no effect beside --table {chosen.table}; leave one out")
    run.predict(chosen.run_directory, chosen.settings, chosen.output, chosen.split, chosen.table, chosen.checkpoint)


def _evaluate(chosen: argparse.Namespace) -> None:
    from training import run

    raise_at_interrupt()
    print(run.evaluate(chosen.run_directory, chosen.settings, chosen.split, chosen.checkpoint))


def _report(chosen: argparse.Namespace) -> None:
    from training import run

    raise_at_interrupt()
    print(run.report(chosen.run_directory))


def _reproduce(chosen: argparse.Namespace) -> None:
    from training import run

    raise_at_interrupt()
    given: Path = chosen.run_directory
    print(run.reproduce(given, chosen.output or given.resolve().with_name(f"{given.resolve().name}.again")))


def _simulate(chosen: argparse.Namespace) -> None:
    from training.data.simulation import simulate
    from training.data.simulation_settings import Simulation

    raise_at_interrupt()
    for path in simulate(Simulation.of(chosen.settings), chosen.output).paths:
        print(path)


def _simulate_table(chosen: argparse.Namespace) -> None:
    from training.tasks.tabular.simulation import PROBABILITY, simulate_table

    raise_at_interrupt()
    best = simulate_table(chosen.output, chosen.rows, chosen.seed)
    print(
        f"{chosen.output}\nThe best possible rule has an accuracy of {best:.4f} on average ({PROBABILITY} has its probabilities)."
    )


def _pack_table(chosen: argparse.Namespace) -> None:
    from training.tasks.tabular.pack import pack_table

    raise_at_interrupt()
    packed = pack_table(chosen.csv, chosen.target, chosen.output, chosen.columns, chosen.probability, chosen.seed)
    print(packed.summary())


_PRINTS_ONLY = (_check, _show_config)
"""Verbs that have no other product than what they print."""

if __name__ == "__main__":
    end_at_interrupt()
    end_at_closed_pipe()
    command()
