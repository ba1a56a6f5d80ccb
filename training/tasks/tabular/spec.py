"""What a tabular model is, without its weights: `TabularSpec` of model.py, under the name that model files look for."""

from training.tasks.tabular.model import TabularSpec

SPEC = TabularSpec
