"""Fine-tuning pairs: a random control cell as input, a real cell of a training condition as output."""

from __future__ import annotations

from collections.abc import Sequence

import anndata
import numpy as np
import torch
from torch import Tensor

from scgpt_bench.data.conditions import codes_of, context_of
from scgpt_bench.data.names import CONTROL
from scgpt_bench.errors import InputError
from scgpt_bench.scgpt.encoding import flags_of
from scgpt_bench.scgpt.recipe import Recipe
from scgpt_bench.scgpt.training import share_of
from scgpt_bench.scgpt.training_set import TrainingSet
from scgpt_bench.seeding import random_generator


class Pairs:
    """Training pairs as batches of tensors, each a function of (seed, epoch, index).

    Parameters
    ----------
    training_set
        The cells and their encoding; pairs are of its training conditions, each within its context.

    Attributes
    ----------
    paired_within
        Number of pairs by what their cells share: ``batch, cell_type``, where no control cell does ``cell_type``, else
        ``any``; other names for another ``pair_within``. Control pairs are ``itself``.

    Raises
    ------
    InputError
        If there is no control cell, or there are fewer training cells than pairs in a batch. Control pairs do not make
        up for them: so every epoch has flags.
    """

    def __init__(self, training_set: TrainingSet, options: Recipe, seed: int):
        self.encoding, self.options, self.seed = training_set.encoding, options, seed
        cells = training_set.cells
        self.values, self.names = cells.X, cells.obs_names
        self.perturbation = cells.obs["perturbation"].astype(str).to_numpy()
        self.flags = flags_of(cells.obs, options.flag_direction)
        self.rows = np.flatnonzero(codes_of(cells.obs, training_set.training) >= 0)
        if len(self.rows) < options.batch_size:
            raise InputError(
                "configuration", "batch_size", str(options.batch_size), f"at most {len(self.rows)}, the training cells"
            )
        self.pools, self.paired_within = _control_pools(cells, self.rows, options.pair_within)
        if options.control_pairs:
            controls = np.flatnonzero(self.perturbation == CONTROL)
            self.rows = np.sort(np.concatenate([self.rows, controls]))
            self.pools |= {row: np.array([row]) for row in controls}
            self.paired_within["itself"] = len(controls)
        self._last_order: tuple[int, np.ndarray] | None = None

    @property
    def batches(self) -> int:
        """Count the batches of an epoch."""
        return len(self.rows) // self.options.batch_size

    def batch(self, epoch: int, index: int, rank: int = 0, world_size: int = 1) -> dict[str, Tensor]:
        """Make one rank's share of a batch of pairs.

        Returns
        -------
        What :meth:`encoding.Encoding.inputs` makes, and ``truth`` (pairs, n_sampled); ``weight`` makes the sum of
        squared errors a mean over the whole batch.
        """
        rows = self._rows(epoch, index)
        columns = self._columns(epoch, index, rows)
        size = len(rows) * len(columns)
        rows = rows[share_of(rank, world_size, len(rows))]
        controls = [self._control(epoch, row) for row in rows]
        inputs = self.encoding.inputs(
            self.values[controls].toarray(), self.perturbation[rows], columns, self.flags[rows]
        )
        truth = torch.from_numpy(self.values[rows].toarray()[:, columns])
        return inputs | {"truth": truth, "weight": torch.tensor(world_size / size)}

    def flag_share(self, epoch: int) -> float:
        """Measure the share of an epoch's pairs with flags (no control pairs) in which every flag reaches the model."""
        reached = flagged = 0
        for index in range(self.batches):
            rows = self._rows(epoch, index)
            sampled = set(self._columns(epoch, index, rows).tolist())
            targets = [self.encoding.targets[name] for name in self.perturbation[rows] if name != CONTROL]
            reached += sum(sampled.issuperset(own.columns) for own in targets)
            flagged += len(targets)
        return reached / flagged

    def _rows(self, epoch: int, index: int) -> np.ndarray:
        if self._last_order is None or self._last_order[0] != epoch:  # kept for the epoch: it orders all pairs
            generator = random_generator(self.seed, "fine-tuning", "order", epoch)
            self._last_order = epoch, generator.permutation(self.rows)
        return self._last_order[1][index * self.options.batch_size : (index + 1) * self.options.batch_size]

    def _columns(self, epoch: int, index: int, rows: np.ndarray) -> np.ndarray:
        """Choose the columns of the sampled genes, ascending: all, or a random subset for the batch ``rows``."""
        n_genes, most = len(self.encoding.token_ids), self.options.max_seq_len
        if n_genes <= most:
            return np.arange(n_genes)
        order = random_generator(self.seed, "fine-tuning", "genes", epoch, index).permutation(n_genes)
        if self.options.keep_targets:
            flagged = {column for row in rows for column in self.encoding.targets[self.perturbation[row]].columns}
            order = np.concatenate([sorted(flagged), order[~np.isin(order, list(flagged))]]).astype(int)
        return np.sort(order[:most])

    def _control(self, epoch: int, row: int) -> int:
        draw = epoch if self.options.redraw_controls else "once"
        pool = self.pools[row]
        return int(
            pool[random_generator(self.seed, "fine-tuning", "control", draw, self.names[row]).integers(len(pool))]
        )


def _control_pools(
    cells: anndata.AnnData, rows: np.ndarray, within: Sequence[str]
) -> tuple[dict[int, np.ndarray], dict[str, int]]:
    """Find the control cells that each of ``rows`` may be paired with, and count rows by what they share with these.

    That is ``within``; where no control cell shares it, the cell type, if ``within`` asks for it; or else ``any``.
    Always within a context.
    """
    obs = cells.obs.assign(context=context_of(cells.obs))
    controls = np.flatnonzero((obs["perturbation"] == CONTROL).to_numpy())
    if not len(controls):
        raise InputError("cells.h5ad", "obs['perturbation']", "no control cell", f"cells named {CONTROL!r}")
    pools: dict[int, np.ndarray] = {}
    n_rows: dict[str, int] = {}
    for columns in dict.fromkeys([tuple(within), tuple(column for column in within if column == "cell_type"), ()]):
        group = obs.groupby(["context", *columns], observed=True).ngroup().to_numpy()
        pool_of_group = {key: controls[group[controls] == key] for key in np.unique(group[controls])}
        paired = np.isin(group[rows], list(pool_of_group))
        pools |= {row: pool_of_group[group[row]] for row in rows[paired]}
        n_rows[", ".join(columns) or "any"] = int(paired.sum())
        rows = rows[~paired]
    return pools, n_rows
