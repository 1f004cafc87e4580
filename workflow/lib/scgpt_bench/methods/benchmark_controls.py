"""Predictions that know the answer: the floor and the ceiling between which methods are read.

- ``shuffled`` (floor): every perturbation gets the measured change of another test perturbation. The file holds one way
  to deal them out; metrics are means over several (:mod:`scgpt_bench.evaluation.floor`).
- ``technical-duplicate`` (ceiling): half of a perturbation's own cells predict the other half.
- ``oracle``: the planted mean, where the data are simulated.

A technical duplicate is scored against the other half of the cells (``truth.h5ad``, ``layers["half_b"]``) and says so
in ``uns["method"]["scored_against"]``; ``metrics.score`` obeys and corrects for the halved depth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anndata
import numpy as np
import pandas as pd

from scgpt_bench.data.means import first_half, group_means
from scgpt_bench.data.on_disk import rows as rows_of_cells
from scgpt_bench.errors import InputError
from scgpt_bench.predictions import anchored_cells, shifted_controls
from scgpt_bench.seeding import random_generator, stream_seed

SHUFFLES = 20  # over which the floor is a mean: every pair of up to 41 test perturbations


@dataclass(frozen=True)
class Known:
    """What benchmark controls are made from.

    Attributes
    ----------
    cells, controls, truth
        ``cells.h5ad``, whose X may stay on disk; ``controls.h5ad``, ``truth.h5ad``.
    planted
        True means [perturbations x genes], log1p scale, of generated data.
    """

    cells: anndata.AnnData
    controls: anndata.AnnData
    truth: anndata.AnnData
    planted: anndata.AnnData | None = None

    def shifted(self, shifts: np.ndarray) -> np.ndarray:
        """Move the drawn control cells by one shift per perturbation [perturbations x genes]."""
        control_means = np.asarray(self.truth.layers["control"])
        return shifted_controls(self.controls, list(self.truth.obs_names), control_means, shifts)


def shuffled(known: Known, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Predict the measured change of another test perturbation.

    Returns
    -------
    Predicted cells, float32 [rows of ``controls`` x genes], and what the method record says of them. So do
    :func:`technical_duplicate` and :func:`oracle`.
    """
    source, *others = shuffles(list(known.truth.obs_names), seed)
    changes = np.asarray(known.truth.X) - np.asarray(known.truth.layers["control"])
    shifts = changes[known.truth.obs_names.get_indexer(list(source.values()))]
    return known.shifted(shifts), {"notes": source, "shuffles": 1 + len(others)}


def technical_duplicate(known: Known, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Predict half of a perturbation's own cells, to be scored against the other half."""
    return duplicated_cells(known.cells, known.controls, known.truth, seed), {"scored_against": "half_b"}


def oracle(known: Known, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Predict the planted mean, which draws nothing by ``seed``."""
    assert known.planted is not None  # the configuration has no oracle for measured data
    shifts = planted_means(known.planted, known.truth) - np.asarray(known.truth.layers["control"])
    return known.shifted(shifts), {}


def shuffles(perturbations: list[str], seed: int) -> Iterator[dict[str, str]]:
    """Give each perturbation another one, in several ways.

    First its successor in a circle ordered by seeded hashes of the names, then the one after that, and so on: up to
    half of the circle, beyond which the same pairs come again, and ``SHUFFLES`` at most. No perturbation gets itself,
    each is used once, and one more perturbation changes the successor of one other only.
    """
    if len(perturbations) < 2:
        raise InputError("split.tsv", "role", f"{len(perturbations)} test perturbation", "two or more to shuffle")
    circle = sorted(perturbations, key=lambda name: stream_seed(seed, "shuffled", name))
    for step in range(1, min(len(circle) // 2, SHUFFLES) + 1):
        partner = dict(zip(circle, [*circle[step:], *circle[:step]], strict=True))
        yield {name: partner[name] for name in perturbations}


def duplicated_cells(
    cells: anndata.AnnData, controls: anndata.AnnData, truth: anndata.AnnData, seed: int
) -> np.ndarray:
    """The first half of each perturbation's own cells, as many as control cells were drawn.

    Cells are drawn from that half in turn, each once before any twice, and moved so that their mean is the mean of the
    whole half. The second half is the truth that they are scored against. A duplicate has the ``weight`` of its row of
    ``controls``, which is independent of the cell that was drawn for it.
    """
    if (truth.obs["n_cells"] < 2).any():
        raise InputError("truth.h5ad", truth.obs["n_cells"].idxmin(), "a single cell", "two or more, to be halved")
    labels = cells.obs["perturbation"].astype(str)
    labels = labels.where(first_half(cells.obs, truth.obs_names))
    means, _ = group_means(cells.X, labels, list(truth.obs_names))
    rows_of, own_rows_of = (
        obs.groupby(obs.astype(str)).indices for obs in (controls.obs["perturbation"], labels.fillna(""))
    )
    drawn, weights = np.zeros(controls.n_obs, dtype=np.int64), controls.obs["weight"].to_numpy()
    for perturbation in truth.obs_names:
        rows, own = rows_of[perturbation], own_rows_of[perturbation]
        generator = random_generator(seed, "technical-duplicate", perturbation)
        drawn[rows] = np.resize(generator.permutation(own), len(rows))
    duplicates = rows_of_cells(cells.X, drawn)  # of all perturbations in one pass over the file
    predicted = np.empty(controls.shape, dtype=np.float32)
    for perturbation, mean in zip(truth.obs_names, means, strict=True):
        rows = rows_of[perturbation]
        predicted[rows] = anchored_cells(duplicates[rows], weights[rows], mean, np.zeros_like(mean))
    return predicted


def planted_means(planted: anndata.AnnData, truth: anndata.AnnData) -> np.ndarray:
    """The planted mean of each test perturbation [perturbations x genes], in the order of ``truth``."""
    table = pd.DataFrame(planted.X, index=planted.obs_names, columns=planted.var_names)
    for axis, wanted in ((table.index, truth.obs_names), (table.columns, truth.var_names)):
        missing = wanted.difference(axis)
        if len(missing):
            raise InputError("planted truth", str(missing[0]), "no planted mean", "every test perturbation and gene")
    return table.loc[truth.obs_names, truth.var_names].to_numpy()
