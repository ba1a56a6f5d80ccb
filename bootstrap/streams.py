"""What a program prints because of a machine: taken up to a limit, or shown on the terminal with what does not print escaped."""

import codecs
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Thread
from typing import IO, TextIO

from training.errors import RunError
from training.text import escaped

LIMIT_BYTES = 64 * 2**20
"""Of one answer: the longest, rsync's list of 300,000 changed files, has 40 MB."""
TAIL = 4000
KEPT = "\n\t\r"
"""As they are on the terminal: carriage returns draw progress bars, and can do no more than a line break can."""


@dataclass(frozen=True)
class Answer:
    """How a command on the machine ended, and what it printed; of what was shown, only the end of its standard error."""

    code: int
    out: str
    err: str


def capture(words: Sequence[str], stdin: str | None = None, seconds: float | None = None, limit: int = LIMIT_BYTES) -> Answer:
    """Run a program of this laptop and take what it prints.

    Units: `seconds` to wait at most; `limit` bytes that it may print on either stream.
    Raises: subprocess.TimeoutExpired; RunError if it prints more; FileNotFoundError without the program.
    """
    process = _started(words, stdin is not None)
    sinks = [_Sink(stream, limit, process) for stream in (process.stdout, process.stderr) if stream]
    threads = [_thread(sink.fill) for sink in sinks]
    _feed(process, stdin)
    try:
        code = process.wait(seconds)
    finally:  # after a timeout the pipes are left alone: ssh's master holds them until the command on the machine ends
        process.kill()  # nothing, if it has ended
        process.wait()
    for thread in threads:
        thread.join(10)  # a child that it has left in the background may hold the pipe open
    if any(sink.is_over for sink in sinks):
        raise RunError(f"it printed more than {limit:,} bytes, which no answer has; it was not read")
    return Answer(code, *(b"".join(sink.chunks).decode("utf-8", "replace") for sink in sinks))


def show(words: Sequence[str], stdin: str | None = None) -> Answer:
    """Run a program of this laptop whose output goes to the terminal, escaped."""
    sys.stdout.flush()
    with _started(words, stdin is not None) as process:
        tail: list[str] = []
        others = [
            _thread(lambda: _relay(process.stderr, sys.stderr, tail)),
            _thread(lambda: _relay(process.stdout, sys.stdout, [])),
        ]
        _feed(process, stdin)
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            raise
        for thread in others:
            thread.join()
    return Answer(code, "", "".join(tail)[-TAIL:])


@dataclass
class _Sink:
    """Takes a stream up to `limit` bytes, and ends the program that sends more."""

    stream: IO[bytes]
    limit: int
    process: "subprocess.Popen[bytes]"
    chunks: list[bytes] = field(default_factory=list)
    is_over: bool = False

    def fill(self) -> None:
        size = 0
        with self.stream:
            while chunk := self.stream.read1(65536):  # type: ignore[attr-defined]  # Popen's pipes are buffered readers
                size += len(chunk)
                self.is_over |= size > self.limit
                if self.is_over:
                    self.process.kill()
                    self.chunks.clear()
                else:
                    self.chunks.append(chunk)


def _relay(stream: IO[bytes] | None, to: TextIO, tail: list[str]) -> None:
    """Reads to the end whatever becomes of the writing: the program would wait for ever at a full pipe."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while stream and (chunk := stream.read1(65536)):  # type: ignore[attr-defined]
        text = escaped(decoder.decode(chunk), keep=KEPT)
        with suppress(OSError, ValueError):  # a full disk; a terminal without the character; a closed stream
            to.write(text)
            to.flush()
        tail[:] = ["".join(tail)[-TAIL:], text[-TAIL:]]


def _started(words: Sequence[str], takes_input: bool) -> "subprocess.Popen[bytes]":
    stdin = subprocess.PIPE if takes_input else subprocess.DEVNULL
    return subprocess.Popen(words, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _feed(process: "subprocess.Popen[bytes]", stdin: str | None) -> None:
    """In a thread of its own: a program that reads nothing must not hold us up."""
    if stdin is None or process.stdin is None:
        return
    pipe = process.stdin

    def write() -> None:
        with suppress(BrokenPipeError):
            pipe.write(stdin.encode())
        with suppress(BrokenPipeError):
            pipe.close()

    _thread(write)


def _thread(work: Callable[[], None]) -> Thread:
    thread = Thread(target=work, daemon=True)
    thread.start()
    return thread
