"""Where logged values go: metrics.jsonl beside TensorBoard's files."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger


class JsonLines(Logger):
    """Every logged step as one line of metrics.jsonl; appends across resumes, so that of equal steps the last line counts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def name(self) -> str:
        """Lightning asks; nothing uses it."""
        return "metrics"

    @property
    def version(self) -> int:
        """Lightning asks; nothing uses it."""
        return 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one line; opened and closed each time, so that a kill loses nothing that was logged."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The configuration is in config.yaml."""
