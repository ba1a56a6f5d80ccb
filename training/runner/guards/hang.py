"""A process that hangs, whatever it is: none of its threads has run for a while. It need not say anything itself."""

import re
import time
from pathlib import Path

LOOK_SECONDS = 5.0
_SWITCHES = re.compile(r"^(?:non)?voluntary_ctxt_switches:\s*(\d+)$", re.MULTILINE)


class HangWatch:
    """Watches one process: it moves as long as the kernel counts CPU time or new switches of one of its threads.

    Units: `seconds` without one, by the monotonic clock, after which it hangs.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._seen, self._since, self._looked = (0, 0), time.monotonic(), float("-inf")

    def sees(self, pid: int) -> bool:
        """Whether the process hangs; may be asked as often as one likes."""
        now = time.monotonic()
        if now - self._looked >= min(LOOK_SECONDS, self.seconds / 4):
            self._looked = now
            if (moved := _moved(pid)) != self._seen:
                self._seen, self._since = moved, now
        return now - self._since > self.seconds


def _moved(pid: int) -> tuple[int, int]:
    """Ticks of CPU time, and switches of all threads."""
    try:
        ticks = sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    except OSError:
        ticks = 0
    switches = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        try:
            switches += sum(map(int, _SWITCHES.findall(status.read_text())))
        except OSError:  # the thread has ended
            continue
    return ticks, switches
