"""Two small programs that stay on the machine: what goes on after a reboot, and what brings the last results to the bucket."""

import shlex

RUNNER = "training.runner"
RUNNER_BEFORE = "training.supervision"
"""Its name in code that a living run may still keep."""


def runner(root: str, *words: str, module: str = RUNNER) -> str:
    """The shell's argv of a verb of the runner. -P: a `copy.py` in the working directory is not Python's own."""
    return f"{shlex.quote(f'{root}/code/.venv/bin/python')} -P -m {module} --root {shlex.quote(root)} {shlex.join(words)}"


def detached(root: str, *words: str, log: str, module: str = RUNNER) -> str:
    """The same, left to itself: nohup, a session of its own, and all three streams redirected, or SSH would wait for it."""
    command = runner(root, *words, module=module)
    return f"cd {shlex.quote(f'{root}/code')} && nohup setsid {command} </dev/null >>{shlex.quote(log)} 2>&1 &"


def boot_hook(root: str) -> str:
    """Called at every boot as its owner: by the start-up script of a rented machine, otherwise by cron; by cron in between, too."""
    swap, log = shlex.quote(f"{root}/swapfile"), shlex.quote(f"{root}/boot.log")
    return (
        "#!/bin/sh\n# Written by fab bootstrap: goes on with the runs that were not finished; said `revive`, with those whose "
        "supervisor was killed.\n"
        f"[ $# = 0 ] && [ -e {swap} ] && sudo -n swapon {swap}\n"
        f'exec {runner(root)}"${{1:-boot}}" </dev/null >>{log} 2>&1\n'
    )


def last_sync(root: str) -> str:
    """Called by `fab down`: succeeds only if all of every run is in its bucket."""
    return (
        f"#!/bin/sh\n# Written by fab bootstrap: what is only on this disk goes to the bucket.\nexec {runner(root, 'last-sync')}\n"
    )
