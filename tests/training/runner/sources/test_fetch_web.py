"""https:// sources (over loopback http), and the bad days of a server."""

import logging
import random
import resource

import pytest

from tests.tools.hub_server import WebServer
from tests.training.runner.sources.conftest import noise, sha256, wait_until
from training.errors import RunError, UserError
from training.runner.sources import download
from training.runner.sources.fetch import fetch_all, outstanding

BODY = noise(1_000_000)


@pytest.fixture
def source(web):
    web.files["/cells.h5ad"] = BODY
    return f"{web.url}/cells.h5ad?signature=hush#sha256={sha256(BODY)}", "cells.h5ad"


def ranges(web):
    return [headers.get("range") for _, _, headers in web.seen]


def half_done(machine, web, source):
    """Leave half of the file behind, as a machine does that was switched off."""
    web.cuts = [len(BODY) // 2]
    web.refusals = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "TRIES", 0)
        with pytest.raises(RunError, match="the connection ended early; check the network, then run it again"):
            machine.fetch(source)
    assert (machine.data / "cells.h5ad.partial").stat().st_size == len(BODY) // 2
    web.seen.clear()
    web.bodies = []


def test_a_file_comes_and_is_then_left_alone(machine, web, source):
    machine.fetch(source)
    assert machine.files() == {"cells.h5ad": BODY}
    web.seen.clear()

    fetch_all(machine.file, machine.root)

    assert web.seen == []
    assert outstanding(machine.file, machine.root) == ()


def test_a_right_file_that_somebody_else_put_there_is_taken(machine, web, source):
    machine.data.mkdir()
    (machine.data / "cells.h5ad").write_bytes(BODY)
    assert len(outstanding(machine.want(source), machine.root)) == 1

    machine.fetch(source)

    assert web.seen == []
    assert outstanding(machine.file, machine.root) == ()


def test_a_wrong_hash_removes_what_came_and_says_both(machine, web, source):
    web.files["/cells.h5ad"] = b"something else"

    with pytest.raises(RunError) as error:
        machine.fetch(source)

    assert sha256(BODY) in str(error.value)
    assert sha256(b"something else") in str(error.value)
    assert machine.files() == {}


def test_a_connection_that_is_cut_goes_on_where_it_was(machine, web, source):
    web.cuts = [300_000, 300_000, 0, 0]

    machine.fetch(source)

    assert machine.files() == {"cells.h5ad": BODY}
    assert web.served == len(BODY)
    assert ranges(web)[:3] == [None, "bytes=300000-", "bytes=600000-"]


def test_a_server_that_brings_nothing_is_given_up(machine, web, source):
    web.cuts = [10] + [0] * 20

    with pytest.raises(RunError, match="the connection ended early"):
        machine.fetch(source)

    assert len(web.seen) == 1 + download.TRIES


def test_what_passes_is_tried_again_and_what_stays_is_not(machine, web, source):
    web.refusals = [503, 429, 500]
    machine.fetch(source)
    assert machine.files() == {"cells.h5ad": BODY}

    web.seen.clear()
    with pytest.raises(RunError, match=r"nothing.h5ad#sha256=\w+: the server says 404 Not Found"):
        machine.fetch((source[0].replace("cells", "nothing"), "x"))
    assert len(web.seen) == 1


def test_half_a_file_is_gone_on_with(machine, web, source):
    half_done(machine, web, source)

    fetch_all(machine.file, machine.root)

    assert machine.files() == {"cells.h5ad": BODY}
    assert web.served == len(BODY) - len(BODY) // 2


def test_a_file_that_has_changed_is_not_glued_together(machine, web, source):
    half_done(machine, web, source)
    other = noise(len(BODY), 9)
    web.files["/cells.h5ad"] = other

    machine.fetch((f"{web.url}/cells.h5ad#sha256={sha256(other)}", "cells.h5ad"))

    assert machine.files() == {"cells.h5ad": other}
    assert web.served == len(other)
    assert ranges(web) == [f"bytes={len(BODY) // 2}-"]


