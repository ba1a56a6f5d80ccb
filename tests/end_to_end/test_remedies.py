"""Every way out that a message offers is taken, word by word: the command then passes, or is refused for something else."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import anndata
import pytest

from tests.end_to_end.conftest import offered
from training.checkpoints.manifest import complete_checkpoints
from training.config import RunConfig
from training.config_schema import schema_of

FIELDS = schema_of(RunConfig).fields
# --- the command line ---


@pytest.mark.slow
def test_a_label_that_looks_like_yaml_is_pasted_into_a_shell_as_it_is_offered(screen, settings, training):
    control = "[('DMSO_TF', 0.0, 'uM')]"
    cells = anndata.read_h5ad("cells.h5ad")
    cells.obs["perturbation"] = cells.obs["perturbation"].cat.rename_categories({"control": control})
    cells.write_h5ad("cells.h5ad")
    words = settings("data.perturbation_features_file=null", "data.control=[('DMSO_TF', 0.0)]")

    (label,) = offered(r"did you mean (\[.*?\)\])", training("check", *words).err)
    assert label == control
    words.remove("data.control=[('DMSO_TF', 0.0)]")
    line = f'{shlex.quote(sys.executable)} -m training check {shlex.join(words)} "data.control={label}"'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# What is typed, what the message offers, and what is typed then.
NEAREST = {
    "trainer.max_stps=9": (r"did you mean (trainer.max_steps)\?", "trainer.max_steps=9"),
    "training.train_sed=9": (r"did you mean (training.train_seed) \(here seed\)\?", "training.train_seed=9"),
    "optim.schedule=cosin": (r"did you mean (cosine)\?", "optim.schedule=cosine"),
    "model=identity_sn": (r"did you mean (identity_sm)\?", "model=identity_sm"),
    "data.split=cells_splt.toml": (r"did you mean (cells_split.toml)\?", "data.split=cells_split.toml"),
    "data.cell_type_column=celltype": (r"did you mean (cell_type)", "data.cell_type_column=cell_type"),
    "data.control=contrl": (r"did you mean (control)", "data.control=control"),
    "training.loss_fn=mse": (r"set (objective.loss) ", "objective.loss=mse"),
    "training.strategy=ddp": (r"\(accepted: (auto)\)", "training.strategy=auto"),
    "model=pertsets training.train_seed=9": (
        r"(model=state) (model.attention=causal) comes nearest",
        "model=state model.attention=causal",
    ),
}


@pytest.mark.parametrize("typed", NEAREST)
def test_the_nearest_word_is_taken(typed, settings, training):
    message, instead = NEAREST[typed]

    done = training("check", *settings(*typed.split()))
    assert done.code == 2
    assert all(word in instead for word in offered(message, done.err))
    done = training("check", *settings(*instead.split()))
    assert done.code == 0, done.err


def test_words_that_name_a_variable_are_escaped_as_the_message_says(settings, training):
    done = training("check", *settings("data.split=${sed}"))

    (words,) = offered(r"the very words are (.*)\)\n", done.err)
    (word,) = shlex.split(words)
    assert training("check", *settings(f"data.split={word}")).err.startswith("refused: ${sed}: no such split file")


def test_what_would_have_no_effect_is_left_out(settings, training):
    done = training("check", *settings("optim.min_lr_fraction=0.3", "model.dropout=0.7"))

    assert done.err.count("; leave it out\n") == 2
    assert training("check", *settings()).code == 0


def test_a_key_set_twice_is_left_out_once(settings, training):
    done = training("check", *settings(), "+training.lr=2e-3")

    (one, other) = offered(r"set twice: (\S+) and (\S+); leave one out", done.err)
    words = [*settings(), "+training.lr=2e-3"]
    for left_out in (one, other):
        key = left_out.partition("=")[0]
        assert training("check", *(word for word in words if word.partition("=")[0] != key)).code == 0


def test_two_lengths_become_one_as_the_message_says(settings, training):
    done = training("check", *settings("trainer.max_epochs=3"))

    offered(r"max_steps is 8 and max_epochs is 3; set exactly one and make the other null", done.err)
    for words in (["trainer.max_steps=null", "trainer.max_epochs=3"], ["trainer.max_steps=8", "trainer.max_epochs=null"]):
        assert training("check", *settings(*words)).code == 0


def test_the_run_file_comes_first(settings, training):
    Path("mine.yaml").write_text("{}\n")
    done = training("check", *settings(), "mine.yaml")

    offered(r"(mine.yaml): neither KEY=VALUE nor the one run file that comes first", done.err)
    assert training("check", "mine.yaml", *settings()).code == 0


def test_no_gpu_here_offers_what_is_here(settings, training, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = training("check", *settings("trainer.device=gpu"))

    for device in offered(r"\(accepted here: (cpu), (auto)\)", done.err):
        assert training("check", *settings(f"trainer.device={device}")).code == 0


# --- the run directory ---


def test_a_run_that_has_begun_offers_three_ways_on(settings, training):
    assert training("fit", *settings("trainer.max_steps=4")).code == 0

    ways = offered(
        r"\(accepted: (resume=true) to go on, (overwrite=true) to delete it, (another name)\)", training("fit", *settings()).err
    )
    assert ways[2] == "another name"
    assert training("fit", *settings("name=another")).code == 0
    for way in ways[:2]:
        assert training("fit", *settings(way)).code == 0


def test_before_the_first_checkpoint_resume_is_not_offered_and_what_is_works(settings, training):
    assert training("fit", *settings()).code == 0
    shutil.rmtree("run/checkpoints")

    (way,) = offered(
        r"without a complete checkpoint \(accepted: (overwrite=true) to delete it, another name\)", training("fit", *settings()).err
    )
    (same,) = offered(r"\(to start anew, (overwrite=true) instead\)", training("fit", *settings("resume=true")).err)
    assert way == same
    assert training("check", *settings(way)).code == 0
    assert training("fit", *settings(way)).code == 0


def test_a_resume_of_nothing_leaves_the_word_out(settings, training):
    offered(r"no run has begun there \(to start one, leave (resume=true) out\)", training("fit", *settings("resume=true")).err)

    assert training("fit", *settings()).code == 0


def test_a_folder_that_is_no_run_offers_another_place(settings, training):
    Path("run").mkdir()
    Path("run/thesis.txt").write_text("years of work")

    for word in ("seed=42", "overwrite=true", "resume=true"):
        offered(r"is no run directory \(set another (name) or (output_dir)\)", training("fit", *settings(word)).err)
    assert training("check", *settings("name=other")).code == 0
    assert training("check", *settings("output_dir=other")).code == 0


def test_a_file_in_the_way_offers_another_place(settings, training):
    Path("file").write_text("")

    (key,) = offered(r"is no writable folder \(set (output_dir)\)", training("fit", *settings("output_dir=file")).err)
    assert training("check", *settings(f"{key}=folder")).code == 0


def test_every_checkpoint_damaged_offers_a_new_start(settings, training):
    assert training("fit", *settings()).code == 0
    for checkpoint in complete_checkpoints(Path("run/checkpoints")):
        payload = checkpoint.folder / "trainer.ckpt"
        content = bytearray(payload.read_bytes())
        content[-1] ^= 1
        payload.write_bytes(bytes(content))

    (way,) = offered(
        r"every checkpoint is damaged \(to start anew, (overwrite=true) instead\)", training("fit", *settings("resume=true")).err
    )
    assert training("fit", *settings(way)).code == 0


def test_another_configuration_or_length_offers_what_was(settings, training):
    assert training("fit", *settings()).code == 0

    done = training("fit", *settings("resume=true", "optim.lr=0.5", "seed=7"))
    was = offered(r"optim.lr (\S+) -> 0.5, seed (\S+) -> 7 \(accepted: these as they were, or another name without", done.err)
    assert training("fit", *settings("resume=true", f"optim.lr={was[0]}", f"seed={was[1]}")).code == 0
    assert training("check", *settings("optim.lr=0.5", "seed=7", "name=other")).code == 0

    done = training("fit", *settings("resume=true", "trainer.max_steps=3"))
    (least,) = offered(r"asks for 3 \(accepted: (8) or more\)", done.err)
    assert training("fit", *settings("resume=true", f"trainer.max_steps={least}")).code == 0


def test_other_data_offer_the_data_as_they_were(settings, training):
    assert training("fit", *settings()).code == 0
    split = Path("cells_split.toml")
    text = split.read_text()
    held_out = json.loads(text[text.index("test = [") + 7 :].splitlines()[0])
    split.write_text(text.replace(f'"{held_out[0]}", ', ""))

    done = training("fit", *settings("resume=true", "trainer.max_steps=12"))
    offered(
        r"the content of (cells_split.toml), .* has changed \(accepted: the data as they were, or another name",
        done.err,
    )
    assert training("check", *settings("name=other", "trainer.max_steps=12")).code == 0
    split.write_text(text)
    assert training("check", *settings("resume=true", "trainer.max_steps=12")).code == 0


def test_a_run_directory_of_state_offers_a_command_that_works(settings, training, screen):
    theirs = screen / "their run"
    theirs.mkdir()
    (theirs / "config.yaml").write_text(
        "name: theirs\noutput_dir: .\n"
        "data: {kwargs: {toml_config_path: cells_split.toml, pert_col: perturbation, control_pert: control, num_workers: 0}}\n"
        "model: {kwargs: {hidden_dim: 16, cell_set_len: 16, transformer_backbone_kwargs: {hidden_size: 16}}}\n"
        "training: {max_steps: 8}\n"
    )
    for verb, words in {"evaluate": [], "report": [], "predict": ["--output", "o.h5ad"], "fit": []}.items():
        done = training(verb, theirs, *words)
        assert done.code == 2
        (line,) = offered(r"trained anew: (training fit .*) \(each key", done.err)
        assert shlex.split(line) == ["training", "fit", str(theirs / "config.yaml"), "name=ANOTHER_NAME"]

    done = training("check", *shlex.split(line)[2:])
    assert done.code == 0, done.err


def test_a_run_directory_given_as_a_run_file_offers_the_file_in_it(settings, training):
    assert training("fit", *settings()).code == 0

    (path,) = offered(r"did you mean (\S+)\?", training("fit", "run").err)
    assert training("fit", path).err.startswith(
        "refused: run: exists already, with checkpoints of steps 4, 8 (accepted: resume=true"
    )
    assert training("fit", path, "resume=true").code == 0


# --- a model in use ---


def test_which_checkpoint_offers_those_that_are_there(settings, training):
    assert training("fit", *settings()).code == 0

    which = offered(
        r"no complete checkpoint 5 \(accepted: (best), (last), (4), (8)\)", training("evaluate", "run", "--checkpoint", "5").err
    )
    for each in which:
        assert training("predict", "run", "--output", f"{each}.h5ad", "--checkpoint", each).code == 0


def test_a_checkpoint_of_another_run_is_moved_away(settings, training):
    assert training("fit", *settings("name=other", "seed=7", "trainer.max_steps=12")).code == 0
    assert training("fit", *settings()).code == 0
    shutil.copytree("other/checkpoints/step=000000012", "run/checkpoints/step=000000012")

    done = training("evaluate", "run", "--checkpoint", "last")
    (folder,) = offered(
        r"refused: (\S+step=000000012): its manifest is of another configuration .* move that folder away\)", done.err
    )
    assert training("fit", *settings("resume=true", "trainer.max_steps=12")).code == 2
    shutil.move(folder, "away")
    assert training("evaluate", "run", "--checkpoint", "last").code == 0
    assert training("fit", *settings("resume=true", "trainer.max_steps=12")).code == 0


@pytest.mark.parametrize("verb", [["evaluate"], ["predict", "--output", "out.h5ad"]], ids=lambda verb: verb[0])
def test_a_trained_model_offers_no_setting_without_effect(verb, settings, training, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert training("fit", *settings("data.gene_alignment=by_name")).code == 0
    words = [verb[0], "run", *verb[1:]]

    done = training(*words, "resume=true", "optim.lr=0.3")
    assert (done.code, done.err.count("; leave it out (accepted here: ")) == (2, 2)
    assert "resume: true would have no effect: the model is trained" in done.err
    assert training(*words).code == 0
    accepted = offered(r"\(accepted here: (.*)\)\n", done.err)[0].split(", ")
    assert set(accepted) <= FIELDS.keys()
    wrong = {"trainer.device": "gpu", "data.perturbation_features_file": "nowhere.npz", "data.split": "nowhere.toml"}
    for key in accepted:
        if key != "data.gene_alignment":  # acts only where there are several files
            done = training(*words, f"{key}={wrong.get(key, 'nowhere')}")
            assert done.code == 2, key
            assert "would have no effect" not in done.err
            assert "nowhere" in done.err or "no CUDA device" in done.err


def test_a_split_without_cells_offers_one_with_some(settings, training):
    split = Path("cells_split.toml")
    text = split.read_text()
    split.write_text(re.sub(r"test = \[.*\]", "test = []", text))
    assert training("fit", *settings()).code == 0

    done = training("evaluate", "run")
    for found in offered(r"in split test \(splits with some: (.*)\)", done.err)[0].split(", "):
        if found != "train":
            assert training("evaluate", "run", "--split", found).code == 0


def test_a_split_beside_a_table_is_left_out(settings, training):
    assert training("fit", *settings()).code == 0
    Path("t.csv").write_text("perturbation,cell_type,n_cells\ncontrol,type_0,3\n")
    words = ["predict", "run", "--output", "o.h5ad"]

    offered(
        r"--split test has no effect beside --table t.csv; (leave one out)",
        training(*words, "--table", "t.csv", "--split", "test").err,
    )
    assert training(*words, "--split", "test").code == 0
    after = training(*words, "--table", "t.csv")
    assert after.code == 0 or "t.csv" in after.err


def test_weights_that_blew_up_offer_settings_that_train(settings, training):
    ruinous = settings("optim.lr=1e30", "optim.gradient_clip_norm=0", "checkpoints.every_steps=1", "trainer.val_every_steps=8")
    done = training("fit", *ruinous)

    assert done.code == 1
    keys = offered(r"Start a new run with a lower (optim.lr) or (optim.gradient_clip_norm)", done.err)
    assert set(keys) <= FIELDS.keys()
    assert training("fit", *settings("optim.lr=1e-3", "name=new")).code == 0


def test_a_full_disk_before_the_first_checkpoint_offers_a_new_start(settings, training, small_disk):
    filler = small_disk / "filler"
    filler.write_bytes(b"0" * 2_900_000)
    words = settings("output_dir=small", "model.hidden_dim=48", "model.intermediate_dim=96")
    done = training("fit", *words)

    assert done.code == 1, done.err
    (way,) = offered(r"there is no earlier one. Free some space, then start anew with (overwrite=true)", done.err)
    filler.unlink()
    assert training("fit", *words, way).code == 0


# --- simulated cells ---


def test_a_simulation_offers_ranges_and_other_places(training, screen):
    words = ["simulate", "new.h5ad", "n_genes=100", "n_perturbations=12"]
    (least,) = offered(r"n_cells is 10; accepted: (\d+) or more", training(*words, "n_cells=10").err)
    (_, most) = offered(r"n_modules is 999; accepted: (\d+) to (\d+)", training(*words, "n_modules=999").err)
    assert training(*words, f"n_cells={least}", f"n_modules={most}").code == 0

    offered(r"(new.h5ad) exists and is not overwritten; delete it or give another name", training(*words).err)
    assert training("simulate", "other.h5ad", *words[2:]).code == 0
    for made in Path().glob("new*"):
        made.unlink()
    assert training(*words).code == 0
