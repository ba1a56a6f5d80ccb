"""Verbs of `python -m training.runner` on the machine, whose code may be of another version than this laptop's."""

import re
import shlex

from bootstrap import hooks
from bootstrap.connection import Host
from bootstrap.facts import Facts
from bootstrap.streams import Answer
from training.errors import RunError

# argparse does not know a verb or a flag of ours; or the package of the verbs has another name there.
_UNKNOWN = re.compile(r"^usage: python -m training\.(runner|supervision)\b|No module named '?training\b|unknown option -P", re.M)


def ask_verb(host: Host, facts: Facts, *words: str) -> Answer:
    """What a verb prints, and its exit code.

    Raises: RunError if the code there does not know it; as Host.ask does.
    """
    return _understood(host, facts, words, host.ask(hooks.runner(facts.root, *words, module=facts.runner)))


def show_verb(host: Host, facts: Facts, *words: str) -> int:
    """Run a verb that prints to the terminal.

    Returns: its exit code.
    Raises: RunError if the code there does not know it; as Host.show does.
    """
    return _understood(host, facts, words, host.show(hooks.runner(facts.root, *words, module=facts.runner))).code


def _understood(host: Host, facts: Facts, words: tuple[str, ...], answer: Answer) -> Answer:
    if answer.code and _UNKNOWN.search(answer.err):
        raise RunError(
            f"{host.machine.label}: the code there does not know `{shlex.join(words)}`: it is of another version than that of this "
            f"laptop. {update_advice(facts)}"
        )
    return answer


def update_advice(facts: Facts) -> str:
    """What to do where the code there is of another version; a living run keeps its code."""
    commit = re.match(r"[0-9a-f]{40}", facts.commit)
    own = f"take the version that it was started with, here: git checkout {commit[0]}" if commit else "stop it by hand first"
    return f"Bring it up to date: ./fab bootstrap. While a run lives there, {own}"
