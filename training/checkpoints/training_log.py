"""training.log: everything printed, from the first line on, although the run's folder appears only later."""

import logging
from pathlib import Path
from types import TracebackType
from typing import TextIO

from training.errors import RunError, UserError


class TrainingLog(logging.Handler):
    """Keeps log lines until `open` names the file, then appends them there; as a context it also records what ended the run."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        self._waiting: list[str] = []
        self._file: TextIO | None = None

    def open(self, path: Path) -> None:
        """Append to `path` from now on, what has waited first."""
        self._file = path.open("a")
        self._file.writelines(self._waiting)
        self._file.flush()

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging."""
        line = self.format(record) + "\n"
        if self._file is None:
            self._waiting.append(line)
        else:
            self._file.write(line)
            self._file.flush()

    def __enter__(self) -> "TrainingLog":
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            exc_info = None if isinstance(error, UserError | RunError | KeyboardInterrupt) else (type(error), error, trace)
            self.handle(logging.LogRecord(__name__, logging.ERROR, __file__, 0, "%s: %s", (type(error).__name__, error), exc_info))
        logging.getLogger().removeHandler(self)
        if self._file is not None:
            self._file.close()
