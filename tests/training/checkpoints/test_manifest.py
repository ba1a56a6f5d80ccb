import json
import shutil

import pytest

from training.checkpoints import manifest
from training.checkpoints.manifest import MANIFEST, best, complete_checkpoints, folder_of, newest_intact, write_manifest
from training.checkpoints.settings import config_sha256, fixed_settings
from training.config_loader import load_config


def write_checkpoint(root, step, value=None, payload=b"weights"):
    folder = root / folder_of(step)
    folder.mkdir(parents=True)
    (folder / "trainer.ckpt").write_bytes(payload)
    write_manifest(folder, step, "config", "data", value)
    return folder


def test_what_is_written_is_found_by_ascending_step(tmp_path):
    for step in (30, 4, 1000):
        write_checkpoint(tmp_path, step)

    assert [c.step for c in complete_checkpoints(tmp_path)] == [4, 30, 1000]
    assert newest_intact(tmp_path) == complete_checkpoints(tmp_path)[-1]


def test_a_run_that_replaces_its_checkpoints_is_never_found_without_one(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, 2)
    read, newer = manifest._read, iter((4, 6, 8))

    def while_the_run_goes_on(folder):
        if step := next(newer, None):
            write_checkpoint(tmp_path, step)
            shutil.rmtree(folder)
        return read(folder)

    monkeypatch.setattr(manifest, "_read", while_the_run_goes_on)
    assert [c.step for c in complete_checkpoints(tmp_path)] == [8]


def test_folder_names_sort_by_step():
    assert sorted(folder_of(step) for step in (5, 40, 300, 2_000_000)) == [folder_of(s) for s in (5, 40, 300, 2_000_000)]


@pytest.mark.parametrize("harm", ["no manifest", "half a manifest", "payload gone", "payload cut", "wrong step", "still partial"])
def test_an_incomplete_checkpoint_does_not_count(tmp_path, harm):
    write_checkpoint(tmp_path, 10)
    folder = write_checkpoint(tmp_path, 20)
    manifest, payload = folder / MANIFEST, folder / "trainer.ckpt"
    match harm:
        case "no manifest":
            manifest.unlink()
        case "half a manifest":
            manifest.write_text(manifest.read_text()[:40])
        case "payload gone":
            payload.unlink()
        case "payload cut":
            payload.write_bytes(payload.read_bytes()[:-1])
        case "wrong step":
            manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"step": 21}))
        case "still partial":
            folder.rename(tmp_path / f".{folder.name}.partial")

    assert [c.step for c in complete_checkpoints(tmp_path)] == [10]


def test_a_flipped_bit_makes_the_newest_intact_one_the_one_before(tmp_path):
    write_checkpoint(tmp_path, 10)
    payload = write_checkpoint(tmp_path, 20) / "trainer.ckpt"
    payload.write_bytes(bytes([payload.read_bytes()[0] ^ 1]) + payload.read_bytes()[1:])

    assert [c.step for c in complete_checkpoints(tmp_path)] == [10, 20]
    assert newest_intact(tmp_path) == complete_checkpoints(tmp_path)[0]


def test_best_is_the_lowest_value_and_the_earliest_of_equals(tmp_path):
    for step, value in ((10, None), (20, 0.5), (30, 0.4), (40, 0.4), (50, 0.6)):
        write_checkpoint(tmp_path, step, value)

    assert best(complete_checkpoints(tmp_path)) == complete_checkpoints(tmp_path)[2]


def test_nothing_is_best_where_nothing_was_validated(tmp_path):
    write_checkpoint(tmp_path, 10)

    assert best(complete_checkpoints(tmp_path)) is None


def test_the_hash_sees_what_changes_weights_and_nothing_else():
    def config(override="seed=42"):
        settings = {"data.split": "a.toml", "data.control": "control"} | dict([override.split("=", 1)])
        return load_config(None, [f"{key}={value}" for key, value in settings.items()])

    same = ["output_dir=elsewhere", "data.num_workers=1", "checkpoints.every_steps=7", "data.split=moved/a.toml", "resume=true"]
    other = ["seed=1", "optim.lr=1e-3", "model.num_layers=3", "data.batch_size=2", "trainer.accumulate_micro_steps=2"]

    assert {config_sha256(config(change)) for change in same} == {config_sha256(config())}
    assert config_sha256(config()) not in {config_sha256(config(change)) for change in other}
    assert "trainer.max_steps" not in fixed_settings(config())
