"""Gate on the driver: after a reboot it may load late, or be gone, and a run would go on on the CPU at the price of a GPU."""

import json
import shutil
import subprocess
from pathlib import Path

from training.config import RunConfig
from training.errors import RunError


def needs_gpu(config: RunConfig, run: Path) -> bool:
    """Whether the next start is to be on a GPU: it was asked for, or `auto` found one at the latest start."""
    device = config.trainer.device
    return device == "gpu" or (device == "auto" and _latest_device(run) == "gpu")


def ask_gpu() -> None:
    """Raises: RunError unless the driver answers."""
    if shutil.which("nvidia-smi") is None:
        raise RunError("trainer.device: gpu: nvidia-smi is not on PATH: this machine has no NVIDIA driver")
    try:
        done = subprocess.run(["nvidia-smi"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        raise RunError("trainer.device: gpu: nvidia-smi gives no answer within 60 seconds") from None
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).split())[:300]
        raise RunError(f"trainer.device: gpu: nvidia-smi ends with exit code {done.returncode}: {words}")


def _latest_device(run: Path) -> str | None:
    try:
        return str(json.loads((run / "run.json").read_text())["starts"][-1]["device"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
