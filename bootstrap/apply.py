"""Does what steps yield, or says it (`--dry-run`): each action with what it is and how long it took."""

import shlex
import subprocess
import sys
import time
from collections.abc import Iterable

from bootstrap.connection import LOST, Host
from bootstrap.steps import Action, Command, Copy
from bootstrap.sync_progress import run_with_progress
from training.errors import RunError


def apply(host: Host, actions: Iterable[Action]) -> int:
    """Do one after the other; what they print is seen.

    Returns: how many there were.
    Raises: RunError or UserError with the first that does not come through; those before it hold.
    """
    number = 0
    for action in actions:
        number += 1
        note = f" ({action.note})" if isinstance(action, Command) and action.note else ""
        print(f"-> {action.does}{note}", flush=True)
        start = time.monotonic()
        if isinstance(action, Command):
            code = _sync(host, action) if action.is_sync else host.show(action.shell, action.stdin).code
            if code:
                raise RunError(
                    f"{host.machine.label}: {action.does}: ended with exit code {code} (see above); the same command goes on there"
                )
        else:
            _copy(host, action)
        print(f"   done in {time.monotonic() - start:.1f} s", flush=True)
    return number


def shown(host: Host, action: Action) -> str:
    """The command as one could type it; what is told on standard input is named, never shown."""
    if isinstance(action, Command):
        return action.shell + ("   # with text on standard input" if action.stdin else "")
    words = host.rsync(action.source, action.to, *action.options, files=action.files)
    return shlex.join(words) + (f"   # {len(action.files)} names on standard input" if action.files is not None else "")


def _sync(host: Host, action: Command) -> int:
    code = run_with_progress(host.ssh(action.shell))
    if code == LOST:
        raise host.lost("")
    return code


def _copy(host: Host, action: Copy) -> None:
    if action.files is not None:
        host.copy(action.source, action.to, *action.options, files=action.files)
        return
    words = host.rsync(action.source, action.to, *action.options, *(["--info=progress2"] if sys.stdout.isatty() else []))
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stderr is not None
        said = process.stderr.read()
    if process.returncode:
        raise host.copy_failed(process.returncode, said) if process.returncode != LOST else host.lost(said)
