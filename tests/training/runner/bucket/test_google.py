"""gs:// on a bad day: what the server and the login may answer, and what of it a person reads."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.tools.login_server import LoginServer
from training.errors import RunError, UserError
from training.runner.bucket import google
from training.runner.bucket.bucket import Changed, Damaged, open_bucket

CHILD = "import sys; from training.runner.bucket.bucket import open_bucket; print(sorted(open_bucket(sys.argv[1]).listing('')))"


@pytest.fixture
def soon(monkeypatch):
    """What does not come is given up after two seconds."""
    monkeypatch.setattr(google, "RETRY_SECONDS", 2.0)


def acts(tmp_path):
    (tmp_path / "file").write_bytes(bytes(9_000_000))
    return {
        "listing": lambda bucket: bucket.listing("x"),
        "about": lambda bucket: bucket.about("x/y"),
        "read": lambda bucket: bucket.read("x/y"),
        "write": lambda bucket: bucket.write("x/y", b"y"),
        "upload": lambda bucket: bucket.upload(tmp_path / "file", "x/y"),
        "remove": lambda bucket: bucket.remove(["x/y"]),
        "send": lambda bucket: bucket.send(tmp_path, "x", skip=("gcs",)),
    }


def refused(place, tmp_path, kind, message):
    """Every act, in a bucket object of its own, ends with one line."""
    for name, act in acts(tmp_path).items():
        with pytest.raises(kind, match=message) as caught:
            act(place)
        assert "\n" not in str(caught.value), name


def test_a_bucket_that_is_not_there_is_named_by_every_method(server, tmp_path):
    for name, act in acts(tmp_path).items():
        with pytest.raises(
            UserError, match=r"^gs://none: there is no such bucket \(`./fab up --stack storage` makes one"
        ) as caught:
            act(open_bucket("gs://none"))
        assert "\n" not in str(caught.value), name


def test_what_is_forbidden_is_said_with_the_role_that_is_missing(gs_place, server, tmp_path):
    server.forbidden.add("bucket")
    refused(gs_place.bucket, tmp_path, UserError, "^gs://bucket: forbidden: .* role Storage Object User .*storage.objects")


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_that_falters_for_long_is_given_up_in_time(gs_place, server, soon, status):
    server.failing, server.fails_with = 1000, status
    with pytest.raises(RunError, match=r"^gs://bucket: Google Cloud Storage does not do it now: a fault of the test$"):
        gs_place.bucket.write("x", b"x")


def test_an_answer_that_nobody_knows_is_one_line_too(gs_place, server):
    server.failing, server.fails_with = 1, 418
    with pytest.raises(RunError, match=r"^gs://bucket: Google Cloud Storage does not do it now: a fault of the test$"):
        gs_place.bucket.listing("x")


@pytest.mark.slow
def test_an_unreachable_server_is_said_plainly(gs_place, monkeypatch, soon, tmp_path):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    refused(gs_place.bucket, tmp_path, RunError, "^gs://bucket: Google Cloud Storage cannot be reached .*: check its network")


@pytest.mark.parametrize("fault", ["failing", "dropping", "losing"])
@pytest.mark.parametrize("act", ["listing", "about", "read", "write", "upload", "remove"])
def test_a_server_that_falters_once_is_asked_again(gs_place, server, tmp_path, fault, act):
    gs_place.put("x/y", b"y")
    bucket = gs_place.bucket
    bucket.about("x/y")
    setattr(server, fault, 1)

    acts(tmp_path)[act](bucket)

    assert getattr(server, fault) == 0
    assert (bucket.read("x/y") is None) == (act == "remove")


@pytest.mark.parametrize("fault", ["failing", "dropping"])
def test_a_fault_in_the_middle_of_an_upload_costs_one_part(gs_place, server, tmp_path, fault, monkeypatch):
    monkeypatch.setattr(google, "PART", 2**20)
    content = os.urandom(9_000_000)
    (tmp_path / "big").write_bytes(content)
    server.method = "PUT"  # the parts
    setattr(server, fault, 2)

    gs_place.bucket.upload(tmp_path / "big", "big")

    assert getattr(server, fault) == 0
    assert server.objects("bucket") == {"big": content}
    parts = sum(method == "PUT" for method, _ in server.seen)
    assert 9 <= parts <= 13


def test_a_fault_in_the_middle_of_a_download_costs_one_part(gs_place, server, tmp_path, monkeypatch):
    monkeypatch.setattr(google, "PART", 2**20)
    content = os.urandom(5 * 2**20)
    (tmp_path / "big").write_bytes(content)
    bucket = gs_place.bucket
    bucket.upload(tmp_path / "big", "big")
    objects = bucket.listing("")
    server.seen.clear()
    server.dropping = 2

    bucket.fetch(objects, "", tmp_path / "back")

    assert (tmp_path / "back/big").read_bytes() == content
    assert len(server.seen) == 7


def test_a_download_goes_on_behind_what_an_earlier_process_left(gs_place, server, tmp_path, monkeypatch, soon):
    monkeypatch.setattr(google, "PART", 2**20)
    content = os.urandom(5 * 2**20)
    (tmp_path / "big").write_bytes(content)
    bucket = gs_place.bucket
    bucket.upload(tmp_path / "big", "big")
    objects, take = bucket.listing(""), bucket._part

    def broken(blob, generation, start, end):
        if start == 3 * 2**20:
            raise RunError("the network")
        return take(blob, generation, start, end)

    monkeypatch.setattr(bucket, "_part", broken)
    with pytest.raises(RunError, match="the network"):
        bucket.fetch(objects, "", tmp_path / "back")
    server.seen.clear()

    gs_place.bucket.fetch(objects, "", tmp_path / "back")

    assert len(server.seen) == 2  # the parts that were missing
    assert (tmp_path / "back/big").read_bytes() == content
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["big"]


def test_what_arrives_damaged_is_not_kept(gs_place, server, tmp_path):
    gs_place.put("x/y", b"content")
    bucket = gs_place.bucket
    objects = bucket.listing("x")
    server.damaging = True

    with pytest.raises(Damaged, match="x/y does not have the checksum"):
        bucket.fetch(objects, "x", tmp_path / "back")
    with pytest.raises(Damaged):
        bucket.read("x/y")
    assert list((tmp_path / "back").iterdir()) == []


def test_a_write_whose_answer_is_lost_is_known_for_our_own(gs_place, server):
    """The retry is then refused with 412: the object is there already."""
    server.losing = 1
    gs_place.bucket.write("lease", b"ours", 0)
    assert gs_place.bucket.read("lease") == b"ours"

    with pytest.raises(Changed):
        gs_place.bucket.write("lease", b"theirs", 0)


def test_sixteen_that_write_through_a_faltering_server_have_one_winner(gs_place, server):
    """Each answer of the first that is done is lost: its writer must learn that it has won."""
    server.losing, server.failing, server.method = 3, 3, "POST"

    def write(n):
        try:
            gs_place.bucket.write("lease", f"holder {n}".encode(), 0)
        except Changed:
            return None
        return n

    with ThreadPoolExecutor(16) as pool:
        winners = [n for n in pool.map(write, range(16)) if n is not None]

    assert [f"holder {n}".encode() for n in winners] == [gs_place.bucket.read("lease")]


def test_folder_markers_of_the_console_are_passed_over(gs_place, server):
    for name in ("x/", "x/deep/"):
        server.put("bucket", name, b"")
    server.put("bucket", "x/deep/a", b"a")

    assert list(gs_place.bucket.listing("x")) == ["x/deep/a"]


@pytest.mark.parametrize("name", ["x/../../outside", "../outside", "x/./a", "x//a", "/x", "x/a\nb", "x/\x1b[31m", "x/full/"])
def test_a_listing_with_a_name_that_leaves_the_folder_is_refused(gs_place, server, tmp_path, name):
    """As the server gives it: its own disk cannot hold each of these names, so the proxy writes them into a true answer."""
    gs_place.put("x/innocent")
    gs_place.put("x/planted")
    server.renames["x/planted"] = name

    with pytest.raises(UserError, match=r"it lists .* which is no file below a folder .* nothing was written"):
        gs_place.bucket.listing("x")


def test_memory_is_bounded_by_the_part(gs_place, tmp_path):
    """A child that uploads and downloads 100 MB takes 96 MB, of which Python and the library are 60."""
    with (tmp_path / "big").open("wb") as file:
        file.truncate(100_000_000)
    code = (
        "import re, sys; from pathlib import Path; from training.runner.bucket.bucket import open_bucket\n"
        "bucket = open_bucket(sys.argv[1]); bucket.upload(Path(sys.argv[2]), 'x/big')\n"
        "bucket.fetch(bucket.listing('x'), 'x', Path(sys.argv[3]))\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"  # ru_maxrss would begin with the parent's
    )
    words = [sys.executable, "-c", code, gs_place.url, str(tmp_path / "big"), str(tmp_path / "back")]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()}, check=True)

    assert int(done.stdout) < 120_000
    assert (tmp_path / "back/big").stat().st_size == 100_000_000


# --- logins: google-auth reads its settings when it is imported, so a child each ---


@pytest.fixture
def login(server):
    """A metadata server and a token server, and a bucket that is asked with a token."""
    server.make_bucket("bucket")
    with LoginServer() as login:
        yield login


def listed(server, boot=10.0, **changes):
    """What a child that lists gs://bucket ends with, without a login but for `changes`."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GOOGLE_", "CLOUDSDK_", "STORAGE_", "GCE_"))}
    env |= {"API_ENDPOINT_OVERRIDE": server.url, "PYTHONPATH": os.getcwd(), "CLOUDSDK_CONFIG": "/nowhere", "NO_GCE_CHECK": "true"}
    modules = "training.runner.bucket.login as l, training.runner.bucket.google as g"
    code = f"import {modules}; l.BOOT_SECONDS = {boot}; g.RETRY_SECONDS = 2.0; {CHILD}"
    done = subprocess.run([sys.executable, "-c", code, "gs://bucket"], capture_output=True, text=True, env=env | changes)
    return done.returncode, (done.stdout + done.stderr).strip().splitlines()[-1]


