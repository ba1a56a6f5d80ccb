"""One ssh_config per machine: fab, rsync and you (`ssh -F`) come in by the same file, the same connection and the same host key."""

import hashlib
import json
import re
import subprocess
from pathlib import Path

from bootstrap.machine import Machine
from infra.outputs import project_root
from training.errors import RunError, UserError
from training.runner.protocol import brief

KEY = Path("~/.ssh/google_compute_engine")  # the one that `gcloud compute ssh` makes and takes
PLACE = ".incubator"  # beside Pulumi.yaml
# A machine gets nothing of this laptop but what is typed: whatever ~/.ssh/config says, the first value of a key counts.
_NOTHING_OF_THIS_LAPTOP = (
    ("ForwardAgent", "no"),
    ("ForwardX11", "no"),
    ("ForwardX11Trusted", "no"),
    ("GSSAPIDelegateCredentials", "no"),
    ("PermitLocalCommand", "no"),
    ("Tunnel", "no"),
)
_PLACE = re.compile(r"\w[\w.-]{0,200}", re.ASCII)
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def write_ssh_config(machine: Machine) -> Path:
    """Write `.incubator/PLACE/ssh_config` and return its path.

    Raises: UserError or RunError if gcloud cannot say who logs in with OS Login.
    """
    folder = project_root() / PLACE / machine.place
    path = folder / "ssh_config"
    if not _PLACE.fullmatch(machine.place):
        raise UserError(f"name of the machine: {brief(machine.place)}: accepted: letters, digits and . _ -, the first no . or -")
    if '"' in str(folder):
        raise UserError(f"{folder}: no ssh_config can name a folder with a quotation mark; give the project another place")
    remembered = _user_in(path, machine) if machine.os_login else None
    user = remembered or (os_login_user(machine.os_login) if machine.os_login else machine.user)
    folder.mkdir(parents=True, exist_ok=True)
    Path("~/.ssh").expanduser().mkdir(mode=0o700, exist_ok=True)  # the shared connection's socket: its path must be short
    text = ssh_config(machine, user, folder)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    return path


def ssh_config(machine: Machine, user: str | None, folder: Path) -> str:
    """The text of the file. What it leaves open, on a machine that is not rented, ~/.ssh/config may say."""
    known = [_quoted(folder / "known_hosts"), *([] if machine.host_key_alias else ["~/.ssh/known_hosts"])]
    settings = [
        ("HostName", machine.address if machine.is_rented or ":" in machine.address else None),
        ("User", user),
        ("Port", machine.port),
        ("IdentityFile", str(KEY) if machine.os_login else None),
        ("ProxyCommand", machine.proxy),
        ("HostKeyAlias", machine.host_key_alias),  # a new VM under an old name or address is another host
        ("UserKnownHostsFile", " ".join(known)),
        ("StrictHostKeyChecking", "accept-new"),
        ("ConnectTimeout", 20),
        ("ServerAliveInterval", 15),
        ("ServerAliveCountMax", 4),
        ("ControlMaster", "auto"),
        ("ControlPersist", 60),
        *_NOTHING_OF_THIS_LAPTOP,
    ]
    for key, value in (("Host", machine.label), *settings):
        if not str(value).isprintable():  # a line break would begin a setting of its own
            raise UserError(f"ssh_config: {key}: {str(value)!r} has characters that do not print: no ssh_config can say that")
    lines = [f"  {key} {value}" for key, value in settings if value is not None]
    # Not ssh's own %C: behind a tunnel two projects' machines have one name, port and user, and would share a connection.
    own_hash = hashlib.sha256("\n".join([str(folder), *lines]).encode()).hexdigest()[:20]
    lines.append(f"  ControlPath ~/.ssh/incubator-{own_hash}")
    own = ["Match all", *([] if machine.is_rented else ["  Include ~/.ssh/config"]), "  SendEnv -*"]  # of what came before it
    head = f"# Written by fab. By hand: ssh -F {PLACE}/{machine.place}/ssh_config {machine.label}"
    return "\n".join([head, f"Host {machine.label}", *lines, *own]) + "\n"


def os_login_user(project: str) -> str:
    """Make sure that a key of this laptop is in the account's OS Login profile.

    Returns: the account's name on machines.
    Raises: UserError without gcloud or a login; RunError with gcloud's words.
    """
    key = KEY.expanduser()
    if not key.exists():
        key.parent.mkdir(mode=0o700, exist_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    public = key.with_name(f"{key.name}.pub")
    words = [
        "gcloud",
        "compute",
        "os-login",
        "ssh-keys",
        "add",
        f"--key-file={public}",
        f"--project={project}",
        "--format=json",
        "--quiet",
    ]
    try:
        done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise UserError(
            "gcloud is not on PATH: it knows your name on the machine; https://cloud.google.com/sdk/docs/install"
        ) from None
    if done.returncode:
        raise RunError(f"{' '.join(words[:5])}: {brief(done.stderr, 300)} (logged out? gcloud auth login)")
    return _primary_user(done.stdout, project)


def _primary_user(printed: str, project: str) -> str:
    """The account's name on machines, in gcloud's JSON."""
    try:
        accounts = json.loads(printed).get("loginProfile", {}).get("posixAccounts", [])
        names = [str(account["username"]) for account in sorted(accounts, key=lambda account: not account.get("primary"))]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise RunError(f"gcloud compute os-login: its answer is no OS Login profile: {brief(printed)}") from None
    if not names:
        raise RunError(f"gcloud knows no OS Login account of yours in {project}; may you log in there? ./fab preflight")
    if not _USER.fullmatch(names[0]):
        raise RunError(f"gcloud compute os-login: username: {brief(names[0])} is no name of a user")
    return names[0]


def _user_in(path: Path, machine: Machine) -> str | None:
    """Who logged in to this very machine before: gcloud need not be asked each time."""
    text = path.read_text() if path.exists() else ""
    if f"HostKeyAlias {machine.host_key_alias}\n" not in text:
        return None
    return next((line.split()[1] for line in text.splitlines() if line.startswith("  User ")), None)


def _quoted(path: Path) -> str:
    return f'"{path}"'.replace("%", "%%")
