"""Two small programs that stay on the machine: what goes on after a reboot, and what brings the last results to the bucket."""

import shlex


def supervision(root: str, *words: str) -> str:
    """The words of a shell that call the machine's side of us. -P: a `copy.py` in the working directory is not Python's own."""
    return (
        f"{shlex.quote(f'{root}/code/.venv/bin/python')} -P -m training.supervision --root {shlex.quote(root)} {shlex.join(words)}"
    )


def detached(root: str, *words: str, log: str) -> str:
    """The same, left to itself: nohup, a session of its own, and all three streams redirected, or SSH would wait for it."""
    return f"cd {shlex.quote(f'{root}/code')} && nohup setsid {supervision(root, *words)} </dev/null >>{shlex.quote(log)} 2>&1 &"


def unit_name(name: str) -> str:
    """Of a run's systemd unit, in which `=` is not allowed and written as systemd-escape does."""
    return f"incubator-{name.replace('=', chr(92) + 'x3d')}.service"


def unit(root: str, name: str, user: str, staged: str) -> str:
    """A systemd unit in place of nohup.

    What ended by itself is not started again (a run that fails has had its restarts), what was killed is; SIGTERM goes to the
    supervisor alone, which ends the run with a checkpoint and pushes it.
    """
    log = f"{root}/jobs/{name}/training.log"
    lines = [
        "# Written by fab train --systemd.",
        "[Unit]",
        f"Description=Incubator run {name}",
        f'RequiresMountsFor="{root}"',
        "Wants=network-online.target",
        "After=network-online.target",
        "[Service]",
        f"User={user}",
        f"WorkingDirectory={root}/code",
        f"ExecStart={supervision(root, 'supervise', name, '--boot', '--from', staged)}",
        "KillMode=mixed",
        "TimeoutStopSec=180",
        "Restart=on-abnormal",
        f"StandardOutput=append:{log}",
        f"StandardError=append:{log}",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def install_unit(root: str, name: str) -> str:
    """The commands that install and start the unit that stands on standard input."""
    job, unit, file = (
        shlex.quote(text) for text in (f"{root}/jobs/{name}", unit_name(name), f"/etc/systemd/system/{unit_name(name)}")
    )
    return (
        f"mkdir -p {job} && sudo -n tee {file} >/dev/null && sudo -n systemctl daemon-reload && "
        f"sudo -n systemctl enable --quiet {unit} && sudo -n systemctl restart {unit}"
    )


def boot_hook(root: str) -> str:
    """Called at every boot as its owner: by the start-up script of a rented machine, otherwise by cron; by cron in between, too."""
    swap, log = shlex.quote(f"{root}/swapfile"), shlex.quote(f"{root}/boot.log")
    return (
        "#!/bin/sh\n# Written by fab bootstrap: goes on with the runs that were not finished; said `revive`, with those whose "
        "supervisor was killed.\n"
        f"[ $# = 0 ] && [ -e {swap} ] && sudo -n swapon {swap}\n"
        f'exec {supervision(root)}"${{1:-boot}}" </dev/null >>{log} 2>&1\n'
    )


def last_sync(root: str) -> str:
    """Called by `fab down`: succeeds only if all of every run is in its bucket."""
    return (
        "#!/bin/sh\n# Written by fab bootstrap: what is only on this disk goes to the bucket.\n"
        f"exec {supervision(root, 'last-sync')}\n"
    )
