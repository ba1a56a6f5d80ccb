"""What holds for a bucket of either kind."""

import hashlib
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from training.errors import RunError, UserError
from training.runner.bucket.bucket import READ_LIMIT, Changed, open_bucket
from training.runner.bucket.local_files import ARRIVING


@pytest.mark.parametrize("url", ["", "bucket", "/a/folder", "s3://bucket", "gs://", "file://host/folder", "file:relative"])
def test_what_is_no_bucket_is_refused(url):
    with pytest.raises(UserError, match=r"is no bucket \(accepted: gs://BUCKET, gs://BUCKET/prefix, file:///folder\)"):
        open_bucket(url)


def test_both_kinds_of_bucket_do_the_same(place, tmp_path):
    (place.folder / "prefix").mkdir()
    bucket = open_bucket(f"{place.url}/prefix")
    source = tmp_path / "source"
    for name, text in (("a.txt", "a"), ("deep/er/b=1.bin", "bb"), ("MANIFEST.json", "{}"), ("deep/MANIFEST.json", "{}")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    assert (bucket.listing("x"), bucket.read("x/a.txt"), bucket.about("x/a.txt")) == ({}, None, None)

    bucket.send(source, "x", skip=("MANIFEST.json",))
    found = bucket.listing("x")

    assert {name: (stored.size, stored.md5) for name, stored in found.items()} == {
        "x/a.txt": (1, "0cc175b9c0f1b6a831c399e269772661"),
        "x/deep/er/b=1.bin": (2, "21ad0bd836b90d08f4cf640b4c298e7c"),
    }
    assert bucket.about("x/a.txt") == found["x/a.txt"]
    assert bucket.fetch(found, "x", tmp_path / "back") == found
    assert (tmp_path / "back/deep/er/b=1.bin").read_text() == "bb"
    bucket.copy(["x/deep/er/b=1.bin"], "x", "y")
    assert set(bucket.listing("y")) == {"y/deep/er/b=1.bin"}
    bucket.remove(["x/a.txt", "x/none"])
    assert set(bucket.listing("x")) == {"x/deep/er/b=1.bin"}
    assert set(bucket.listing("")) == {"x/deep/er/b=1.bin", "y/deep/er/b=1.bin"}


@pytest.mark.parametrize("size", [0, 1, 20_000_000])
def test_a_file_comes_back_as_it_was_sent(place, tmp_path, size):
    (tmp_path / "source").write_bytes(random.Random(size).randbytes(size))
    bucket = place.bucket

    bucket.upload(tmp_path / "source", "a/file")
    bucket.fetch(bucket.listing("a"), "a", tmp_path / "back")

    assert (tmp_path / "back/file").read_bytes() == (tmp_path / "source").read_bytes()
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["file"]


def test_what_is_there_with_the_same_content_is_not_transferred_again(place, tmp_path):
    (tmp_path / "source").mkdir()
    for name in ("same", "longer", "other"):
        (tmp_path / "source" / name).write_text(name)
    bucket = place.bucket
    bucket.send(tmp_path / "source", "x")
    before = bucket.listing("x")
    (tmp_path / "source/longer").write_text("longer still")
    (tmp_path / "source/other").write_text("OTHER")

    bucket.send(tmp_path / "source", "x")
    after = bucket.listing("x")

    assert [name for name in before if before[name] != after[name]] == ["x/longer", "x/other"]
    bucket.fetch(after, "x", tmp_path / "back")
    inodes = {path.name: path.stat().st_ino for path in (tmp_path / "back").iterdir()}
    (tmp_path / "back/other").write_text("DAMAG")
    bucket.fetch(after, "x", tmp_path / "back")
    assert (tmp_path / "back/other").read_text() == "OTHER"
    assert {path.name for path in (tmp_path / "back").iterdir() if path.stat().st_ino == inodes[path.name]} == {"same", "longer"}


def test_of_two_that_write_one_object_the_second_is_told(place):
    bucket = place.bucket
    bucket.write("lease", b"one", 0)
    seen = bucket.about("lease").generation
    bucket.write("lease", b"two", seen)
    for stale in (0, seen):
        with pytest.raises(Changed, match="someone else has written or removed"):
            bucket.write("lease", b"three", stale)
    with pytest.raises(Changed):
        bucket.remove(["lease"], seen)
    assert bucket.read("lease") == b"two"

    bucket.remove(["lease"], bucket.about("lease").generation)
    assert bucket.read("lease") is None


@pytest.mark.parametrize("at_first", [None, b"stale"])
def test_of_sixteen_that_write_at_once_one_wins(place, at_first):
    generation = 0
    if at_first:
        place.bucket.write("lease", at_first)
        generation = place.bucket.about("lease").generation

    def write(n):
        try:
            place.bucket.write("lease", f"holder {n}".encode(), generation)
        except Changed:
            return None
        return n

    with ThreadPoolExecutor(16) as pool:
        winners = [n for n in pool.map(write, range(16)) if n is not None]

    assert len(winners) == 1
    assert place.bucket.read("lease") == f"holder {winners[0]}".encode()


def test_writes_in_one_tick_of_the_clock_have_generations_of_their_own(place):
    bucket, seen = place.bucket, []
    for n in range(30):
        bucket.write("lease", str(n).encode())
        seen.append(bucket.about("lease").generation)

    assert seen == sorted(set(seen))


def test_an_object_that_changes_after_the_listing_comes_as_it_is_and_a_gone_one_is_left_out(place, tmp_path):
    bucket = place.bucket
    for name in ("x/changed", "x/gone", "x/same"):
        bucket.write(name, b"at first")
    objects = bucket.listing("x")
    bucket.write("x/changed", b"and then")
    bucket.remove(["x/gone"])

    found = bucket.fetch(objects, "x", tmp_path / "back")

    assert {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()} == {"changed": b"and then", "same": b"at first"}
    assert found == bucket.listing("x")


def test_what_is_larger_than_memory_is_not_read(place, tmp_path):
    (tmp_path / "big").write_bytes(bytes(READ_LIMIT + 1))
    place.bucket.upload(tmp_path / "big", "run.json")

    with pytest.raises(UserError, match=r"run.json: is larger than 16 MiB"):
        place.bucket.read("run.json")


def test_a_disk_without_room_is_said_before_anything_is_written(place, tmp_path, monkeypatch):
    place.put("x/a", b"12345")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 4}))

    with pytest.raises(RunError, match="make room or take a larger disk"):
        place.bucket.fetch(place.bucket.listing("x"), "x", tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("folder", ["/dev/full", "/proc/nothing"])
def test_a_target_that_cannot_be_written_is_an_error_of_the_file_system(place, tmp_path, folder):
    """A file in the place of the folder, and a file system that takes no files."""
    place.put("x/a", b"12345")
    bucket = place.bucket
    objects = bucket.listing("x")

    with pytest.raises(OSError, match=r"Not a directory|File exists|No such file"):
        bucket.download("x/a", objects["x/a"], type(tmp_path)(folder, "a"))


def test_a_full_disk_leaves_nothing_half_written(place, tmp_path):
    """A child whose files may not grow above 1 MB: the kernel refuses the write as a full disk does."""
    (tmp_path / "big").write_bytes(random.Random(0).randbytes(3_000_000))
    place.bucket.upload(tmp_path / "big", "x/big")
    code = (
        "import resource, signal, sys; from pathlib import Path; from training.runner.bucket.bucket import open_bucket\n"
        "bucket = open_bucket(sys.argv[1]); objects = bucket.listing('x')\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "try: bucket.fetch(objects, 'x', Path(sys.argv[2]))\n"
        "except OSError as error: print(error.strerror)"
    )
    words = [sys.executable, "-B", "-c", code, place.url, str(tmp_path / "back")]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()})

    assert done.stdout == "File too large\n", done.stderr
    assert list((tmp_path / "back").iterdir()) == []


