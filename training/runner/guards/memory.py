"""Whether the kernel has killed for want of memory: its own count says so. An exit code alone does not."""

import os
import re
from pathlib import Path

GIB = 2**30
_COUNT = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


def memory_kills(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Kills in the cgroup of this process and its children; where that does not tell, of the whole machine (Linux >= 4.13)."""
    for file in (*_files_of_cgroup(proc, cgroups), proc / "vmstat"):
        try:
            found = _COUNT.search(file.read_text())
        except OSError:
            continue
        if found is not None:
            return int(found[1])
    return 0


def _files_of_cgroup(proc: Path, cgroups: Path) -> list[Path]:
    """Those of version 2 (`0::/path`) and of version 1 (`4:memory:/path`)."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    paths = {names: path.lstrip("/") for _, names, path in (line.split(":", 2) for line in lines)}
    files = [cgroups / paths[""] / "memory.events"] if "" in paths else []
    return [*files, *(cgroups / "memory" / path / "memory.oom_control" for names, path in paths.items() if names == "memory")]


def what_to_do() -> str:
    """What a person can do about it. All of it leaves the run what it is: it goes on from its newest checkpoint."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return (
        f"the memory of the machine was full ({total:.1f} GiB), and the kernel killed it: set data.num_workers or "
        "data.prefetch_batches lower, add swap (./fab bootstrap --swap-gib 16) or take a larger machine, then train again"
    )
