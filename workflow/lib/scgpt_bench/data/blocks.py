"""Random blocks of cells: for the halves of the data card, and to be left out by a jackknife."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scgpt_bench.seeding import random_generator

BLOCKS = 10


def blocks_of_cells(names: Sequence[str], *draw: str) -> np.ndarray:
    """Give the block of each cell, dealt at random by the names of the cells: neither order nor other cells matter.

    Returns
    -------
    int64 [cells], 0 to ``BLOCKS - 1``.
    """
    order = np.argsort(np.asarray(names, dtype=str))
    block = np.empty(len(order), dtype=np.int64)
    block[order[random_generator(0, "blocks", *draw).permutation(len(order))]] = np.arange(len(order)) % BLOCKS
    return block
