"""The run file of this task."""

from training.config import RunConfig

RUN = RunConfig
