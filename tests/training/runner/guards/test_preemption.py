"""Against a real HTTP server on loopback that answers as Google's metadata server does."""

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.training.runner.conftest import until
from training.runner.guards.preemption import PreemptionWatch


class Metadata(ThreadingHTTPServer):
    """`taken` is what happens; `broken` is how many of the next answers are an error."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.taken, self.broken, self.flavor = threading.Event(), 0, "Google"
        self.asked: list[tuple[str, str | None]] = []

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    """Holds a question with wait_for_change until the value changes."""

    server: Metadata

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Metadata-Flavor"]))
        if "wait_for_change=true" in self.path:
            if self.server.broken:
                self.server.broken -= 1
                self.send_error(503)
                return
            self.server.taken.wait(10)
        body = b"TRUE" if self.server.taken.is_set() else b"FALSE"
        self.send_response(200)
        self.send_header("Metadata-Flavor", self.server.flavor)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    with Metadata() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.taken.set()
        server.shutdown()
        thread.join()


def test_a_preemption_is_heard_of_at_once_and_errors_in_between_do_no_harm(metadata):
    metadata.broken = 2
    watch = PreemptionWatch(metadata.host, retry_seconds=0.05)
    watch.start()
    long = "/computeMetadata/v1/instance/preempted?wait_for_change=true&timeout_sec=300"
    until(lambda: [path for path, _ in metadata.asked].count(long) == 3)
    assert not watch.taken.is_set()

    metadata.taken.set()

    assert watch.taken.wait(10)
    assert {flavor for _, flavor in metadata.asked} == {"Google"}


def test_without_google_there_is_no_watch(metadata):
    metadata.taken.set()
    metadata.flavor = "someone else"
    for host in (metadata.host, "127.0.0.1:9"):
        watch = PreemptionWatch(host, retry_seconds=0.01)

        watch.watch()  # comes back

        assert not watch.taken.is_set()


@pytest.mark.slow
def test_a_preempted_job_is_interrupted_with_a_checkpoint_and_a_boot_goes_on(site, metadata):
    os.environ["GCE_METADATA_HOST"] = metadata.host
    supervisor = site.start("deaf@3")
    until(lambda: site.step == 3 and any("wait_for_change" in path for path, _ in metadata.asked))
    metadata.taken.set()

    assert supervisor.wait(timeout=60) == 0
    assert site.state.phase == "interrupted"
    assert "Google takes the machine back" in site.state.reason
    assert site.state.starts[-1].ended == "preempted"
    os.environ["GCE_METADATA_HOST"] = "127.0.0.1:9"
    assert site.supervise("ok", by_boot=True).phase == "finished"
