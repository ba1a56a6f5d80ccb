"""What the machine says of itself: one script asks it all at once, and steps are decided on the laptop."""

from dataclasses import dataclass, fields
from typing import Any

from bootstrap.connection import Host
from infra.outputs import DATA
from infra.refusal import Failed

# POSIX sh, and nothing but what every Linux has. `$root` is where everything of ours lies.
_SCRIPT = f"""
say() {{ printf '%s\\t%s\\n' "$1" "$(printf '%s' "$2" | tr '\\t\\n' '  ')"; }}
sum() {{ sha256sum "$1" 2>/dev/null | cut -d ' ' -f 1; }}
has() {{ command -v "$1" 2>/dev/null; }}
say root "$root"
say system "$(uname -s)"
say arch "$(uname -m)"
say user "$(id -un)"
mountpoint -q {DATA} 2>/dev/null && say is_mounted yes
above=$root; while ! [ -e "$above" ]; do above=$(dirname "$above"); done
[ -w "$above" ] && say is_writable yes
say free_kib "$(df -Pk "$above" | awk 'NR==2 {{print $4}}')"
say swap_kib "$(awk '/^SwapTotal/ {{print $2}}' /proc/meminfo)"
say memory_kib "$(awk '/^MemTotal/ {{print $2}}' /proc/meminfo)"
grep -qsi 0x10de /sys/bus/pci/devices/*/vendor && say has_nvidia_card yes
if [ "$(has nvidia-smi)" ]; then
    gpus=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>&1); say nvidia_smi_code "$?"
    say nvidia_smi "$gpus"
fi
say rsync "$(has rsync)"; say crontab "$(has crontab)"; say systemctl "$(has systemctl)"
[ "$(has sudo)" ] && sudo -n true 2>/dev/null && say may_sudo yes
say uv "$(sum "$root/uv")"
say code "$(sum "$root/code/.shipped")"
say commit "$(cat "$root/code/.commit" 2>/dev/null)"
say environment "$(cat "$root/code/.venv/.synced" 2>/dev/null)"
say folders "$(cd "$root" 2>/dev/null && ls -d code data runs jobs cache 2>/dev/null)"
say links "$(readlink "$root/code/data" 2>/dev/null) $(readlink "$root/code/runs" 2>/dev/null)"
say tokens "$(stat -c %a "$root/env" 2>/dev/null) $(sum "$root/env")"
say hooks "$(sum "$root/boot-hook") $(sum "$root/last-sync")"
say swapfile_kib "$(du -k --apparent-size "$root/swapfile" 2>/dev/null | cut -f 1)"
[ "$(has crontab)" ] && crontab -l 2>/dev/null | grep -qF "$root/boot-hook" && say is_in_crontab yes
for lock in "$root"/jobs/*/lock; do
    [ -e "$lock" ] && ! flock -n "$lock" true && living="$living $(basename "$(dirname "$lock")")"
done
say living "$living"
say idle "$(cat "$root/idle.json" 2>/dev/null || ([ -e "$root/idle.never" ] && echo never))"
[ -e "$root/idle.lock" ] && ! flock -n "$root/idle.lock" true && say is_guarded yes
true
"""


@dataclass(frozen=True)
class Facts:
    """Of a machine. Texts are empty, and answers False, where there is nothing.

    Units: `_kib` KiB. `uv`, `code`, `tokens` (after its mode) and `hooks` (two) are SHA-256; `environment` is what `uv sync` last
    brought, `idle` the text of idle.json or `never`, `nvidia_smi` a line a GPU: name, driver, memory.
    """

    root: str
    system: str = "Linux"
    arch: str = "x86_64"
    user: str = ""
    is_mounted: bool = False
    is_writable: bool = False
    free_kib: int = 0
    swap_kib: int = 0
    memory_kib: int = 0
    has_nvidia_card: bool = False
    nvidia_smi_code: int | None = None
    nvidia_smi: str = ""
    rsync: str = ""
    crontab: str = ""
    systemctl: str = ""
    may_sudo: bool = False
    uv: str = ""
    code: str = ""
    commit: str = ""
    environment: str = ""
    folders: str = ""
    links: str = ""
    tokens: str = ""
    hooks: str = ""
    swapfile_kib: int = 0
    is_in_crontab: bool = False
    living: str = ""
    """Names of the runs whose supervisor lives."""
    idle: str = ""
    is_guarded: bool = False

    @classmethod
    def of(cls, printed: str) -> "Facts":
        """From what the script printed; other lines (a greeting of the shell) are passed over."""
        told = dict(line.split("\t", 1) for line in printed.splitlines() if "\t" in line)
        kinds = {field.name: field.type for field in fields(cls)}
        return cls(**{key: _value(kinds[key], text.strip()) for key, text in told.items() if key in kinds and text.strip()})


def ask(host: Host) -> Facts:
    """Everything at once.

    Raises: Failed if the machine does not answer in a way that we understand.
    """
    folder = host.machine.folder
    root = f'root="$HOME{folder[1:]}"' if folder.startswith("~/") else f"root={folder}"
    answer = host.ask(f"{root}\n{_SCRIPT}")
    if answer.code or "\t" not in answer.out:
        raise Failed(f"{host.machine.label}: does not say what it is: {' '.join((answer.err or answer.out).split())[:300]}")
    return Facts.of(answer.out)


def _value(kind: Any, text: str) -> Any:
    if "int" in str(kind):
        return int(text)
    return text == "yes" if "bool" in str(kind) else text
