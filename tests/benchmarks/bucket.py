"""What a call to a bucket costs: our client beside `gcloud storage`, against one server on loopback.

CPU seconds are those of the process and its children; peak memory is that of its largest process. A call of gcloud is a process;
ours are calls of one process that goes on, as the pusher's are, and once each a fresh process with its import.
"""

import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.tools.gcs_server import GcsServer, server_path
from training.runner.bucket.bucket import open_bucket

SMALL_CALLS, BIG_CALLS, GCLOUD_CALLS = 30, 3, 3
ACTS = ("small write", "read", "list", "60 MB upload")
FRESH = """
import re, resource, sys, time
from pathlib import Path
from tests.benchmarks.bucket import ours
start = time.perf_counter()
ours(sys.argv[1], Path(sys.argv[2]))[sys.argv[3]]()
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def ours(url: str, big: Path) -> dict[str, Callable[[], object]]:
    """The acts through our client."""
    bucket = open_bucket(url)
    return {
        "small write": lambda: bucket.write("small", b"{}"),
        "read": lambda: bucket.read("small"),
        "list": lambda: bucket.listing(""),
        "60 MB upload": lambda: bucket.upload(big, "big"),
    }


def theirs(url: str, big: Path, small: Path) -> dict[str, list[str]]:
    """The same as argv of gcloud."""
    return {
        "small write": ["gcloud", "storage", "cp", str(small), f"{url}/small"],
        "read": ["gcloud", "storage", "cat", f"{url}/small"],
        "list": ["gcloud", "storage", "ls", "--json", "--recursive", f"{url}/**"],
        "60 MB upload": ["gcloud", "storage", "cp", str(big), f"{url}/big"],
    }


def cpu(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def repeated(act: Callable[[], object], number: int) -> tuple[float, float]:
    """CPU and wall seconds a call, of this process."""
    act()  # connection and import
    wall, used = time.perf_counter(), cpu(resource.RUSAGE_SELF)
    for _ in range(number):
        act()
    return (cpu(resource.RUSAGE_SELF) - used) / number, (time.perf_counter() - wall) / number


def process(argv: list[str], number: int) -> tuple[float, float, float]:
    """CPU and wall seconds a process, and its peak memory in MB."""
    wall, used, peak = time.perf_counter(), cpu(resource.RUSAGE_CHILDREN), 0
    for _ in range(number):
        child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while child.poll() is None:
            peak = max(peak, peak_of(child.pid))
            time.sleep(0.005)
        if child.returncode:
            raise RuntimeError(f"{' '.join(argv)}: exit code {child.returncode}")
    return (cpu(resource.RUSAGE_CHILDREN) - used) / number, (time.perf_counter() - wall) / number, peak / 1000


def peak_of(pid: int) -> int:
    """VmHWM of the largest process of a tree, in kB; ru_maxrss would begin with the parent's."""
    found = 0
    try:
        text = Path(f"/proc/{pid}/status").read_text()
        found = int(match[1]) if (match := re.search(r"VmHWM:\s+(\d+)", text)) else 0
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return found
    return max([found, *(peak_of(int(child)) for child in children)])


def main() -> int:
    """Print the table.

    Returns: 1 if the server or gcloud is missing.
    """
    if server_path() is None or shutil.which("gcloud") is None:
        print("needs fake-gcs-server (tests/tools/bring_tools builds it) and gcloud (https://cloud.google.com/sdk/docs/install)")
        return 1
    with tempfile.TemporaryDirectory() as folder, GcsServer(Path(folder) / "buckets") as server:
        os.environ.update(server.env)
        direct = f"http://127.0.0.1:{server.port}"  # past the proxy, which costs more than the calls
        os.environ.update(STORAGE_EMULATOR_HOST=direct, CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE=f"{direct}/storage/v1/")
        url, big, small = server.make_bucket("bucket"), Path(folder) / "big", Path(folder) / "small"
        big.write_bytes(os.urandom(60_000_000))
        small.write_bytes(b"{}")
        print(f"{'':<14}{'in a process':>22}{'fresh process':>27}{'gcloud storage':>27}{'gcloud / ours, CPU':>20}")
        print(f"{'':<14}{'CPU s':>11}{'wall s':>11}" + f"{'CPU s':>10}{'wall s':>9}{'MB':>8}" * 2)
        for act in ACTS:
            own = repeated(ours(url, big)[act], BIG_CALLS if act == ACTS[-1] else SMALL_CALLS)
            fresh = process([sys.executable, "-c", FRESH, url, str(big), act], 1)
            other = process(theirs(url, big, small)[act], GCLOUD_CALLS)
            cells = f"{own[0]:>11.4f}{own[1]:>11.4f}" + "".join(f"{c:>10.2f}{w:>9.2f}{m:>8.0f}" for c, w, m in (fresh, other))
            print(f"{act:<14}{cells}{other[0] / own[0]:>20.0f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