def test_a_symbolic_link_is_neither_sent_nor_written_through(place, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source/a").write_text("a")
    (tmp_path / "source/link").symlink_to("/etc/hostname")
    bucket = place.bucket
    bucket.send(tmp_path / "source", "x")
    assert set(bucket.listing("x")) == {"x/a"}
    for name in ("y/deep/a", "y/b"):
        bucket.write(name, b"from outside")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "b").write_text("mine")
    for link, target in (("deep", elsewhere), ("b", elsewhere / "b")):
        into = tmp_path / f"into {link}"
        into.mkdir()
        (into / link).symlink_to(target)

        with pytest.raises(UserError, match=rf"into {link}/{link}: is a symbolic link"):
            bucket.fetch(bucket.listing("y"), "y", into)
        assert [path.name for path in into.iterdir()] == [link]
    assert {path.name: path.read_text() for path in elsewhere.iterdir()} == {"b": "mine"}


def test_an_object_that_is_also_a_folder_is_refused_before_anything_is_written(gs_place, tmp_path):
    for name in ("x/a", "x/b"):
        gs_place.put(name)
    objects = gs_place.bucket.listing("x")
    objects["x/a/below"] = objects["x/a"]  # a bucket can hold both; the server's disk cannot

    with pytest.raises(UserError, match="x/a: is an object, and x/a/below lies below it"):
        gs_place.bucket.fetch(objects, "x", tmp_path / "back")
    assert not (tmp_path / "back").exists()


