"""file:// on a bad day."""

import errno
import os
import random
import subprocess
import sys

import pytest

from training.errors import RunError, UserError
from training.runner.bucket.bucket import open_bucket
from training.runner.bucket.local_files import ARRIVING


def test_a_missing_folder_is_refused_and_not_made(tmp_path):
    (tmp_path / "file").write_text("x")
    for act in (
        lambda bucket: bucket.listing("x"),
        lambda bucket: bucket.about("x"),
        lambda bucket: bucket.read("x"),
        lambda bucket: bucket.write("x", b""),
        lambda bucket: bucket.send(tmp_path, "x"),
        lambda bucket: bucket.upload(tmp_path / "file", "x"),
        lambda bucket: bucket.remove(["x"]),
    ):
        with pytest.raises(UserError, match=r"there is no such folder \(make it first: mkdir"):
            act(open_bucket(f"file://{tmp_path}/none"))

    assert not (tmp_path / "none").exists()


def test_no_program_is_needed(tmp_path, monkeypatch):
    (tmp_path / "bucket").mkdir()
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("PATH", "/nowhere")
    bucket = open_bucket(f"file://{tmp_path}/bucket")
    bucket.upload(tmp_path / "file", "x/file")
    bucket.copy(["x/file"], "x", "y")

    bucket.fetch(bucket.listing("y"), "y", tmp_path / "back")

    assert (tmp_path / "back/file").read_text() == "x"


def test_a_killed_upload_leaves_no_object_and_the_next_one_removes_it(tmp_path):
    (tmp_path / "bucket").mkdir()
    (tmp_path / "source").mkdir()
    (tmp_path / "source/big").write_bytes(random.Random(0).randbytes(100_000_000))
    code = (
        "import sys; from pathlib import Path; from training.runner.bucket.bucket import open_bucket\n"
        "open_bucket(sys.argv[1]).upload(Path(sys.argv[2]), 'x/deep/gone')"
    )
    words = [sys.executable, "-c", code, f"file://{tmp_path}/bucket", str(tmp_path / "source/big")]
    child = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": os.getcwd()})
    while not list(tmp_path.glob(f"bucket/x/deep/{ARRIVING}*")) and child.poll() is None:
        pass
    child.kill()
    child.wait()
    bucket = open_bucket(f"file://{tmp_path}/bucket")
    assert list(bucket.listing("x")) in ([], ["x/deep/gone"])
    bucket.remove(["x/deep/gone"])

    bucket.send(tmp_path / "source", "x")

    assert [str(path.relative_to(tmp_path / "bucket")) for path in (tmp_path / "bucket").rglob("*")] == ["x", "x/big"]


def test_links_and_pipes_in_a_bucket_are_no_objects(tmp_path):
    folder = tmp_path / "bucket"
    (folder / "x").mkdir(parents=True)
    (folder / "x/a").write_text("a")
    (folder / "x/link").symlink_to("/etc/hostname")
    (folder / "x/out").symlink_to("/etc")
    os.mkfifo(folder / "x/pipe")
    bucket = open_bucket(f"file://{folder}")

    assert list(bucket.listing("x")) == ["x/a"]
    assert bucket.about("x/pipe") is None
    for act in (bucket.about, bucket.read, lambda name: bucket.write(name, b"x"), lambda name: bucket.remove([name])):
        for name in ("x/link", "x/out/hostname"):
            with pytest.raises(UserError, match="is a symbolic link"):
                act(name)


def test_what_is_no_file_is_read_as_absent_and_not_waited_for(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    code = (
        "import sys; from pathlib import Path; from training.runner.bucket.bucket import Changed, Stored, open_bucket\n"
        "bucket = open_bucket(sys.argv[1])\n"
        "for name in ('pipe', 'folder', 'file/below', 'none'):\n"
        "    print(bucket.read(name))\n"
        "    for act, given in ((bucket.download, (Stored(1, '', 1), Path(sys.argv[2]))), (bucket.copy_object, ('to',))):\n"
        "        try:\n"
        "            act(name, *given)\n"
        "        except Changed:\n"
        "            print('gone')\n"
    )
    words = [sys.executable, "-c", code, f"file://{tmp_path}", str(tmp_path / "target")]

    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": os.getcwd()}, capture_output=True, text=True, timeout=60)

    assert done.stdout.split() == ["None", "gone", "gone"] * 4, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "pipe"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_what_the_disk_refuses_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, number):
    """A disk that is full for one process alone is rare where tests run: the flush is refused as the kernel refuses it."""

    def refuse(_):
        raise OSError(number, os.strerror(number))

    (tmp_path / "bucket").mkdir()
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(os, "fsync", refuse)
    bucket = open_bucket(f"file://{tmp_path}/bucket")
    for act in (lambda: bucket.write("x/a", b"x"), lambda: bucket.upload(tmp_path / "file", "x/a")):
        with pytest.raises(RunError, match=rf"^file://{tmp_path}/bucket: .*: {os.strerror(number)}$"):
            act()
    assert [path for path in (tmp_path / "bucket").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_bucket_that_may_not_be_written_is_refused(tmp_path, monkeypatch, number):
    """Root may write everywhere, so the system call is refused as the kernel refuses it."""
    (tmp_path / "bucket").mkdir()
    real = os.open

    def refuse(path, flags, *rest):
        if flags & os.O_CREAT:
            raise OSError(number, os.strerror(number), str(path))
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match=rf"forbidden: .*: {os.strerror(number)}"):
        open_bucket(f"file://{tmp_path}/bucket").write("x", b"x")
    assert list((tmp_path / "bucket").iterdir()) == []
