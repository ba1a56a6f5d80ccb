"""Gate on the driver: after a reboot it may load late, or be gone, and a run would go on on the CPU at the price of a GPU."""

import shutil
import subprocess
from pathlib import Path

from training.errors import RunError
from training.run_facts import read_facts
from training.runner.run_file import RunSettings


def needs_gpu(settings: RunSettings, run: Path) -> bool:
    """Whether the next start is to be on a GPU: it was asked for, or `auto` found one at the latest start."""
    device, facts = settings.device, read_facts(run)
    return device == "gpu" or (device == "auto" and facts is not None and facts.latest.device == "gpu")


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
