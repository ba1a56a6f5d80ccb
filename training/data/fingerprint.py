"""A hash of arrays on disk: of small ones whole, of large ones a sample."""

from typing import Any

import h5py
import numpy as np

_SAMPLED_BLOCKS = 64
_BLOCK_BYTES = 2**20
"""What a fingerprint reads of an array."""


def hash_arrays(digest: Any, name: str, stored: h5py.Group | h5py.Dataset) -> None:
    """Adds names, shapes and values of an array, or of all in a group: up to 64 MiB whole, of more 64 blocks spread evenly."""
    if isinstance(stored, h5py.Group):
        for key in sorted(stored):
            hash_arrays(digest, f"{name}/{key}", stored[key])
        return
    digest.update(repr((name, stored.shape, stored.dtype.str)).encode())
    if not stored.shape or not stored.size or stored.dtype.kind not in "fiub":
        return
    block = max(1, _BLOCK_BYTES * len(stored) // stored.nbytes)
    firsts = np.arange(0, len(stored), block)
    if len(firsts) > _SAMPLED_BLOCKS:
        firsts = np.linspace(0, len(stored) - block, _SAMPLED_BLOCKS).astype(np.int64)
    for first in firsts:
        digest.update(stored[first : first + block].tobytes())