@pytest.mark.parametrize("lacks", ["has_ranges", "has_etags"])
def test_a_server_without_ranges_or_etags_starts_anew(machine, web, source, lacks):
    setattr(web, lacks, False)
    half_done(machine, web, source)

    fetch_all(machine.file, machine.root)

    assert machine.files() == {"cells.h5ad": BODY}
    assert web.served == len(BODY)


def test_a_whole_file_that_only_lacks_its_name_gets_it(machine, web, source):
    half_done(machine, web, source)
    (machine.data / "cells.h5ad.partial").write_bytes(BODY)

    fetch_all(machine.file, machine.root)

    assert machine.files() == {"cells.h5ad": BODY}
    assert web.served == 0


def test_too_much_of_a_file_starts_anew(machine, web, source):
    half_done(machine, web, source)
    (machine.data / "cells.h5ad.partial").write_bytes(BODY + b"and more")

    fetch_all(machine.file, machine.root)

    assert machine.files() == {"cells.h5ad": BODY}


def test_offline_is_said_and_what_is_there_needs_no_network(machine, source):
    with WebServer({"/a": b"a"}) as short_lived:
        there = (f"{short_lived.url}/a#sha256={sha256(b'a')}", "a")
        machine.fetch(there)
    gone = (f"{short_lived.url}/b#sha256={sha256(b'b')}", "b")

    machine.fetch(there)
    with pytest.raises(RunError, match=r"/b#sha256=\w+: .*[Cc]onnection refused; check the network, then run it again"):
        machine.fetch(there, gone)

    assert [each.to for each in outstanding(machine.file, machine.root)] == ["b"]


def test_kills_at_any_moment_cost_nothing_that_has_come(machine, web, source):
    web.seconds_per_chunk = 0.02
    machine.want(source)
    partial = machine.data / "cells.h5ad.partial"
    moments = random.Random(0)
    for _ in range(6):
        more = moments.randrange(150_000) + (partial.stat().st_size if partial.exists() else 0)
        with machine.start() as process:
            wait_until(lambda: process.poll() is not None or (partial.exists() and partial.stat().st_size > more))  # noqa: B023
            process.kill()
        assert machine.files().keys() <= {"cells.h5ad", "cells.h5ad.partial", "cells.h5ad.partial.etag"}
        assert machine.files().get("cells.h5ad", BODY) == BODY
    web.seconds_per_chunk = 0.0

    fetch_all(machine.file, machine.root)

    assert machine.files() == {"cells.h5ad": BODY}
    starts = [int((asked or "bytes=0-")[6:-1]) for asked in ranges(web)]
    assert starts == sorted(set(starts))
    assert starts[-1] > 300_000


def test_a_full_disk_is_one_message_and_what_has_come_stays(machine, web, source):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))  # the kernel's no to a write, as of a full disk
    try:
        with pytest.raises(RunError, match=r"cells.h5ad#sha256=\w+: .*File too large"):
            machine.fetch(source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert 0 < (machine.data / "cells.h5ad.partial").stat().st_size <= 600_000

    fetch_all(machine.file, machine.root)

    assert machine.files() == {"cells.h5ad": BODY}
    assert len(ranges(web)) == 2
    assert ranges(web)[1] is not None


def test_a_folder_is_not_replaced_by_a_file(machine, web, source):
    (machine.data / "cells.h5ad").mkdir(parents=True)

    with pytest.raises(UserError, match=r"is a file, but .*/cells.h5ad is a folder; move it away"):
        machine.fetch(source)


def test_it_says_what_it_does_and_no_secret_of_the_url(machine, web, source, caplog):
    caplog.set_level(logging.INFO)

    machine.fetch(source)
    fetch_all(machine.file, machine.root)

    assert "data/cells.h5ad: from http://127.0.0.1" in caplog.text
    assert "data/cells.h5ad: right: 1 MB in 1 file, 1 MB of it brought, " in caplog.text
    assert "data/cells.h5ad: already right" in caplog.text
    assert "hush" not in caplog.text + (machine.data / ".sources.json").read_text()


def test_how_far_it_is_is_said_now_and_then(machine, web, source, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(download, "PROGRESS_SECONDS", 0.0)

    machine.fetch(source)

    assert "cells.h5ad#sha256=" in caplog.text
    assert " kB/s" in caplog.text or " MB/s" in caplog.text
