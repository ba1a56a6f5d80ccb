"""Whether a machine can train at all, from its facts alone: what stands in the way is said before anything is sent there."""

import re
import tomllib

from bootstrap.facts import Facts
from bootstrap.machine import Machine
from bootstrap.steps import DOWNLOAD
from infra.outputs import DATA
from training.errors import RunError, UserError

NEEDED_GIB = 15  # the environment with torch is 6.5 GiB, uv's cache about as much on top where it cannot be linked
# The least driver of a CUDA major version (minor versions are compatible): docs.nvidia.com/deploy/cuda-compatibility, table 1.
LEAST_DRIVER = {"11": 450, "12": 525, "13": 580}
_DRIVER_ADVICE = "reboot the machine once (a kernel update may have left the driver behind), or take an image with a driver in it"


def gate(facts: Facts, machine: Machine, lock: str) -> str:
    """One line about what will compute; `lock` is the text of uv.lock.

    Raises: UserError or RunError if the machine cannot train.
    """
    name = machine.label
    if facts.system != "Linux" or facts.arch not in ("x86_64", "aarch64"):
        raise UserError(f"{name}: is {facts.system} on {facts.arch} (accepted: Linux on x86_64 or aarch64)")
    if machine.is_rented and not facts.is_mounted:
        raise RunError(
            f"{name}: the data disk is not mounted at {DATA}: the start-up script is still at work, or failed; look: "
            f"sudo journalctl -u google-startup-scripts"
        )
    if not facts.is_writable:
        raise UserError(f"{name}: {facts.root} cannot be written by {facts.user} (another place: --folder /PATH)")
    if not facts.rsync:
        raise UserError(f"{name}: rsync is not installed there (Debian, Ubuntu: sudo apt-get install rsync)")
    if not facts.environment and facts.free_kib < NEEDED_GIB * 2**20:
        raise UserError(
            f"{name}: {facts.free_kib / 2**20:.1f} GiB free at {facts.root}; the environment needs {NEEDED_GIB} GiB "
            "(free some, or another disk: --folder /PATH)"
        )
    return _gpu(facts, machine, lock)


def _gpu(facts: Facts, machine: Machine, lock: str) -> str:
    name, wants_gpu = machine.label, (machine.machine_type or "").startswith(("g2-", "a2-", "a3-", "g4-"))
    if facts.nvidia_smi_code is None:
        if facts.has_nvidia_card or wants_gpu:
            raise RunError(f"{name}: has an NVIDIA GPU, but no driver (no nvidia-smi); {_DRIVER_ADVICE}")
        also = (
            ""
            if facts.environment
            else f". It gets the same environment as a machine with a GPU, {DOWNLOAD}: requirements.lock holds one build of torch"
        )
        return f"{name} has no NVIDIA GPU: runs compute on its CPU, which is right for a rehearsal{also}"
    if facts.nvidia_smi_code != 0:
        raise RunError(f"{name}: nvidia-smi ended with {facts.nvidia_smi_code}: {facts.nvidia_smi[:200]}; {_DRIVER_ADVICE}")
    found = re.search(r"(?P<gpu>[^,]+), (?P<driver>(?P<major>\d+)[\d.]*), (?P<memory>\d+ MiB)", facts.nvidia_smi)
    if not found:
        raise RunError(f"{name}: nvidia-smi names no GPU: {facts.nvidia_smi[:200]}; {_DRIVER_ADVICE}")
    cuda = cuda_of(lock)
    least = LEAST_DRIVER.get(cuda.partition(".")[0]) if cuda else None
    if least and int(found["major"]) < least:
        raise UserError(
            f"{name}: driver {found['driver']} is too old: torch in uv.lock is built for CUDA {cuda}, which needs driver {least} "
            "or newer (an image of a newer family: `image` in configs/stacks/)"
        )
    return f"{name}: {found['gpu']}, {found['memory']}, driver {found['driver']}" + (f", torch for CUDA {cuda}" if cuda else "")


def cuda_of(lock: str) -> str | None:
    """The CUDA version that torch in uv.lock brings along, or None for a build without CUDA."""
    for package in tomllib.loads(lock).get("package", []):
        if re.fullmatch(r"nvidia-cuda-runtime(-cu\d+)?", package["name"]):
            return ".".join(str(package["version"]).split(".")[:2])
    return None
