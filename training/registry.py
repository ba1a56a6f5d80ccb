"""Which tasks there are: a line for each, and its schema is imported when a run of it is read."""

from importlib import import_module

from training.config import Run
from training.errors import UserError, did_you_mean

TASKS = {
    "perturbation": "training.config:RunConfig",
}
"""Name of the task -> module and class of its run."""
DEFAULT_TASK = "perturbation"


def run_schema(task: str) -> type[Run]:
    """The schema of a task's run; loads no torch.

    Raises: UserError if there is no such task.
    """
    if task not in TASKS:
        raise UserError(f"task: {task}: no such task{did_you_mean(task, TASKS)} (accepted: {', '.join(TASKS)})")
    module, _, name = TASKS[task].partition(":")
    schema: type[Run] = getattr(import_module(module), name)
    return schema
