import csv
import resource
import shutil
from pathlib import Path

import pytest

from training.checkpoints.manifest import folder_of, is_intact, write_manifest
from training.checkpoints.run_directory import RunDirectory, Start, git_commit
from training.checkpoints.settings import config_sha256
from training.checkpoints.trained_model import model_at
from training.config_loader import load_config
from training.errors import UserError
from training.files import write_texts


@pytest.fixture
def make(tmp_path):
    """A configuration whose run directory is tmp_path/run."""

    def config(**changes):
        settings = {"data.split": "a.toml", "data.control": "control", "output_dir": tmp_path, "name": "run"} | changes
        return load_config(None, [f"{key}={value}" for key, value in settings.items()])

    return config


def begin(config, fingerprint="d" * 64, total_steps=100):
    return RunDirectory(config.directory).begin(config, Start(fingerprint, total_steps, "cpu", None, {"leaks": []}))


def save(config, step, fingerprint="d" * 64):
    folder = config.directory / "checkpoints" / folder_of(step)
    folder.mkdir()
    (folder / "trainer.ckpt").write_bytes(b"weights")
    write_manifest(folder, step, config_sha256(config), fingerprint, None)


def test_a_start_leaves_a_configuration_that_reads_back_equal_and_the_facts(make):
    config = make(**{"optim.lr": 3e-4})

    assert begin(config) is None

    assert RunDirectory(config.directory).config() == config
    facts = RunDirectory(config.directory).facts()
    assert facts["data_fingerprint"] == "d" * 64
    assert [(start["step"], start["reason"], start["device"]) for start in facts["starts"]] == [(0, "start", "cpu")]
    assert facts["versions"]["torch"]
    assert facts["git_commit"] == git_commit()


def test_a_run_that_has_begun_is_neither_continued_nor_deleted_unasked(make):
    begin(make())
    save(make(), 40)

    with pytest.raises(UserError, match=r"exists already, with checkpoints of steps 40 \(accepted: resume=true.*overwrite=true"):
        begin(make())


def test_overwrite_deletes_a_run(make):
    begin(make())
    save(make(), 40)

    assert begin(make(overwrite="true")) is None
    assert list((make().directory / "checkpoints").iterdir()) == []


