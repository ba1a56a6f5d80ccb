"""What a sweep prints: what is ours, what only looks like it, and the words that delete each."""

import shlex
from collections.abc import Iterable

from infra.prices import BUCKET_USD_PER_GIB_MONTH
from infra.stack_config import CHECKPOINT_UNDO_DAYS, PROJECT, UNDO_DAYS
from infra.sweep import RUNNING, Billed
from training.text import aligned, escaped

NOT_LISTED = (
    f"Not listed: the bucket, which is the result and stays (about {BUCKET_USD_PER_GIB_MONTH:.3f} dollars per GiB and month, and "
    f"as much for what was deleted or overwritten in it: kept for {UNDO_DAYS} days, checkpoints for {CHECKPOINT_UNDO_DAYS}), "
    "and accounts, which cost nothing."
)
LIKE_OURS = (
    "Not of this installation, by its labels or its name, and never deleted here (each with the command that does; ours are those "
    f"whose label {PROJECT}-bucket names the bucket of your stack storage):"
)


def table(items: Iterable[Billed], stack: str | None = None, others: Iterable[Billed] = ()) -> str:
    """The items with their prices and the sum, as text for a terminal.

    `stack`: the one that was looked at, if there is one; `others`: what is of other stacks.
    """
    items = [*items]
    ours, alike = [item for item in items if item.ours], [item for item in items if not item.ours]
    lines = _rows(ours)
    if not any(item.costs for item in items):
        what = f"stack {stack}" if stack else PROJECT
        lines.append(f"Nothing of {what} costs money here: no VM, disk, address, snapshot, image or NAT.")
    elif ours:
        lines.append(f"Together {_sum(ours)} dollars a month if all stays as it is (an estimate).")
    if alike:
        lines += [LIKE_OURS, *_rows(alike), *(f"   gcloud {escaped(shlex.join(item.delete_words))}" for item in alike)]
    return "\n".join([*lines, *beside(others), NOT_LISTED])


def beside(items: Iterable[Billed]) -> list[str]:
    """What other stacks cost, a line for each VM and one for the rest; empty if they cost nothing."""
    items = [item for item in items if item.costs]
    lines = [
        f"Beside it: VM {item.name} in {item.place} {'runs' if item.status in RUNNING else f'is {item.status.lower()}'}: "
        f"{_sum([item])} dollars a month; {item.note}"
        for item in items
        if item.kind == "VM"
    ]
    rest = [item for item in items if item.kind != "VM"]
    if rest:
        names = ", ".join(f"{item.kind} {item.name}" for item in rest)
        lines.append(f"Beside it: {names}: {_sum(rest)} dollars a month (./fab sweep)")
    return [escaped(line) for line in lines]


def _rows(items: list[Billed]) -> list[str]:
    if not items:
        return []
    rows = [("", "name", "place", "stack", "status", "$/month", "")]
    rows += [(item.kind, item.name, item.place, item.stack, item.status, _price(item), item.note) for item in items]
    return aligned([[escaped(cell) for cell in row] for row in rows], right=[5])


def _sum(items: list[Billed]) -> str:
    least = "at least " if any(item.usd_per_month is None for item in items) else ""
    return f"{least}about {sum(item.usd_per_month or 0 for item in items):.2f}"


def _price(item: Billed) -> str:
    return "?" if item.usd_per_month is None else f"{item.usd_per_month:.2f}"
