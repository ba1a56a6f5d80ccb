"""One line of progress in place of the 150 that `uv sync` prints; all of them if it fails."""

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from threading import Thread

from training.text import escaped

_BEGUN = re.compile(r"\s*Downloading (?P<file>\S+) \((?P<size>\d{1,9}(?:\.\d{1,9})?)(?P<unit>[KMG])iB\)")
_ENDED = re.compile(r"\s*Downloaded (?P<file>\S+)")
_INSTALLED = re.compile(r"Installed (?P<number>\d{1,9}) packages?\b")
_BYTES = {"K": 2**10, "M": 2**20, "G": 2**30}
_TERMINAL_SECONDS, _LOG_SECONDS = 1.0, 30.0  # between two lines: on a terminal the next one takes the place of the last


class Progress:
    """What uv has downloaded and installed so far, from what it prints. It names each file of 1 MiB or more."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._sizes: dict[str, float] = {}
        self._ended: set[str] = set()
        self._installed = 0

    def read(self, line: str) -> None:
        """Take one line of uv's output."""
        self.lines.append(line)
        if begun := _BEGUN.fullmatch(line):
            self._sizes[begun["file"]] = float(begun["size"]) * _BYTES[begun["unit"]]
        elif ended := _ENDED.fullmatch(line):
            self._ended.add(ended["file"])
        elif installed := _INSTALLED.match(line):
            self._installed = int(installed["number"])

    def now(self, seconds: float) -> str:
        """The line while it runs."""
        ended = sum(size for file, size in self._sizes.items() if file in self._ended)
        return (
            f"downloaded {len(self._ended & self._sizes.keys())} of {len(self._sizes)} files, {ended / 1e6:,.0f} of "
            f"{sum(self._sizes.values()) / 1e6:,.0f} MB, {seconds:.0f} s"
        )

    def result(self) -> str:
        """The line at the end."""
        size = sum(self._sizes.values())
        return f"{self._installed} packages installed, {f'{size / 1e6:,.0f} MB' if size else 'nothing large'} downloaded"


def run_with_progress(argv: Sequence[str]) -> int:
    """Run a command that syncs an environment; print its progress and its warnings, and all of its output if it fails.

    Returns: its exit code.
    """
    progress, start, told = Progress(), time.monotonic(), time.monotonic()
    lines: SimpleQueue[str | None] = SimpleQueue()
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace"
    ) as process:
        assert process.stdout is not None
        output = process.stdout

        def forward() -> None:
            for line in output:
                lines.put(line.rstrip("\n"))
            lines.put(None)

        Thread(target=forward, daemon=True).start()
        is_terminal = sys.stdout.isatty()
        every = _TERMINAL_SECONDS if is_terminal else _LOG_SECONDS
        while True:
            try:
                line = lines.get(timeout=every)
                if line is None:
                    break
                progress.read(line)
            except Empty:
                pass
            if time.monotonic() - told >= every:
                told = time.monotonic()
                _show(progress.now(told - start), is_terminal)
    if is_terminal:
        print("\r\033[K", end="")
    failed = process.returncode != 0
    for line in progress.lines:
        if failed or line.startswith("warning:"):
            print(escaped(line, keep="\t"))
    if not failed:
        print(f"   {progress.result()}", flush=True)
    return process.returncode


def _show(line: str, is_terminal: bool) -> None:
    print(f"\r   {line}\033[K" if is_terminal else f"   {line}", end="" if is_terminal else "\n", flush=True)
