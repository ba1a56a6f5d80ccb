"""`training fit` on simulated cells: what it leaves, that it repeats itself to the bit, and that it goes on after a stop."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import anndata
import pytest
import torch

from training.checkpoints.manifest import complete_checkpoints
from training.checkpoints.model_file import load_model

EMBEDDING = ("data.embed_key=X_state", "data.output_space=all", "model.decoder_hidden_dims=[16]")


def weights(run):
    return load_model(Path(run) / "model.pt").weights


def last_weights(run):
    newest = complete_checkpoints(Path(run) / "checkpoints")[-1]
    return torch.load(newest.folder / "trainer.ckpt", weights_only=True)["state_dict"]


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def metrics(run):
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def values(lines):
    """What was logged, by (step, stage), without timings; of lines for the same step the last counts."""
    timings = {"train/cells_per_second", "train/data_wait_fraction"}
    return {(line["step"], "val/loss_total" in line): {k: v for k, v in line.items() if k not in timings} for line in lines}


def test_a_run_leaves_the_directory_of_the_contract(training, settings):
    done = training("fit", *settings(*EMBEDDING))

    assert done.code == 0, done.err
    run = Path("run")
    assert {path.name for path in run.iterdir()} == {
        "config.yaml", "run.json", "training.log", "metrics.jsonl", "eval_history.csv", "model.pt", "checkpoints", "tensorboard",
        "progress.json",
    }  # fmt: skip
    assert [checkpoint.step for checkpoint in complete_checkpoints(run / "checkpoints")] == [4, 8]
    assert [int(row["step"]) for row in csv.DictReader((run / "eval_history.csv").read_text().splitlines())] == [4, 8]
    assert "Plan" in (run / "training.log").read_text()
    assert list((run / "tensorboard").glob("events*"))


def test_what_is_logged_has_names_nobody_can_misread(training, settings):
    training("fit", *settings(*EMBEDDING, "objective.decoder_weight=0.5"))

    lines = metrics("run")
    trained, validated = [m for m in lines if "train/loss_total" in m], [m for m in lines if "val/loss_total" in m]
    assert [m["step"] for m in trained] == [2, 4, 6, 8]
    assert [m["step"] for m in validated] == [4, 8]
    for m, stage in [*((m, "train") for m in trained), *((m, "val") for m in validated)]:
        for kind in ("", "_floor"):
            parts = m[f"{stage}/loss_embedding{kind}"] + 0.5 * m[f"{stage}/loss_genes{kind}"]
            assert m[f"{stage}/loss_total{kind}"] == pytest.approx(parts, rel=1e-5)
    assert {"train/gradient_norm", "train/cells_per_second", "train/data_wait_fraction"} <= trained[0].keys()
    assert all(m["lr/decay"] == pytest.approx(1e-3) for m in trained)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_loss_of_an_untrained_identity_model_is_its_floor(training, settings, accumulate):
    """On the same sets, all micro-steps of the logged step."""
    words = ("trainer.log_every_steps=1", "optim.lr=1e-12", "data.embed_key=X_state", "data.output_space=embedding")
    done = training("fit", *settings(*words, f"trainer.accumulate_micro_steps={accumulate}"))

    assert done.code == 0, done.err
    for line in metrics("run"):
        stage = "train" if "train/loss_total" in line else "val"
        assert line[f"{stage}/loss_embedding"] == pytest.approx(line[f"{stage}/loss_embedding_floor"], rel=1e-5)


@pytest.mark.parametrize(
    "changes", [["data.num_workers=0"], ["data.num_workers=2"], ["data.num_workers=1", "data.prefetch_batches=1"]]
)
def test_one_seed_gives_the_same_weights_to_the_bit(training, settings, changes):
    training("fit", *settings(*EMBEDDING, "name=first"))
    training("fit", *settings(*EMBEDDING, "name=second", *changes))

    assert equal(weights("first"), weights("second"))
    assert equal(last_weights("first"), last_weights("second"))


def test_another_seed_gives_other_weights(training, settings):
    training("fit", *settings("name=first"))
    training("fit", *settings("name=second", "seed=43"))

    assert not equal(weights("first"), weights("second"))


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(training, settings):
    """Stopped off the validation cadence, with accumulation, a warm-up and a cosine: all of it is a function of the step."""
    changes = (*EMBEDDING, "trainer.accumulate_micro_steps=3", "optim.schedule=cosine", "optim.warmup_fraction=0.3",
               "checkpoints.every_steps=3", "checkpoints.keep_last=9")  # fmt: skip
    training("fit", *settings(*changes))
    shutil.copytree("run", "stopped")
    for step in (8, 6, 4):
        shutil.rmtree(f"stopped/checkpoints/step={step:09d}", ignore_errors=True)
    (Path("stopped") / "model.pt").unlink()

    done = training("fit", *settings(*changes, "name=stopped", "resume=true"))

    assert done.code == 0, done.err
    assert equal(last_weights("run"), last_weights("stopped"))
    assert equal(weights("run"), weights("stopped"))
    assert values(metrics("run")) == values(metrics("stopped"))
    starts = json.loads((Path("stopped") / "run.json").read_text())["starts"]
    assert [(start["step"], start["reason"]) for start in starts] == [(0, "start"), (3, "resume=true")]


def test_a_run_can_be_moved_and_prolonged(training, settings):
    training("fit", *settings("trainer.max_steps=4"))
    Path("elsewhere").mkdir()
    shutil.move("run", "elsewhere/run")

    done = training("fit", *settings("output_dir=elsewhere", "resume=true"))
    training("fit", *settings("name=whole"))

    assert done.code == 0, done.err
    assert equal(last_weights("elsewhere/run"), last_weights("whole"))


def test_a_prolonged_cosine_has_the_rate_of_its_new_length_from_the_first_step_on(training, settings):
    words = ("optim.schedule=cosine", "trainer.log_every_steps=1")
    training("fit", *settings(*words, "trainer.max_steps=4"))
    training("fit", *settings(*words, "trainer.max_steps=8", "resume=true"))
    training("fit", *settings(*words, "trainer.max_steps=8", "name=whole"))

    rates = {run: {m["step"]: m["lr/decay"] for m in metrics(run) if "lr/decay" in m} for run in ("run", "whole")}
    assert [rates["run"][step] for step in (5, 6, 7, 8)] == [rates["whole"][step] for step in (5, 6, 7, 8)]
    assert rates["run"][4] != rates["whole"][4]


def test_a_run_that_was_killed_before_its_last_line_is_completed_by_a_resume(training, settings):
    training("fit", *settings())
    whole = weights("run")
    Path("run/model.pt").unlink()

    assert training("fit", *settings("resume=true")).code == 0
    assert equal(weights("run"), whole)


def test_weights_that_are_not_finite_never_become_a_checkpoint(training, settings):
    words = ("optim.lr=1e30", "optim.gradient_clip_norm=0", "checkpoints.every_steps=1", "trainer.log_every_steps=8",
             "trainer.val_every_steps=8")  # fmt: skip
    done = training("fit", *settings(*words))

    assert done.code == 1
    assert "not finite" in done.err
    for checkpoint in complete_checkpoints(Path("run/checkpoints")):
        state = torch.load(checkpoint.folder / "trainer.ckpt", weights_only=True)["state_dict"]
        assert all(bool(weight.isfinite().all()) for weight in state.values())


def test_a_resume_with_other_data_is_refused(training, settings):
    training("fit", *settings())
    split = Path("cells_split.toml")
    split.write_text(split.read_text().replace("test = [", "test = [ ") + "# moved a perturbation\n")
    text = split.read_text()
    first = text[text.index('test = [ "') + 9 :].split(",")[0]
    split.write_text(text.replace(f"{first}, ", ""))

    done = training("fit", *settings("resume=true", "trainer.max_steps=12"))

    assert done.code == 2
    assert "other data" in done.err


def test_the_best_checkpoint_stays_though_newer_ones_pass_by(training, settings):
    """With a ruinous learning rate the first validation is the best one."""
    training("fit", *settings("optim.lr=30", "optim.gradient_clip_norm=0", "trainer.val_every_steps=1", "checkpoints.every_steps=1",
                              "checkpoints.keep_last=1", "optim.schedule=cosine", "optim.warmup_fraction=1"))  # fmt: skip

    history = {
        int(row["step"]): float(row["val/loss_total"])
        for row in csv.DictReader(Path("run/eval_history.csv").read_text().splitlines())
    }
    best_step = min(history, key=lambda step: (history[step], step))
    kept = [checkpoint.step for checkpoint in complete_checkpoints(Path("run/checkpoints"))]
    assert best_step < 8, "the run should get worse for this test to say anything"
    assert kept == [best_step, 8]
    assert load_model(Path("run/model.pt")).step == best_step
    assert load_model(Path("run/model.pt")).val_loss_total == history[best_step]


def test_no_validation_if_the_run_says_so(training, settings):
    words = [word for word in settings("data.validation=none") if not word.startswith("trainer.val_every")]
    done = training("fit", *words)

    assert done.code == 0, done.err
    assert not Path("run/eval_history.csv").exists()
    assert load_model(Path("run/model.pt")).step == 8


def test_a_loss_that_is_not_finite_ends_the_run_and_says_so(training, settings):
    done = training("fit", *settings("optim.lr=1e30", "optim.gradient_clip_norm=0", "trainer.max_steps=50"))

    assert done.code == 1
    assert "is nan" in done.err or "is inf" in done.err
    assert "optim.lr" in done.err
    assert "RunError" in Path("run/training.log").read_text()


def test_settings_of_training_are_refused_for_a_trained_model(training, settings):
    training("fit", *settings())

    for word in ("optim.lr=5", "objective.loss=mse", "model.num_layers=9", "trainer.max_steps=3"):
        done = training("evaluate", "run", word)
        assert done.code == 2
        assert f"{word.split('=')[0]}: " in done.err
        assert "would have no effect: the model is trained" in done.err


def test_an_evaluation_says_which_conditions_the_model_was_trained_on(training, settings):
    training("fit", *settings())
    split = Path("cells_split.toml").read_text()
    held_out = split[split.index("test = [") :].split("]")[0].removeprefix("test = [")
    val = split[split.index("val = [") :].split("]")[0].removeprefix("val = [")
    trained = next(
        name for name in anndata.read_h5ad("cells.h5ad").obs["perturbation"].unique() if name not in f"control{held_out}{val}"
    )
    Path("other.toml").write_text(split.replace(held_out, f'"{trained}"'))

    done = training("evaluate", "run", "data.split=other.toml")

    assert done.code == 0, done.err
    judged = json.loads(Path("run/metrics.json").read_text())
    assert judged["n_conditions"] == judged["n_conditions_trained_on"] == 2
    assert "held-out" not in judged["verdict"]
    assert (judged["split_file"], judged["step"]) == ("other.toml", load_model(Path("run/model.pt")).step)


@pytest.mark.slow
def test_an_interrupted_run_says_how_to_go_on(settings):
    words = settings("trainer.max_steps=100000", "trainer.val_every_steps=100000")
    command = [sys.executable, "-m", "training", "fit", *words]
    # A shell that runs the tests in the background lets its children ignore Ctrl-C.
    hears_it = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hears_it) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step 8/"):
                break
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()

    assert process.returncode == 1
    assert re.search(r"interrupted at step \d+, checkpoint saved; resume=true goes on", err), err
    assert "Traceback" not in err


def test_a_full_disk_says_so_and_leaves_the_checkpoint_before_intact(training, settings, small_disk):
    changes = ("output_dir=small", "model.hidden_dim=48", "model.intermediate_dim=96", "checkpoints.keep_last=50")
    done = training("fit", *settings(*changes, "trainer.max_steps=100"))

    assert done.code == 1
    assert "could not be written" in done.err
    assert "No space left" in done.err or "MiB free" in done.err
    assert "is intact" in done.err
    assert done.err.count("\n") == 1
    kept = complete_checkpoints(Path("small/run/checkpoints"))
    assert kept
    assert not list(Path("small/run/checkpoints").glob(".*"))
    assert torch.load(kept[-1].folder / "trainer.ckpt", weights_only=True)["global_step"] == kept[-1].step


@pytest.mark.slow
def test_a_kill_between_two_steps_loses_only_the_steps_since_the_checkpoint(settings, training):
    """SIGKILL in a real process, then resume=true."""
    words = settings("trainer.max_steps=100000", "checkpoints.every_steps=4", "trainer.val_every_steps=4")
    process = subprocess.Popen([sys.executable, "-m", "training", "fit", *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 8/"):
            break
    process.kill()
    process.wait()
    process.stdout.close()

    # However far it got before the signal: four steps beyond its newest checkpoint.
    steps = f"trainer.max_steps={complete_checkpoints(Path('run/checkpoints'))[-1].step + 4}"
    done = training("fit", *settings(steps, "checkpoints.every_steps=4", "resume=true"))
    training("fit", *settings(steps, "checkpoints.every_steps=4", "name=whole"))

    assert done.code == 0, done.err
    assert equal(last_weights("run"), last_weights("whole"))