def test_overwrite_never_deletes_a_folder_that_is_no_run(make, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    (tmp_path / "run" / "config.yaml").write_text("theirs: 1")

    with pytest.raises(UserError, match="exists already and is no run directory"):
        begin(make(overwrite="true"))
    assert (tmp_path / "run" / "thesis.txt").exists()


def test_resume_takes_the_highest_complete_step_and_records_itself(make):
    begin(make())
    for step in (20, 40):
        save(make(), step)
    (make().directory / "checkpoints" / folder_of(60)).mkdir()  # a kill before the manifest

    assert begin(make(resume="true")).step == 40
    facts = RunDirectory(make().directory).facts()
    assert [(start["step"], start["reason"]) for start in facts["starts"]] == [(0, "start"), (40, "resume=true")]


def test_resume_without_a_checkpoint_is_refused_with_advice_that_leads_out(make):
    begin(make())

    with pytest.raises(UserError, match=r"no complete checkpoint .to start anew, overwrite=true instead"):
        begin(make(resume="true"))
    with pytest.raises(UserError, match=r"without a complete checkpoint .accepted: overwrite=true"):
        begin(make())
    assert begin(make(overwrite="true")) is None


def test_a_resume_beyond_the_asked_length_is_refused_and_changes_nothing(make):
    begin(make())
    save(make(), 20)
    before = {path: path.read_bytes() for path in make().directory.rglob("*") if path.is_file()}

    with pytest.raises(UserError, match=r"at step 20 .* asks for 19 .accepted: 20 or more"):
        begin(make(resume="true"), total_steps=19)
    assert {path: path.read_bytes() for path in make().directory.rglob("*") if path.is_file()} == before


def test_a_kill_while_a_run_is_claimed_leaves_what_the_next_start_can_claim(make):
    begin(make())
    (make().directory / "config.yaml").unlink()  # run.json is first, config.yaml second
    (make().directory / "checkpoints").rmdir()

    assert begin(make(overwrite="true")) is None
    assert RunDirectory(make().directory).config() == make()


def test_a_checkpoint_of_another_run_is_refused(make, tmp_path):
    begin(make())
    save(make(seed=7), 20)

    with pytest.raises(UserError, match=r"step=000000020: its manifest is of another configuration"):
        begin(make(resume="true"))


def test_a_checkpoint_of_another_run_is_no_model_of_this_one(make):
    begin(make())
    save(make(), 20)
    save(make(seed=7), 40)
    directory = RunDirectory(make().directory)

    for which in ("last", "40"):
        with pytest.raises(
            UserError, match=r"step=000000040: its manifest is of another configuration than .*move that folder away"
        ):
            model_at(directory, which)
    shutil.rmtree(directory.checkpoints / folder_of(40))
    with pytest.raises(UserError, match=r"step=000000020/trainer.ckpt: not a readable model file"):
        model_at(directory, "last")  # it is chosen; the model itself is none here


@pytest.mark.parametrize("after", ["it is chosen", "it is read"])
def test_a_checkpoint_that_a_living_run_removes_meanwhile_is_no_error(make, monkeypatch, after):
    begin(make())
    save(make(), 20)
    directory = RunDirectory(make().directory)
    judge = is_intact

    def while_the_run_goes_on(checkpoint):
        read = after == "it is read" and judge(checkpoint)
        if checkpoint.step == 20:
            save(make(), 40)
            shutil.rmtree(directory.checkpoints / folder_of(20))
        return read or judge(checkpoint)

    monkeypatch.setattr("training.checkpoints.trained_model.is_intact", while_the_run_goes_on)
    with pytest.raises(UserError, match=r"step=000000040/trainer.ckpt: not a readable model file"):
        model_at(directory, "last")


@pytest.mark.parametrize("made", [None, "empty"])
def test_a_resume_of_nothing_is_refused_with_advice_that_leads_out(make, made):
    if made:
        make().directory.mkdir()

    with pytest.raises(UserError, match=r"no run has begun there .to start one, leave resume=true out"):
        begin(make(resume="true"))
    assert begin(make()) is None


@pytest.mark.parametrize("word", ["resume", "overwrite", "seed"])
def test_a_folder_that_is_no_run_is_neither_resumed_nor_deleted(make, word):
    make().directory.mkdir()
    (make().directory / "thesis.txt").write_text("years of work")

    with pytest.raises(UserError, match=r"exists already and is no run directory .set another name or output_dir"):
        begin(make(**{word: "1" if word == "seed" else "true"}))
    assert (make().directory / "thesis.txt").exists()
    assert begin(make(name="another")) is None


@pytest.mark.parametrize("word", ["resume", "overwrite", "seed"])
def test_a_run_directory_of_state_is_recognised(make, word):
    make().directory.mkdir()
    (make().directory / "config.yaml").write_text("data: {kwargs: {pert_col: gene}}\n")

    with pytest.raises(UserError, match="is a run directory of `state tx train`"):
        begin(make(**{word: "1" if word == "seed" else "true"}))


def test_what_goes_on_after_an_interrupt(make):
    begin(make())
    directory = RunDirectory(make().directory)

    assert directory.way_on() == "nothing was saved yet: overwrite=true starts anew"
    save(make(), 20)
    assert directory.way_on() == "resume=true goes on from step 20"


@pytest.mark.parametrize("where", [{"output_dir": "o" * 300}, {"output_dir": "/".join(["deep" * 25] * 42)}], ids=["name", "path"])
def test_a_path_that_is_too_long_is_refused(make, where):
    directory = RunDirectory(make(**where).directory)

    with pytest.raises(UserError, match=r"cannot be written: its path is too long .set output_dir"), directory.held():
        pass
    with pytest.raises(UserError, match="its path is too long"):
        directory.refuse(make(**where))


def test_a_path_that_is_too_long_for_what_a_run_writes_in_it_is_refused(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left = 4096 - len(str(tmp_path)) - 60
    folder = Path(*["d" * 100] * (left // 101), "d" * (left % 101 or 1))

    with pytest.raises(UserError, match="its path is too long"):
        RunDirectory(make(output_dir=tmp_path / folder).directory).refuse(make())


def test_files_that_belong_together_are_written_all_or_none(tmp_path):
    first, second = tmp_path / "evaluation.csv", tmp_path / "metrics.json"
    write_texts({first: "old", second: "old"})

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # the kernel's no to a write, as of a full disk
    try:
        with pytest.raises(OSError, match=r"metrics.json") as error:
            write_texts({first: "new", second: "n" * 200})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.filename == str(second)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"evaluation.csv": "old", "metrics.json": "old"}

    write_texts({first: "new", second: "new"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"evaluation.csv": "new", "metrics.json": "new"}


def test_what_a_kill_left_half_written_goes_with_the_next_resume(make):
    begin(make())
    save(make(), 20)
    checkpoints = make().directory / "checkpoints"
    for name in (folder_of(40), f".{folder_of(60)}.partial"):
        (checkpoints / name).mkdir()
    (make().directory / "model.pt").write_bytes(b"of an earlier end")

    assert begin(make(resume="true")).step == 20
    assert [path.name for path in checkpoints.iterdir()] == [folder_of(20)]
    assert not (make().directory / "model.pt").exists(), "it would be taken for the weights of the longer run"


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(make, caplog):
    begin(make())
    for step in (20, 40):
        save(make(), step)
    (make().directory / "checkpoints" / folder_of(40) / "trainer.ckpt").write_bytes(b"wEights")

    assert begin(make(resume="true")).step == 20
    assert "step=000000040: damaged" in caplog.text


@pytest.mark.parametrize("content", ["{", "[]", '{"starts": null}'])
def test_an_edited_run_json_is_refused(make, content):
    begin(make())
    save(make(), 20)
    (make().directory / "run.json").write_text(content)

    with pytest.raises(UserError, match=r"run.json: not .*the facts of a run"):
        begin(make(resume="true"))


def test_resume_with_another_configuration_names_each_change(make):
    begin(make())
    save(make(), 20)

    with pytest.raises(UserError, match=r"another configuration: data.batch_size 16 -> 2, optim.lr 0.0001 -> 0.3"):
        begin(make(resume="true", **{"optim.lr": 0.3, "data.batch_size": 2}))


def test_resume_may_be_longer_and_elsewhere(make):
    begin(make())
    save(make(), 20)

    assert begin(make(resume="true", **{"trainer.max_steps": 99, "data.split": "moved.toml"})).step == 20


def test_resume_with_other_data_is_refused(make):
    begin(make())
    save(make(), 20)

    with pytest.raises(UserError, match=r"other data .fingerprint dddddddddddd, now eeeeeeeeeeee"):
        begin(make(resume="true"), "e" * 64)


def test_a_place_that_cannot_be_written_is_refused_and_leaves_nothing(make, tmp_path):
    (tmp_path / "file").write_text("")
    config = make(output_dir=tmp_path / "file")

    with pytest.raises(UserError, match=r"cannot be written: .*file is no writable folder"):
        RunDirectory(config.directory).refuse(config)


def test_a_folder_without_a_configuration_is_no_run_directory(tmp_path):
    with pytest.raises(UserError, match="not a run directory"):
        RunDirectory(tmp_path).config()


def test_validations_are_rows_under_one_header(make):
    begin(make())
    directory = RunDirectory(make().directory)
    for step in (10, 20):
        directory.append_validation(step, {"val/loss_total": step / 3, "val/loss_genes": 0.1})

    rows = list(csv.DictReader((directory.path / "eval_history.csv").read_text().splitlines()))
    assert [(int(row["step"]), float(row["val/loss_total"])) for row in rows] == [(10, 10 / 3), (20, 20 / 3)]