def test_without_a_login_the_command_is_named(server, login):
    code, line = listed(server)

    assert code == 1
    assert line.startswith("training.errors.UserError: gs://bucket: there is no Google login here (")
    assert line.endswith("; run: gcloud auth application-default login")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("fine", None),
        ("invalid_grant", "UserError: gs://bucket: the Google login here has expired or was withdrawn (Error code invalid_grant: "),
    ],
)
def test_a_persons_login_is_used_and_an_expired_one_is_said(server, login, tmp_path, answer, message):
    file = tmp_path / "adc.json"
    file.write_text(
        json.dumps({
            "type": "external_account_authorized_user", "client_id": "i", "client_secret": "s", "refresh_token": "r",
            "audience": "//iam.googleapis.com/locations/global/workforcePools/a/providers/b", "token_url": f"{login.url}/token",
            "token_info_url": f"{login.url}/introspect",
        })
    )  # fmt: skip
    login.grants = answer == "fine"

    code, line = listed(server, GOOGLE_APPLICATION_CREDENTIALS=str(file))

    if message is None:
        assert (code, line) == (0, "[]")
    else:
        assert message in line
        assert line.endswith("; run: gcloud auth application-default login")


@pytest.mark.parametrize(("late", "is_in_time"), [(0, True), (2, True), pytest.param(10_000, False, marks=pytest.mark.slow)])
def test_a_metadata_server_that_is_late_at_boot_is_waited_for(server, login, late, is_in_time):
    login.late = late

    code, line = listed(server, 10.0 if is_in_time else 0.5, NO_GCE_CHECK="", **login.env)

    if is_in_time:
        assert (code, line) == (0, "[]")
    else:
        assert line.startswith("training.errors.RunError: gs://bucket: the VM's metadata server gives no token (")


def test_a_login_that_the_bucket_does_not_accept_is_said_with_the_command(server, login):
    server.failing, server.fails_with = 1000, 401

    _, line = listed(server, NO_GCE_CHECK="", **login.env)

    assert line.startswith("training.errors.UserError: gs://bucket: Google does not accept the login here (a fault of the test)")
    assert line.endswith("; run: gcloud auth application-default login")


def test_files_and_help_do_not_pay_for_the_library():
    code = (
        "import sys; from training.runner.bucket.bucket import open_bucket; open_bucket('file:///tmp').about('x'); open_bucket('gs://bucket')\n"
        "import training.__main__, training.runner.mirror.push, training.runner.mirror.pull, training.runner.job\n"
        "print([name for name in ('google.auth', 'google.cloud', 'requests', 'google_crc32c') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
