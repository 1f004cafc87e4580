"""Predictions that know the answer: the floor and the ceiling between which methods are read.

- ``shuffled`` (floor): every condition gets the measured change of another test condition of its context. The file
  holds one way to deal them out; metrics are means over several (:mod:`scgpt_bench.evaluation.floor`).
- ``technical-duplicate`` (ceiling): half of a condition's own cells predict the other half.
- ``oracle``: the planted mean, where the data are simulated.

A technical duplicate is scored against the other half of the cells (``truth.h5ad``, ``layers["half_b"]``): its record
says ``halved``, and ``metrics.score`` corrects for the halved depth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import anndata
import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import Condition, codes_of, conditions_of, listed, rows_of
from scgpt_bench.data.means import first_half, group_means
from scgpt_bench.data.names import CONTROL
from scgpt_bench.data.on_disk import batches
from scgpt_bench.data.on_disk import rows as rows_of_cells
from scgpt_bench.errors import InputError
from scgpt_bench.predictions import Write, anchored_cells, shifted_controls
from scgpt_bench.seeding import random_generator, stream_seed

SHUFFLES = 20  # over which the floor is a mean: every pair of up to 41 test conditions


@dataclass(frozen=True)
class Known:
    """What benchmark controls are made from.

    Attributes
    ----------
    cells, controls, truth
        ``cells.h5ad``, ``controls.h5ad``, ``truth.h5ad``; X of cells and controls may stay on disk.
    planted
        True means [conditions x genes], log1p scale, of generated data.
    """

    cells: anndata.AnnData
    controls: anndata.AnnData
    truth: anndata.AnnData
    planted: anndata.AnnData | None = None

    @property
    def conditions(self) -> list[Condition]:
        """List the tested conditions, sorted."""
        return conditions_of(self.controls.obs)

    def of_truth(self, values: np.ndarray, conditions: Sequence[Condition]) -> np.ndarray:
        """Take the rows of these conditions out of a matrix of ``truth``."""
        row_of = {condition: row for row, condition in enumerate(listed(self.truth.obs))}
        return np.asarray(values)[[row_of[condition] for condition in conditions]]

    def shifted(self, shifts: np.ndarray, write: Write) -> None:
        """Move the drawn control cells by one shift per tested condition [conditions x genes]."""
        control_means = self.of_truth(self.truth.layers["reference_input"], self.conditions)
        shifted_controls(self.controls, self.conditions, control_means, shifts, write=write)


def shuffled(known: Known, seed: int, *, write: Write) -> dict[str, Any]:
    """Predict the measured change of another test condition of the same context; no change where there is no other.

    Measured from the control cells that methods see: from those of the truth, it would share their noise with the
    changes that it is compared with.

    It writes the predicted cells of one condition after the other and returns entries of the method record. So do
    :func:`technical_duplicate` and :func:`oracle`.
    """
    dealings = [*shuffles(known.conditions, seed)]
    if not dealings:
        found = f"the test condition {known.conditions[0].label!r} alone in its context"
        raise InputError("split.tsv", "role", found, "two or more to shuffle")
    source = dealings[0]
    changes = np.asarray(known.truth.X) - np.asarray(known.truth.layers["reference_input"])
    shifts = np.zeros((len(known.conditions), known.truth.n_vars))
    shifts[[condition in source for condition in known.conditions]] = known.of_truth(changes, [*source.values()])
    alone = [condition for condition in known.conditions if condition not in source]
    fallbacks = {"fallbacks": dict.fromkeys(alone, ("the only test condition of its context", "no change"))}
    known.shifted(shifts, write)
    return {"shuffles": len(dealings), **(fallbacks if alone else {})}


def technical_duplicate(known: Known, seed: int, *, write: Write) -> dict[str, Any]:
    """Predict half of a condition's own cells, to be scored against the other half."""
    duplicated_cells(known.cells, known.controls, seed, write)
    return {"halved": True}


