"""Random draws that depend on names, never on order, batch size, shard or device.

The stream of a draw is chosen by hashing the seed with the names of what it is drawn for (data set, split,
perturbation, cell), so adding a perturbation or splitting the work changes no other draw.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np


def stream_seed(seed: int, *names: str | int) -> int:
    """Hash ``seed`` and the ``names`` of a stream to a 63-bit seed."""
    key = json.dumps([int(seed), *[str(name) for name in names]], ensure_ascii=True)
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def random_generator(seed: int, *names: str | int) -> np.random.Generator:
    """Make the NumPy generator for the stream of ``names`` under ``seed``."""
    return np.random.Generator(np.random.PCG64(stream_seed(seed, *names)))
