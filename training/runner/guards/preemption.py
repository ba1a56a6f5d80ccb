"""Google says when it takes a machine back: its metadata server answers a question that was asked long before."""

import http.client
import os
import threading
import time
from dataclasses import dataclass, field

METADATA_HOST = "metadata.google.internal"
PATH = "/computeMetadata/v1/instance/preempted"
ASK_SECONDS = 300
PROBE_SECONDS = 3.0
PROBES = 5


@dataclass
class PreemptionWatch:
    """Asks in a thread of its own; `taken` is set when the machine is taken back. Not on Google it soon gives up in silence.

    Units: `retry_seconds` between two failed questions.
    """

    host: str = field(default_factory=lambda: os.environ.get("GCE_METADATA_HOST") or METADATA_HOST)
    retry_seconds: float = 5.0
    taken: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Watch, for as long as the process lives."""
        threading.Thread(target=self.watch, name="preemption", daemon=True).start()

    def watch(self) -> None:
        """Ask until the answer is TRUE."""
        for _ in range(PROBES):  # at boot the network may come later than we do
            if (answer := self._ask(PATH, PROBE_SECONDS)) is not None:
                break
            time.sleep(self.retry_seconds)
        else:
            return
        while answer != "TRUE":
            time.sleep(0.1)  # a server that does not wait is not to be asked without end
            answer = self._ask(f"{PATH}?wait_for_change=true&timeout_sec={ASK_SECONDS}", ASK_SECONDS + 10)
            if answer is None:
                time.sleep(self.retry_seconds)
                answer = self._ask(PATH, PROBE_SECONDS)  # it may have changed while nobody was asking
        self.taken.set()

    def _ask(self, path: str, seconds: float) -> str | None:
        """The answer of a metadata server of Google's, None for anything else."""
        connection = http.client.HTTPConnection(self.host, timeout=seconds)
        try:
            connection.request("GET", path, headers={"Metadata-Flavor": "Google"})
            response = connection.getresponse()
            answer = response.read().decode(errors="replace").strip()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return answer if response.status == 200 and response.getheader("Metadata-Flavor") == "Google" else None
