"""`uv sync` in one line: what uv 0.13.8 printed on 2026-11-30, in short, by a real shell."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from bootstrap import sync_progress
from bootstrap.sync_progress import Progress, run_with_progress

OUTPUT = """Using CPython 3.11.7 interpreter at: /usr/bin/python3
Creating virtual environment at: .venv
   Building incubator @ file:///mnt/data/incubator/code
      Built incubator @ file:///mnt/data/incubator/code
Downloading numpy (16.1MiB)
Downloading torch (1.5GiB)
Downloading kiwisolver (1024.0KiB)
 Downloaded kiwisolver
 Downloaded numpy
 Downloaded torch
Prepared 3 packages in 20.93s
warning: Failed to hardlink files; falling back to full copy.
Installed 118 packages in 1.49s
 + kiwisolver==1.5.1
 + numpy==2.4.6
 + torch==2.15.0"""


def test_files_and_sizes_are_counted_as_they_come():
    progress = Progress()
    for line in OUTPUT.splitlines()[:9]:
        progress.read(line)

    assert progress.now(12.4) == "downloaded 2 of 3 files, 18 of 1,629 MB, 12 s"


def test_it_ends_with_one_line_and_shows_warnings(capsys):
    code = run_with_progress(["sh", "-c", f"cat <<'EOF'\n{OUTPUT}\nEOF"])

    assert code == 0
    assert capsys.readouterr().out == (
        "warning: Failed to hardlink files; falling back to full copy.\n   118 packages installed, 1,629 MB downloaded\n"
    )


def test_all_is_shown_if_it_fails_and_nothing_that_does_not_print(capsys):
    code = run_with_progress(["sh", "-c", "echo Downloading numpy; printf 'error: \\033[2J no space\\n' >&2; exit 2"])

    assert code == 2
    assert capsys.readouterr().out == "Downloading numpy\nerror: \\x1b[2J no space\n"


def test_a_warm_cache_downloads_nothing(capsys):
    run_with_progress(["echo", "Installed 1 package in 2ms"])

    assert capsys.readouterr().out == "   1 packages installed, nothing large downloaded\n"


def test_a_log_gets_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(sync_progress, "_LOG_SECONDS", 0.1)

    run_with_progress(["sh", "-c", "echo 'Downloading torch (10.0MiB)'; sleep 0.5; echo ' Downloaded torch'"])

    lines = capsys.readouterr().out.splitlines()
    assert 3 <= len(lines) <= 7
    assert lines[0] == "   downloaded 0 of 1 files, 0 of 10 MB, 0 s"


def test_on_a_terminal_each_line_takes_the_place_of_the_last(tmp_path: Path):
    script = (
        "from bootstrap import sync_progress as s; s._TERMINAL_SECONDS = 0.1\n"
        "s.run_with_progress(['sh', '-c', 'sleep 0.5; echo Installed 3 packages in 2ms'])"
    )
    reader, terminal = pty.openpty()
    subprocess.run([sys.executable, "-c", script], stdout=terminal, cwd=Path(__file__).parents[2], check=True, timeout=60)
    os.close(terminal)
    shown = os.read(reader, 10_000).decode()
    os.close(reader)

    assert shown.count("\r\n") == 1
    assert shown.count("\r   downloaded 0 of 0 files") >= 2
    assert shown.endswith("\r\x1b[K   3 packages installed, nothing large downloaded\r\n")


@pytest.mark.parametrize(
    "line",
    ["Downloading", "Downloaded ", "Downloading x (1.0.0MiB)", "Installed many packages", "", f"Installed {'9' * 5000} packages"],
)
def test_a_line_that_uv_does_not_print_today_does_no_harm(line):
    progress = Progress()
    try:
        progress.read(line)
    except ValueError:
        pytest.fail(f"{line!r} is taken for a size")
