"""What stands in the way of training is said from the facts alone."""

from dataclasses import replace

import pytest

from bootstrap.facts import Facts
from bootstrap.gate import cuda_of, gate
from bootstrap.machine import Machine
from training.errors import RunError, UserError

LOCK = (
    'version = 1\n[[package]]\nname = "torch"\nversion = "2.15.0"\n[[package]]\nname = "nvidia-cuda-runtime"\nversion = "13.2.86"\n'
)
L4 = "NVIDIA L4, 580.159.03, 23034 MiB"
READY = Facts("/mnt/data/incubator", user="ada", is_mounted=True, is_writable=True, free_kib=2**28, rsync="/usr/bin/rsync")
RENTED = Machine("incubator-l4", "incubator-l4", "/mnt/data/incubator", usd_per_hour=0.85, machine_type="g2-standard-8")
BOX = Machine("box", "box", "~/incubator")


def with_gpu(line: str = L4, code: int = 0) -> Facts:
    return replace(READY, has_nvidia_card=True, nvidia_smi_code=code, nvidia_smi=line)


def test_an_l4_with_a_driver_of_today_is_named():
    assert gate(with_gpu(), RENTED, LOCK) == "incubator-l4: NVIDIA L4, 23034 MiB, driver 580.159.03, torch for CUDA 13.2"


def test_two_gpus_are_judged_by_the_first():
    assert "driver 580.159.03" in gate(with_gpu(f"{L4} {L4}"), RENTED, LOCK)


def test_a_cpu_is_said_aloud_and_not_refused_and_so_is_what_it_downloads_once():
    said = "box has no NVIDIA GPU: runs compute on its CPU, which is right for a rehearsal"
    once = ". It gets the same environment as a machine with a GPU, about 3.1 GB to download, 2.4 of them CUDA libraries: "

    assert gate(READY, BOX, LOCK) == f"{said}{once}requirements.lock holds one build of torch"
    assert gate(replace(READY, environment="ee"), BOX, LOCK) == said
    assert "rehearsal" in gate(READY, replace(RENTED, machine_type="e2-standard-4"), LOCK)


@pytest.mark.parametrize(
    ("facts", "machine", "error", "message"),
    [
        (READY, RENTED, RunError, "has an NVIDIA GPU, but no driver .*reboot the machine once"),
        (replace(READY, has_nvidia_card=True), BOX, RunError, "has an NVIDIA GPU, but no driver"),
        (with_gpu("NVIDIA-SMI has failed because it couldn't communicate with the driver", 9), RENTED, RunError, "ended with 9"),
        (with_gpu("No devices were found", 0), RENTED, RunError, "names no GPU: No devices were found"),
        (with_gpu("Tesla T4, 470.82.01, 15360 MiB"), BOX, UserError, "470.82.01 is too old: .*CUDA 13.2, which needs driver 580"),
        (with_gpu("NVIDIA L4, 575.57.08, 23034 MiB"), RENTED, UserError, "575.57.08 is too old"),
        (replace(READY, system="Darwin", arch="arm64"), BOX, UserError, "is Darwin on arm64 .accepted: Linux"),
        (replace(READY, is_mounted=False), RENTED, RunError, "the data disk is not mounted at /mnt/data"),
        (replace(READY, is_writable=False), BOX, UserError, "cannot be written by ada .another place: --folder"),
        (replace(READY, rsync=""), BOX, UserError, "rsync is not installed there"),
        (replace(READY, free_kib=3 * 2**20), BOX, UserError, "3.0 GiB free at .*needs 15 GiB"),
    ],
)  # fmt: skip
def test_what_cannot_train_is_told_why(facts, machine, error, message):
    with pytest.raises(error, match=message):
        gate(facts, machine, LOCK)


def test_a_machine_that_has_its_environment_needs_no_room_for_it():
    assert gate(replace(READY, free_kib=3 * 2**20, environment="ee"), BOX, LOCK)


@pytest.mark.parametrize(
    ("package", "cuda"),
    [("nvidia-cuda-runtime-cu12", "12.8"), ("nvidia-cuda-runtime", "12.8"), ("nvidia-cublas", None)],
)
def test_the_cuda_of_torch_stands_in_the_lock(package, cuda):
    assert cuda_of(f'[[package]]\nname = "{package}"\nversion = "12.8.90"\n') == cuda


@pytest.mark.needs("git")
def test_the_lock_of_this_project_names_a_cuda_whose_driver_is_known():
    from bootstrap.gate import LEAST_DRIVER
    from bootstrap.shipping import code

    cuda = cuda_of((code().folder / "uv.lock").read_text())

    assert cuda is not None
    assert cuda.partition(".")[0] in LEAST_DRIVER
