"""The kernel kills for want of memory: what the supervisor makes of it. In a control group with a limit, where one can be made."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.training.runner.conftest import until
from training.runner.guards.memory import memory_kills

CGROUPS = Path("/sys/fs/cgroup")
LIMIT = 300 * 2**20


@pytest.fixture
def small_group(tmp_path) -> Iterator[Path]:
    """A control group that may have 300 MiB."""
    is_old = (CGROUPS / "memory").is_dir()
    group = (CGROUPS / "memory" if is_old else CGROUPS) / f"incubator-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if is_old else "memory.max")).write_text(str(LIMIT))
    except OSError:
        with suppress(OSError):
            group.rmdir()
        pytest.skip("no control group with a limit of memory can be made here")
    yield group
    until(lambda: (group / "cgroup.procs").read_text() == "")
    group.rmdir()


@pytest.mark.cloud
def test_a_run_that_the_kernel_kills_says_memory_and_what_to_do(site, small_group):
    site.write_job(max_restarts=1)
    supervisor = site.start("eat@5", first=lambda: (small_group / "cgroup.procs").write_text(str(os.getpid())) and None)

    assert supervisor.wait(timeout=120) == 1
    assert [start.ended for start in site.state.starts] == ["out of memory"] * 3  # the first one had a new checkpoint
    assert "it crashed 2 times without a new checkpoint (max_restarts: 1): the memory of the machine was full" in site.state.reason
    assert "set data.num_workers or data.prefetch_batches lower, add swap (./fab bootstrap --swap-gib 16)" in site.state.reason


@pytest.mark.cloud
def test_a_kill_by_hand_is_no_want_of_memory(site):
    supervisor = site.start("deaf@3,ok")
    until(lambda: site.step == 3)
    pid = next(int(path.name) for path in Path("/proc").glob("[0-9]*") if is_run(path, site))
    os.kill(pid, 9)

    assert supervisor.wait(timeout=60) == 0
    assert [start.ended for start in site.state.starts] == ["crashed", "finished"]


def is_run(process: Path, site) -> bool:
    try:
        return b"stand_in_run" in (words := (process / "cmdline").read_bytes()) and str(site.paths.run).encode() in words
    except OSError:
        return False


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({"self/cgroup": "0::/a", "vmstat": "oom_kill 7\n", "cgroups/a/memory.events": "oom 3\noom_kill 2\noom_group_kill 9\n"}, 2),
        ({"self/cgroup": "4:memory:/b\n0::/", "vmstat": "oom_kill 7\n", "cgroups/memory/b/memory.oom_control": "oom_kill 3\n"}, 3),
        ({"self/cgroup": "0::/", "vmstat": "nr 1\noom_kill 7\n"}, 7),
        ({"vmstat": "nr 1\n"}, 0),
    ],
)
def test_the_count_of_the_kernel_is_found_in_either_version_of_control_groups(tmp_path, files, count):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert memory_kills(tmp_path, tmp_path / "cgroups") == count
