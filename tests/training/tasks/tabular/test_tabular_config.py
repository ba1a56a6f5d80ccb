"""The settings of a tabular run, and the spec that rebuilds its model."""

import pytest
import torch
from omegaconf import OmegaConf
from pydantic import ValidationError

from tests.training.tasks.tabular.conftest import ROOT, config_of
from training.errors import UserError
from training.tasks.tabular.arrays import read_arrays
from training.tasks.tabular.config import MlpConfig, TabularConfig
from training.tasks.tabular.model import TabularSpec


def test_the_run_file_of_the_repository_is_one(monkeypatch):
    monkeypatch.chdir(ROOT)
    values = OmegaConf.to_container(OmegaConf.load(ROOT / "configs/runs/titanic.yaml"))
    assert isinstance(values, dict)
    assert values.pop("extends") == "base.yaml"

    config = TabularConfig.model_validate(values)

    assert read_arrays(config.data).val.probability is not None


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("early_stopping", {"patience": 0}), ("early_stopping", {"min_delta": -0.1}), ("trainer", {"max_epochs": 0}),
        ("trainer", {"max_steps": 10}), ("optim", {"lr": 0.0}), ("model", {"hidden_dims": [0]}),
        ("data", {"train": "s3://x", "val": "x"}),
        ("data", {"train": "", "val": "x"}), ("objective", {}),
    ],
)  # fmt: skip
def test_what_no_run_can_have_is_refused(tmp_path, section, value):
    with pytest.raises(ValidationError):
        config_of((tmp_path, tmp_path), tmp_path, **{section: value})


@pytest.mark.parametrize(("hidden", "n_weights"), [((), 8), ((5,), 46), ((64, 32), 2625)])
def test_a_spec_builds_its_model_again(hidden, n_weights):
    spec = TabularSpec(MlpConfig(hidden_dims=hidden), 7, ("a", "b", "c", "d", "e", "f", "g"))
    model = spec.build()

    again = TabularSpec.from_plain(spec.to_plain())

    assert again == spec
    assert sum(weight.numel() for weight in model.parameters()) == n_weights
    rebuilt = again.build()
    rebuilt.load_state_dict(model.state_dict())
    x = torch.randn(3, 7)
    assert torch.equal(rebuilt(x), model(x))
    assert model(x).shape == (3, 1)


def test_a_spec_is_plain_enough_for_a_file_of_weights(tmp_path):
    spec = TabularSpec(MlpConfig(), 7, None)
    torch.save(spec.to_plain(), tmp_path / "spec.pt")

    assert TabularSpec.from_plain(torch.load(tmp_path / "spec.pt", weights_only=True)) == spec


@pytest.mark.parametrize("change", [{"task": "perturbation"}, {"format": 2}])
def test_a_spec_of_something_else_is_refused(change):
    plain = TabularSpec(MlpConfig(), 7).to_plain()

    with pytest.raises(UserError, match=r"accepted: task tabular, format 1"):
        TabularSpec.from_plain(plain | change)


@pytest.mark.parametrize(
    ("sections", "idle", "contradictory"),
    [
        ({}, {"optim.min_lr_fraction"}, set()),
        ({"optim": {"schedule": "cosine"}}, set(), set()),
        ({"trainer": {"max_epochs": 10}}, {"optim.min_lr_fraction", "early_stopping.patience"}, set()),
        ({"resume": True, "overwrite": True}, {"optim.min_lr_fraction"}, {"resume"}),
        ({"output_dir": "gs://bucket"}, {"optim.min_lr_fraction"}, {"output_dir"}),
    ],
)
def test_which_settings_have_no_effect_and_which_contradict(tmp_path, sections, idle, contradictory):
    config = config_of((tmp_path, tmp_path), tmp_path, **sections)

    assert {key for key, is_idle, _ in TabularConfig.NO_EFFECT if is_idle(config)} == idle
    assert {key for key, contradicts, _ in TabularConfig.CONTRADICTIONS if contradicts(config)} == contradictory
