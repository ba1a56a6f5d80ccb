"""Takes the races out of MKL's vector functions, before two threads call one at once."""

import torch

FUNCTIONS = (
    "acos", "asin", "atan", "cos", "erf", "erfc", "erfinv", "exp", "log", "log10", "log2", "logit", "sin", "sqrt", "tan", "tanh",
    "trunc",
)  # fmt: skip
"""What torch 2.15 hands to MKL, in float32 and float64; found with a breakpoint on every vector function of MKL in its library."""


def settle_vector_functions() -> None:
    """Call each of MKL's vector functions once, on one value, in one thread. Takes 2 ms; to be called before any other.

    MKL chooses a function's kernel at its first call. Where threads share that call, one of them may take the kernel of lowest
    accuracy for its share of the values (relative error 3e-4, seen in `sqrt`), once: the first step of a run, or of a resume,
    then differs from that of another run. Seen with oneMKL 2024.2, which torch 2.15 brings; mended in oneMKL 2025.0.

    Source: pytorch/pytorch#188792.
    """
    for name in FUNCTIONS:
        for dtype in (torch.float32, torch.float64):
            getattr(torch, name)(torch.full((1,), 0.5, dtype=dtype))
