"""What the machine says of itself: one script asks it all at once, and steps are decided on the laptop.

The script comes from here, so both ends are of one version; what it reads there (idle.json, .shipped) may be older or newer.
"""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from bootstrap.connection import Host, in_a_line
from infra.outputs import DATA
from training.errors import RunError, UserError
from training.runner.protocol import Count, Line, brief

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
say rsync "$(has rsync)"; say crontab "$(has crontab)"
[ "$(has sudo)" ] && sudo -n true 2>/dev/null && say may_sudo yes
say uv "$(sum "$root/uv")"
say code "$(sum "$root/code/.shipped")"
say commit "$(cat "$root/code/.commit" 2>/dev/null)"
[ -e "$root/code/training/supervision/__main__.py" ] && say runner training.supervision
say environment "$(cat "$root/code/.venv/.synced" 2>/dev/null)"
say folders "$(cd "$root" 2>/dev/null && ls -d code data runs jobs cache 2>/dev/null)"
say links "$(readlink "$root/code/data" 2>/dev/null) $(readlink "$root/code/runs" 2>/dev/null)"
say tokens "$(stat -c %a "$root/env" 2>/dev/null) $(sum "$root/env")"
say hooks "$(sum "$root/boot-hook") $(sum "$root/last-sync")"
say place "$(sum "$root/machine.json")"
say swapfile_kib "$(du -k --apparent-size "$root/swapfile" 2>/dev/null | cut -f 1)"
if [ "$(has crontab)" ]; then
    lines=$(crontab -l 2>/dev/null | grep -F "$root/boot-hook")
    case $lines in *@reboot*) say is_in_crontab yes;; esac
    case $lines in *' revive'*) say is_watched yes;; esac
fi
for lock in "$root"/jobs/*/lock; do
    [ -e "$lock" ] && ! flock -n "$lock" true && living="$living $(basename "$(dirname "$lock")")"
done
say living "$living"
say idle "$(cat "$root/idle.json" 2>/dev/null || ([ -e "$root/idle.never" ] && echo never))"
[ -e "$root/idle.lock" ] && ! flock -n "$root/idle.lock" true && say is_guarded yes
true
"""


def _is_root(path: str) -> str:
    """Everything of ours lies below it, and it becomes a word of commands."""
    parts = path.split("/")[1:]
    if not path.startswith("/") or len(path) > 1000 or not path.isprintable() or any(part in (".", "..") for part in parts):
        raise ValueError("is no folder (accepted: an absolute path without the parts '.' and '..')")
    return path


Root = Annotated[str, AfterValidator(_is_root)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}$")]
"""As `uname -m` prints: it becomes a part of a path of this laptop."""
Code = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True)
class Facts:
    """Of a machine. Texts are empty, and answers False, where there is nothing; a value that cannot be is refused.

    Units: `_kib` KiB. `uv`, `code`, `tokens` (after its mode), `hooks` (two) and `place` are SHA-256; `environment` is what
    `uv sync` last brought, `idle` the text of idle.json or `never`, `nvidia_smi` a line a GPU: name, driver, memory.
    """

    root: Root
    system: Line = "Linux"
    arch: Word = "x86_64"
    user: Line = ""
    is_mounted: bool = False
    is_writable: bool = False
    free_kib: Count = 0
    swap_kib: Count = 0
    memory_kib: Count = 0
    has_nvidia_card: bool = False
    nvidia_smi_code: Code | None = None
    nvidia_smi: Line = ""
    rsync: Line = ""
    crontab: Line = ""
    may_sudo: bool = False
    uv: Line = ""
    code: Line = ""
    commit: Line = ""
    runner: Literal["training.runner", "training.supervision"] = "training.runner"
    """The module there; the second is its name in code from before."""
    environment: Line = ""
    folders: Line = ""
    links: Line = ""
    tokens: Line = ""
    hooks: Line = ""
    place: Line = ""
    swapfile_kib: Count = 0
    is_in_crontab: bool = False
    is_watched: bool = False
    """Whether cron starts killed supervisors again."""
    living: Line = ""
    """Names of the runs whose supervisor lives."""
    idle: Line = ""
    is_guarded: bool = False

    @classmethod
    def of(cls, printed: str) -> "Facts":
        """From what the script printed; other lines (a greeting of the shell) are passed over.

        Raises: UserError naming the fact that cannot be.
        """
        told = dict(line.split("\t", 1) for line in printed.split("\n") if "\t" in line)
        kinds = {field.name: "bool" in str(field.type) for field in fields(cls)}
        values = {key: text.strip() for key, text in told.items() if key in kinds and text.strip()}
        try:
            return TypeAdapter(cls).validate_python({key: text == "yes" if kinds[key] else text for key, text in values.items()})
        except ValidationError as error:
            found = error.errors(include_url=False)[0]
            name = ".".join(str(part) for part in found["loc"])
            raise UserError(f"{name}: {brief(found['input'])}: {brief(found['msg'], 240)}") from None


def ask(host: Host) -> Facts:
    """Everything at once.

    Raises: RunError if the machine does not answer in a way that we understand.
    """
    folder = host.machine.folder
    root = f'root="$HOME{folder[1:]}"' if folder.startswith("~/") else f"root={folder}"
    answer = host.ask(f"{root}\n{_SCRIPT}")
    if answer.code or "\t" not in answer.out:
        raise RunError(f"{host.machine.label}: does not say what it is: {in_a_line(answer.err or answer.out)}")
    try:
        return Facts.of(answer.out)
    except UserError as refusal:
        raise RunError(
            f"{host.machine.label}: says of itself what cannot be: {refusal}; look at it by hand before you go on"
        ) from None
