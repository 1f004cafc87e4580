"""Two halves of the control cells, that measured changes and methods may not share one noise of the control mean.

The control cells of the half ``truth`` are what measured conditions are compared with. Those of the half ``input`` are
all that a method sees.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import contexts_of, controls_of, rows_of
from scgpt_bench.data.names import CONTROL
from scgpt_bench.seeding import stream_seed

INPUT, TRUTH = "input", "truth"
Vertex = tuple[int, str | None]  # its side, and the batch or the cell type
# With 25 cells, the standard error of a control mean is a fifth of the spread of cells, as of a condition of 25 cells.
FEWEST_OF_HALF = 25


def deal_halves(obs: pd.DataFrame) -> np.ndarray:
    """Deal the control cells into ``truth`` and ``input`` by their names; other cells get the empty text.

    Parameters
    ----------
    obs
        ``perturbation``, ``context``, ``batch`` and ``cell_type`` of each cell, indexed by its name.

    Returns
    -------
    str [cells]. The halves differ by at most one cell in every context, and in every batch and cell type of it. Neither
    the order of the cells nor cells of other contexts matter.
    """
    halves = np.full(len(obs), "", dtype=object)
    for control in controls_of(obs):
        rows = rows_of(obs)[control]
        halves[rows] = np.where(deal(obs.iloc[rows], "halves of controls"), TRUTH, INPUT)
    return halves


def is_control_of(obs: pd.DataFrame, half: str) -> np.ndarray:
    """Find the control cells of a half: a mask [cells]."""
    return ((obs["perturbation"] == CONTROL) & (obs["half"] == half)).to_numpy()


def few_controls(obs: pd.DataFrame) -> list[str]:
    """Name the contexts with fewer than ``FEWEST_OF_HALF`` control cells in a half, in a sentence each."""
    numbers = obs[obs["perturbation"] == CONTROL].groupby("context", observed=True).size()
    sentences = []
    for context in contexts_of(obs):
        number = int(numbers[context])
        if number < 2 * FEWEST_OF_HALF:
            where = f" in context {context!r}" if len(numbers) > 1 else ""
            sentences.append(
                f"{number} control cells{where}: measured changes and methods get half of them each, fewer than "
                f"{FEWEST_OF_HALF}: their noise may hide the responses"
            )
    return sentences


def deal(obs: pd.DataFrame, *draw: str) -> np.ndarray:
    """Deal cells of one context into two halves by hashes of their names: a mask of the first half [cells].

    Within each batch and cell type every other cell, in the order of hashes, is of the first half. The last cells of
    odd groups are dealt among one another: as edges between batches and cell types, along closed trails (Euler), so
    that each batch and each cell type gets as many of them on both sides, or one more on one of them.
    """
    keys = np.array([stream_seed(0, *draw, name) for name in obs.index.astype(str)], dtype=np.int64)
    groups = obs[["batch", "cell_type"]].astype(str).reset_index(drop=True)
    order = np.lexsort((keys, groups["cell_type"], groups["batch"]))
    ordered = groups.iloc[order]
    position = ordered.groupby(["batch", "cell_type"]).cumcount().to_numpy()
    last_of_odd = (position % 2 == 0) & ~ordered.duplicated(keep="last").to_numpy()
    first = np.zeros(len(obs), dtype=bool)
    first[order] = position % 2 == 0
    single = order[last_of_odd]
    single = single[np.argsort(keys[single])]
    edges = [*groups.iloc[single].itertuples(index=False, name=None)]
    first[single] = _dealt_along_trails(edges, keys[single] % 2 == 0)
    return first


def _dealt_along_trails(edges: Sequence[tuple[str, str]], starts: Sequence[bool]) -> np.ndarray:
    """Colour the edges of a bipartite graph in two colours that differ by at most one at every vertex, and in all.

    Vertices of odd degree get one more edge, to a vertex added on the other side. Then all degrees are even, and the
    edges are those of closed trails, all of even length, along which colours alternate; ``starts`` has the first.
    """
    added: tuple[Vertex, Vertex] = (0, None), (1, None)
    ends: list[tuple[Vertex, Vertex]] = [((0, batch), (1, cell_type)) for batch, cell_type in edges]
    degree = Counter(vertex for edge in ends for vertex in edge)
    odd = sorted(vertex for vertex, number in degree.items() if number % 2)
    ends += [(added[0], vertex) if vertex[0] else (vertex, added[1]) for vertex in odd]
    if sum(vertex[0] == 0 for vertex in odd) % 2:
        ends.append(added)
    incident: dict[Vertex, list[int]] = defaultdict(list)
    for number, edge in enumerate(ends):
        for vertex in edge:
            incident[vertex].append(number)
    colours = np.full(len(ends), -1)
    for start, colour in enumerate(starts):
        at, current, side = ends[start][0], start, int(colour)
        while colours[current] < 0:
            colours[current], side = side, 1 - side
            one, other = ends[current]
            at = other if at == one else one
            current = next((number for number in incident[at] if colours[number] < 0), current)
    return colours[: len(edges)].astype(bool)
