import subprocess

import pytest

from training.checkpoints import bucket as module
from training.checkpoints.bucket import Changed, Damaged, open_bucket
from training.refusal import Failed, Refused


@pytest.mark.parametrize("url", ["", "bucket", "/a/folder", "s3://bucket", "gs://", "file://host/folder", "file:relative"])
def test_what_is_no_bucket_is_refused(url):
    with pytest.raises(Refused, match=r"is no bucket \(accepted: gs://BUCKET, gs://BUCKET/prefix, file:///folder\)"):
        open_bucket(url)


@pytest.mark.parametrize(
    ("url", "advice"), [("gs://b", "cloud.google.com/sdk/docs/install"), ("file:///b", "apt-get install rsync")]
)
def test_a_program_that_is_missing_is_named_with_its_cure_before_anything_is_copied(url, advice, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(Refused, match=advice):
        open_bucket(url)


def test_both_kinds_of_bucket_do_the_same(place, tmp_path):
    (place.folder / "prefix").mkdir()
    bucket = open_bucket(f"{place.url}/prefix")
    source = tmp_path / "source"
    for name, text in (("a.txt", "a"), ("deep/er/b=1.bin", "bb"), ("MANIFEST.json", "{}"), ("deep/MANIFEST.json", "{}")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    assert bucket.listing("x") == {}
    assert bucket.read("x/a.txt") is None
    bucket.fetch("x", tmp_path / "nothing")

    bucket.send(source, "x", skip=("MANIFEST.json",))
    bucket.copy("x", "y", skip=("deep",))
    found = bucket.listing("x")

    assert {name: (stored.size, stored.md5) for name, stored in found.items()} == {
        "x/a.txt": (1, "0cc175b9c0f1b6a831c399e269772661"),
        "x/deep/er/b=1.bin": (2, "21ad0bd836b90d08f4cf640b4c298e7c"),
    }
    assert bucket.generation("x/a.txt") == found["x/a.txt"].generation
    assert set(bucket.listing("y")) == {"y/a.txt"}
    bucket.fetch("x", tmp_path / "back")
    assert (tmp_path / "back/deep/er/b=1.bin").read_text() == "bb"
    bucket.remove(["x/a.txt", "x/none"])
    assert set(bucket.listing("x")) == {"x/deep/er/b=1.bin"}


def test_of_two_that_write_one_object_the_second_is_told(place):
    bucket = open_bucket(place.url)
    bucket.write("lease", b"one", 0)
    seen = bucket.generation("lease")
    bucket.write("lease", b"two", seen)
    for stale in (0, seen):
        with pytest.raises(Changed):
            bucket.write("lease", b"three", stale)

    assert bucket.read("lease") == b"two"


def test_a_missing_folder_is_refused_and_not_made(tmp_path):
    bucket = open_bucket(f"file://{tmp_path}/none")
    for act in (lambda: bucket.listing("x"), lambda: bucket.write("x", b""), lambda: bucket.send(tmp_path, "x")):
        with pytest.raises(Refused, match=r"there is no such folder \(make it first: mkdir"):
            act()

    assert not (tmp_path / "none").exists()


def test_half_of_a_copy_never_has_the_name_of_the_whole(tmp_path):
    (tmp_path / "bucket").mkdir()
    bucket = open_bucket(f"file://{tmp_path}/bucket")
    (tmp_path / "source").mkdir()
    (tmp_path / "source/big").write_bytes(bytes(150_000_000))
    incoming = tmp_path / "bucket/x/.incoming"
    incoming.mkdir(parents=True)
    words = ["rsync", "--recursive", "--times", f"--temp-dir={incoming}", f"{tmp_path}/source/", f"{tmp_path}/bucket/x/"]
    rsync = subprocess.Popen(words)
    while not any(incoming.iterdir()) and rsync.poll() is None:
        pass
    rsync.kill()
    rsync.wait()

    assert bucket.listing("x") == {} or bucket.listing("x")["x/big"].size == 150_000_000
    bucket.send(tmp_path / "source", "x")
    assert bucket.listing("x")["x/big"].size == 150_000_000
    assert not incoming.exists()


SAID = {
    "ERROR: (gcloud.storage.ls) gs://b not found: 404.": (Refused, "there is no such bucket"),
    "ERROR: (gcloud.storage.ls) HTTPError 403: vm does not have storage.objects.list access to the bucket.": (Refused, "forbidden"),
    "ERROR: (gcloud.storage.ls) You do not currently have an active account selected.": (Refused, "gcloud auth login"),
    "ERROR: (gcloud.storage.ls) There was a problem refreshing your current auth tokens: invalid_grant": (Refused, "auth login"),
    "ERROR: gcloud crashed (ConnectionError): HTTPConnectionPool(host='127.0.0.1', port=1): Max retries exceeded with url: /b/x "
    "(Caused by NewConnectionError('Failed to establish a new connection'))": (Failed, "check its network"),
    "Copying x\nfailed.\nERROR: (gcloud.storage.cp) HTTPError 412: Precondition failed": (Changed, "someone else"),
    "ERROR: Source hash MIOo7== does not match destination hash qhQS== for object /a/trainer.ckpt_.gstmp.": (
        Damaged,
        "trainer.ckpt",
    ),
    "WARNING: a\nERROR: (gcloud.storage.cp) Disk quota\nexceeded": (Failed, "Disk quota exceeded"),
    "": (Failed, "exit code 1"),
}


@pytest.mark.parametrize("said", SAID)
def test_what_gcloud_says_becomes_one_plain_message(said, monkeypatch):
    kind, message = SAID[said]
    answer = subprocess.CompletedProcess([], 1, b"", said.encode())
    monkeypatch.setattr(module, "_run", lambda *_: answer)

    with pytest.raises(kind, match=message) as caught:
        module.GoogleBucket("gs://b", "gcloud").read("x")
    assert "\n" not in str(caught.value)


@pytest.mark.cloud
@pytest.mark.slow
def test_a_server_that_falters_once_is_asked_again_by_gcloud(gs_place, server):
    server.failing, server.dropping = 1, 1

    open_bucket(gs_place.url).write("x", b"x")

    assert open_bucket(gs_place.url).read("x") == b"x"


@pytest.mark.cloud
@pytest.mark.slow
def test_an_unreachable_server_is_said_plainly(gs_place, monkeypatch):
    """Half a minute: gcloud 528 tries six times, whatever its settings say."""
    monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE", "http://127.0.0.1:1/storage/v1/")

    with pytest.raises(Failed, match="gs://bucket: Google Cloud Storage cannot be reached from this machine: check its network"):
        open_bucket(gs_place.url).listing("x")