def oracle(known: Known, seed: int, *, write: Write) -> dict[str, Any]:
    """Predict the planted change, free of the noise of any control cell; it draws nothing by ``seed``."""
    assert known.planted is not None  # the configuration has no oracle for measured data
    controls = [Condition(CONTROL, condition.context) for condition in known.conditions]
    of_conditions, of_controls = (
        planted_means(known.planted, chosen, known.truth.var_names) for chosen in (known.conditions, controls)
    )
    known.shifted(of_conditions - of_controls, write)
    return {}


def shuffles(conditions: Sequence[Condition], seed: int) -> Iterator[dict[Condition, Condition]]:
    """Give each condition another one of its context, in several ways.

    First its successor in a circle ordered by seeded hashes of the names, then the one after that, and so on: up to
    half of the circle, beyond which the same pairs come again, and ``SHUFFLES`` at most; smaller contexts begin again.
    No condition gets itself, each is used once, and one more condition changes the successor of one other only. A
    condition alone in its context gets none; where all are, there is no way.
    """
    circles: dict[str, list[Condition]] = {}
    for condition in sorted(conditions, key=lambda condition: stream_seed(seed, "shuffled", *condition.drawn_for)):
        circles.setdefault(condition.context, []).append(condition)
    circles = {context: circle for context, circle in circles.items() if len(circle) > 1}
    for step in range(min(max((len(circle) // 2 for circle in circles.values()), default=0), SHUFFLES)):
        partner: dict[Condition, Condition] = {}
        for circle in circles.values():
            shift = 1 + step % (len(circle) // 2)
            partner |= dict(zip(circle, [*circle[shift:], *circle[:shift]], strict=True))
        yield {condition: partner[condition] for condition in conditions if condition in partner}


def duplicated_cells(cells: anndata.AnnData, controls: anndata.AnnData, seed: int, write: Write) -> None:
    """Write the first half of each condition's own cells, as many as control cells were drawn.

    Cells are drawn from that half in turn, each once before any twice, and moved so that their mean is the mean of the
    whole half. The second half is the truth that they are scored against. A duplicate has the ``weight`` of its row of
    ``controls``, which is independent of the cell that was drawn for it.
    """
    drawn_rows = rows_of(controls.obs)
    conditions, own_rows = [*drawn_rows], rows_of(cells.obs)
    for condition in conditions:
        if len(own_rows[condition]) < 2:
            raise InputError("cells.h5ad", condition.label, "a single cell", "two or more, to be halved")
    in_half = first_half(cells.obs, conditions)
    codes = np.where(in_half, codes_of(cells.obs, conditions), -1)
    means, _ = group_means(cells.X, codes, range(len(conditions)))
    drawn, weights = np.zeros(controls.n_obs, dtype=np.int64), controls.obs["weight"].to_numpy()
    for condition, rows in drawn_rows.items():
        own = own_rows[condition][in_half[own_rows[condition]]]
        generator = random_generator(seed, "technical-duplicate", *condition.drawn_for)
        drawn[rows] = np.resize(generator.permutation(own), len(rows))
    own = [*zip(drawn_rows.values(), means, strict=True)]
    for batch in batches([len(rows) for rows, _ in own], cells.n_vars):
        duplicates = rows_of_cells(cells.X, np.concatenate([drawn[rows] for rows, _ in own[batch]]))
        start = 0
        for rows, mean in own[batch]:
            chosen = duplicates[start : start + len(rows)]
            write(anchored_cells(chosen, weights[rows], mean, np.zeros_like(mean)), controls.obs.iloc[rows])
            start += len(rows)


def planted_means(planted: anndata.AnnData, conditions: Sequence[Condition], genes: pd.Index) -> np.ndarray:
    """Give the planted mean of each condition [conditions x genes]."""
    row_of = {condition: row for row, condition in enumerate(listed(planted.obs.reset_index()))}
    missing = [condition.label for condition in conditions if condition not in row_of]
    missing += [*genes.difference(planted.var_names)]
    if missing:
        raise InputError("planted truth", str(missing[0]), "no planted mean", "every test condition and gene")
    rows = [row_of[condition] for condition in conditions]
    return np.asarray(planted.X)[np.ix_(rows, planted.var_names.get_indexer(genes))]
