"""A machine in an attacker's hands, behind a real SSH server: it answers what it likes, and nothing of it leaves its place."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bootstrap import facts as machine_facts
from bootstrap import pull as results
from bootstrap import runs, streams
from tests.tools.answering_machine import BEGUN, RECORD, ROOT, AnsweringMachine
from tests.tools.ssh_machine import SshMachine
from training.errors import RunError, UserError

pytestmark = pytest.mark.cloud  # minutes: each test has an SSH server of its own
NAMES = ["..", ".", "", "/etc", "../../x", "a/b", "x\ny", "\x1b[2J", "-rf", "$(touch /tmp/x)", ["a"], None, 7, "a" * 101]


@pytest.fixture
def evil(machine: SshMachine) -> AnsweringMachine:
    return AnsweringMachine(machine)


def everything_in(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if ".incubator" not in path.parts and "machine" not in path.parts
    }


def test_the_same_machine_with_honest_answers_is_pulled_from(evil, host, tmp_path, capsys):
    evil.run()

    results.pull(host, None, tmp_path / "runs")

    assert (tmp_path / "runs" / "job" / "checkpoints" / "step=000000008" / "trainer.ckpt").read_text() == "payload"
    assert "next: training evaluate runs/job  " in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:20])
def test_no_name_of_a_job_leaves_the_folder_of_a_pull(evil, host, tmp_path, name):
    evil.run("a")
    answer = json.loads(RECORD.read_text())
    answer["jobs"][0]["name"] = name
    evil.says(answer)
    before = everything_in(tmp_path)

    for verb in (
        lambda: results.pull(host, None, tmp_path / "runs"),
        lambda: runs.stop(host, None),
        lambda: runs.logs(host, None, False, 5),
    ):
        with pytest.raises(RunError, match=r"incubator-l4: the answer cannot be read: jobs\.0\.name") as failed:
            verb()
        assert str(failed.value).isprintable()
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("module", ["copy", "sitecustomize", "training"])
def test_a_pull_makes_no_module_of_a_run(evil, host, tmp_path, monkeypatch, module):
    """`python -m` imports from the working directory, and our environment from the project's folder."""
    folder = evil.run(module)
    (folder / "__init__.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\n")
    answer = json.loads(RECORD.read_text())
    answer["jobs"][0]["name"] = module
    evil.says(answer)
    (tmp_path / "Pulumi.yaml").touch()
    (tmp_path / "results").mkdir()

    with pytest.raises(UserError, match=r"Python imports from that folder, and a run's files must not become modules"):
        results.pull(host, None, Path())
    monkeypatch.chdir(tmp_path / "results")
    results.pull(host, None, Path())  # a folder of one's own, in which fab and its children are started

    fab = [str(Path(sys.executable).parent / "fab"), "-r", str(Path(__file__).parents[2]), "--list"]
    done = subprocess.run(fab, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "owned").exists()


def test_links_devices_and_repositories_are_not_pulled(evil, host, tmp_path):
    folder = evil.run()
    (folder / "link").symlink_to("/etc/passwd")
    (folder / "tensorboard").symlink_to("/etc")
    os.mkfifo(folder / "pipe")
    (folder / ".Git").mkdir()
    (folder / ".Git/config").write_text('[core]\nfsmonitor = "touch owned; false"\n')
    (folder / "HEAD").write_text("ref: refs/heads/main\n")

    target = results.pull(host, None, tmp_path / "runs")

    assert {path.name for path in target.iterdir()} == {"run.json", "model.pt", "checkpoints"}


@pytest.mark.parametrize("where", ["target", "inside", "checkpoint", "record"])
def test_nothing_is_written_through_a_link_that_lies_here(evil, host, tmp_path, where):
    evil.run()
    (tmp_path / "safe").mkdir()
    (tmp_path / "safe" / "run.json").write_text(json.dumps(BEGUN))
    before = everything_in(tmp_path / "safe"), (tmp_path / "safe" / "run.json").read_text()
    target = tmp_path / "runs" / "job"
    target.parent.mkdir()
    if where == "target":
        target.symlink_to(tmp_path / "safe")
    else:
        target.mkdir()
        (target / "run.json").write_text(json.dumps(BEGUN))
        name = {"inside": "tensorboard", "checkpoint": "checkpoints", "record": "run.json"}[where]
        (target / name).unlink(missing_ok=True)
        (target / name).symlink_to(tmp_path / "safe" / ("run.json" if where == "record" else ""))

    with pytest.raises(UserError, match=r"is a link"):
        results.pull(host, None, tmp_path / "runs")

    assert (everything_in(tmp_path / "safe"), (tmp_path / "safe" / "run.json").read_text()) == before


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"starts": []}', '{"starts": [1]}', "[" * 100_000, '{"starts": "x"}', "\x1b[2J"])
def test_a_record_of_a_run_that_is_none_is_refused(evil, host, tmp_path, text):
    (evil.run() / "run.json").write_text(text)

    with pytest.raises(RunError, match=r"run\.json is no record of a run; nothing was pulled"):
        results.pull(host, None, tmp_path / "runs")

    assert not (tmp_path / "runs" / "job").exists()


