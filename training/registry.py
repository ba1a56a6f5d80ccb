"""The tasks: a name that stands in a run file as `task`, and the package that answers for it. A new task is one line here."""

from importlib import import_module
from types import ModuleType

from training.config import Run
from training.errors import UserError, did_you_mean

TASKS = {
    "perturbation": "training.tasks.perturbation",
    "tabular": "training.tasks.tabular",
}
DEFAULT_TASK = "perturbation"


def part(task: str, module: str) -> ModuleType:
    """A module of a task's package: `config`, `spec` or `task`; imported when it is asked for.

    Raises: UserError if there is no such task.
    """
    if task not in TASKS:
        raise UserError(f"task: {task}: no such task{did_you_mean(task, TASKS)} (accepted: {', '.join(TASKS)})")
    return import_module(f"{TASKS[task]}.{module}")


def run_schema(task: str) -> type[Run]:
    """The schema of a task's run; loads no torch.

    Raises: UserError if there is no such task.
    """
    schema: type[Run] = part(task, "config").RUN
    return schema
