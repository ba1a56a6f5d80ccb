"""The learning rate as a function of the step alone, so that a resumed run has the one it would have had."""

import math

from training.config import OptimConfig


def lr_multiplier(step: int, total_steps: int, config: OptimConfig) -> float:
    """Share of the peak learning rate at optimizer step `step` (0 is the first).

    Linear warm-up over `warmup_fraction` of the steps, rounded up: step 0 has 1/n of the peak, step n - 1 all of it. Then constant,
    or half a cosine that is `min_lr_fraction` at the last step, `total_steps - 1`, and stays there. A warm-up over the whole run
    leaves no room for the cosine.
    """
    # Less a hair: 0.07 x 100 is 7.000000000000001.
    warmup_steps = math.ceil(config.warmup_fraction * total_steps - 1e-9)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if config.schedule == "constant":
        return 1.0
    peak, last = max(warmup_steps - 1, 0), total_steps - 1
    progress = 1.0 if step >= last else (step - peak) / (last - peak)
    return config.min_lr_fraction + (1 - config.min_lr_fraction) * (1 + math.cos(math.pi * progress)) / 2