NAMES = ["", ".", "..", "/etc/x", "a//b", "a/./b", "a/../../b", "../b", "a\nb", "a\x1b[31mb", "a\x00b", "a\u202eb", "n" * 256, "a/"]


@pytest.mark.parametrize("act", ["about", "read", "write", "upload", "download", "copy_object", "copy to", "remove", "fetch"])
def test_no_method_takes_a_name_that_leaves_the_folder(place, tmp_path, act):
    place.put("x/y")
    bucket = place.bucket
    stored = bucket.about("x/y")
    (tmp_path / "file").write_text("from outside")
    before = sorted(tmp_path.rglob("*"))
    acts = {
        "about": lambda name: bucket.about(name),
        "read": lambda name: bucket.read(name),
        "write": lambda name: bucket.write(name, b"from outside"),
        "upload": lambda name: bucket.upload(tmp_path / "file", name),
        "download": lambda name: bucket.download(name, stored, tmp_path / "into"),
        "copy_object": lambda name: bucket.copy_object(name, "z"),
        "copy to": lambda name: bucket.copy_object("x/y", name),
        "remove": lambda name: bucket.remove([name]),
        "fetch": lambda name: bucket.fetch({f"x/{name}": stored}, "x", tmp_path / "into"),
    }
    for name in NAMES:
        with pytest.raises(UserError, match="which is no file below a folder"):
            acts[act](name)
    assert sorted(tmp_path.rglob("*")) == before


def test_half_of_a_download_never_has_the_name_of_the_whole(place, tmp_path):
    """The child is killed while it writes; what it has left is used or removed by the next one."""
    content = random.Random(1).randbytes(40_000_000)
    (tmp_path / "big").write_bytes(content)
    place.bucket.upload(tmp_path / "big", "x/big")
    code = (
        "import sys; from pathlib import Path; from training.runner.bucket.bucket import open_bucket\n"
        "bucket = open_bucket(sys.argv[1]); bucket.fetch(bucket.listing('x'), 'x', Path(sys.argv[2]))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, place.url, str(tmp_path / "back")], env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    while not list(tmp_path.glob(f"back/{ARRIVING}*")) and child.poll() is None:
        pass
    child.kill()
    child.wait()
    assert [path.name for path in tmp_path.glob("back/[!.]*")] in ([], ["big"])

    place.bucket.fetch(place.bucket.listing("x"), "x", tmp_path / "back")

    assert [path.name for path in (tmp_path / "back").iterdir()] == ["big"]
    assert hashlib.sha256((tmp_path / "back/big").read_bytes()).digest() == hashlib.sha256(content).digest()