@pytest.mark.parametrize("line", ["../../../etc/passwd", "/etc/passwd", "checkpoints/../x/MANIFEST.json", "a\x1b[2J"])
def test_a_listing_names_manifests_only(evil, host, tmp_path, line):
    evil.run()
    evil.machine.program("ls", f"printf '%s\\n' '{line}'")

    with pytest.raises(RunError, match="as a manifest"):
        results.pull(host, None, tmp_path / "runs")


def test_a_payload_that_is_not_that_of_its_manifest_does_not_verify(evil, host, tmp_path, capsys):
    (evil.run() / "checkpoints" / "step=000000008" / "trainer.ckpt").write_text("other!!")

    with pytest.raises(RunError, match="not all of it is as it was written"):
        results.pull(host, None, tmp_path / "runs")


@pytest.mark.parametrize(
    "script",
    [
        'first=$1; shift; exec /usr/bin/rsync "$first" --links --devices --specials "$@"',  # more than was asked for
        "printf '\\037\\000\\000\\000garbage\\033[2J'; cat >/dev/null",
        "printf '\\033[2Jrsync: owned\\n' >&2; exit 23",
    ],
    ids=["sends links", "speaks no rsync", "prints escapes"],
)
def test_an_rsync_that_does_as_it_likes_leaves_no_link_here(evil, host, tmp_path, script):
    (evil.run() / "tensorboard").symlink_to("/etc")
    evil.machine.program("rsync", script)

    said = ""
    try:
        results.pull(host, None, tmp_path / "runs")
    except RunError as failure:
        said = str(failure)

    assert said.isprintable()
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_symlink()]


def test_an_answer_without_end_is_cut_off(evil, host, monkeypatch):
    evil.python("yes '{\"jobs\": ['")

    with pytest.raises(
        RunError, match=r"^incubator-l4: it printed more than 67,108,864 bytes, which no answer has; it was not read$"
    ):
        runs.status(host)


def test_what_a_machine_prints_is_escaped_wherever_it_is_shown(evil, host, capsys, tmp_path):
    nasty = "\\033[2J\\033]0;owned\\007 50%%\\r100%%\\n\\tdone \\342\\200\\256x\\377\\n"
    evil.python(f'case "$*" in *status*) cat {ROOT}/answer ;; *) printf "{nasty}"; printf "{nasty}" >&2; exit 1 ;; esac')
    (evil.root / "jobs" / "job").mkdir(parents=True)
    (evil.root / "jobs" / "job" / "job.log").write_bytes(
        nasty.replace("%%", "%").encode().decode("unicode_escape").encode("latin-1")
    )

    with pytest.raises(RunError, match="did not end as it should"):
        runs.stop(host, None)
    stopped = capsys.readouterr()
    runs.logs(host, None, follow=False, lines=10)
    logged = capsys.readouterr()

    for text in (stopped.out, stopped.err, logged.out):
        assert text == "\\x1b[2J\\x1b]0;owned\\x07 50%\r100%\n\tdone \\u202ex\ufffd\n"


@pytest.mark.parametrize("fact", list(machine_facts.Facts.__dataclass_fields__))
def test_no_fact_is_taken_as_it_comes(fact):
    for value in ("-1", "9" * 5000, "nan", "\x1b[2Jx", "../..", "a" * 200_000, "/x/../../etc", "$(id)", "/a\u202eb"):
        try:
            kept = getattr(machine_facts.Facts.of(f"root\t{ROOT}\n{fact}\t{value}"), fact)
        except UserError as refusal:
            kept = str(refusal)
            named, _, _ = kept.partition(": ")
            assert named == fact, value
        assert isinstance(kept, bool) or str(kept).isprintable(), value
        assert len(str(kept)) <= 1000, value
        assert fact != "root" or ".." not in kept.split("/") or kept.startswith("root: "), value


def test_a_fact_that_cannot_be_is_one_sentence(evil, host):
    evil.machine.program("uname", "printf '../../x\\033[2J'")

    with pytest.raises(
        RunError, match=r"^incubator-l4: says of itself what cannot be: arch: \.\./\.\./x\\x1b\[2J: .*look at it by hand"
    ):
        runs.status(host)


def test_no_answer_is_read_beyond_its_limit(tmp_path):
    words = [sys.executable, "-c", "import sys, time; sys.stdout.write('x' * 3000); sys.stdout.flush(); time.sleep(60)"]

    with pytest.raises(RunError, match="more than 2,000 bytes"):
        streams.capture(words, limit=2000)


def test_a_program_that_reads_nothing_is_not_waited_for_ever():
    with pytest.raises(subprocess.TimeoutExpired):
        streams.capture([sys.executable, "-c", "import time; time.sleep(60)"], stdin="x" * 10_000_000, seconds=0.5)
