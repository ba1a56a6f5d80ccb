"""Run as a module: for each line RUN<tab>JOB<tab>URL<tab>INTERVAL on stdin a process of its own pushes; its pid is printed.

It imports once and forks, so that a hundred pushers start in no time.
"""

import os
import signal
import sys
from pathlib import Path

import google.cloud.storage  # noqa: F401  # before the forks: a second each

from training.runner.mirror.push import Pusher


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries them
    for line in sys.stdin:
        run, job, url, interval = line.rstrip("\n").split("\t")
        pid = os.fork()
        if pid == 0:
            os.setsid()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os._exit(Pusher(Path(run), Path(job), url, float(interval)).forever())
        print(pid, flush=True)


main()
