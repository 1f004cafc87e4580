"""What the cells and perturbations of a data set are to the model: tokens, values and flags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from scgpt_bench.data.names import CONTROL, genes_of
from scgpt_bench.scgpt.attention import TokenMask
from scgpt_bench.scgpt.binning import bin_cells
from scgpt_bench.scgpt.model import NOT_PERTURBED, PERTURBED, RAISED
from scgpt_bench.scgpt.vocabulary import PAD, align


def flags_of(obs: pd.DataFrame, by_direction: bool) -> np.ndarray:
    """Choose the flag of each cell's targets, int64 [cells], by ``obs["direction"]`` or the same for all."""
    return np.where(by_direction & (obs["direction"].astype(str) == "up"), RAISED, PERTURBED)


@dataclass(frozen=True)
class Targets:
    """The targets of one perturbation, as the model is given them.

    Attributes
    ----------
    columns
        Positions of its measured targets, which carry the flag (a padded gene's too).
    added
        Token ids of targets that were not measured: tokens with value 0 and the flag, dropped from the output.
    unknown
        Targets that were not measured and that the vocabulary does not know: the model cannot be asked about them. A
        perturbation of such targets alone is predicted without a flag, that is, as a control.
    """

    columns: tuple[int, ...] = ()
    added: tuple[int, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Encoding:
    """The tokens of the measured genes and the targets of each perturbation.

    Attributes
    ----------
    token_ids
        (n_genes,) of the measured genes, in order.
    pad_id
        Token id of genes outside the vocabulary.
    targets
        By perturbation; ``control`` has none.
    n_bins
        Bins of a cell (:func:`binning.bin_cells`) in which the value encoder is given its values, as it was pretrained;
        None: values as they are, as in upstream's perturbation path.
    """

    token_ids: np.ndarray
    pad_id: int
    targets: Mapping[str, Targets]
    n_bins: int | None = None

    @classmethod
    def of(
        cls, perturbations: Iterable[str], alignment: pd.DataFrame, vocabulary: Mapping[str, int],
        n_bins: int | None = None,
    ) -> Encoding:  # fmt: skip
        """Encode the genes of a data set and these perturbations of it (``STAT1``, ``FOS+JUN``).

        Parameters
        ----------
        alignment
            The measured genes, in order, with their tokens: :func:`scgpt_bench.scgpt.vocabulary.align`.
        vocabulary
            Token ids by symbol.
        """
        pad_id = vocabulary[PAD]
        token_ids = alignment["token_id"].to_numpy(dtype=np.int64)
        column_of_gene = {gene: column for column, gene in enumerate(alignment["gene"])}
        column_of_token = {int(token): column for column, token in enumerate(token_ids) if token != pad_id}
        targets = {}
        for perturbation in sorted({CONTROL, *perturbations}):
            genes = genes_of(perturbation)
            columns = [column_of_gene[gene] for gene in genes if gene in column_of_gene]
            unmeasured = align([gene for gene in genes if gene not in column_of_gene], vocabulary)
            added, unknown = [], []
            for gene, token in unmeasured[["gene", "token_id"]].itertuples(index=False):
                if token == pad_id:
                    unknown.append(gene)
                elif token in column_of_token:  # measured under another spelling
                    columns.append(column_of_token[token])
                else:
                    added.append(int(token))
            targets[perturbation] = Targets(tuple(columns), tuple(added), tuple(unknown))
        return cls(token_ids, pad_id, targets, n_bins)

    @property
    def without_token(self) -> list[str]:
        """List perturbations that the model cannot tell from others: a target is outside the vocabulary."""
        padded = self.token_ids == self.pad_id
        return sorted(name for name, own in self.targets.items() if own.unknown or padded[list(own.columns)].any())

    @property
    def tokens_in_use(self) -> list[int]:
        """List the ids of every token that these genes and targets have, for :func:`model.restrict_vocabulary`."""
        return sorted({*map(int, self.token_ids), *(token for own in self.targets.values() for token in own.added)})

    def inputs(
        self, values: np.ndarray, perturbations: Sequence[str], columns: np.ndarray, flags: np.ndarray | None = None
    ) -> dict[str, Any]:
        """Make a batch of cells for :class:`model.Generator`: sampled genes, then unmeasured targets.

        Parameters
        ----------
        values
            (n_cells, n_genes) control cells.
        perturbations
            That of each cell.
        columns
            The sampled genes.
        flags
            (n_cells,) of each cell's targets (:func:`flags_of`); ``PERTURBED`` unless given.

        Returns
        -------
        ``genes`` (n_cells, n_columns), the same in all cells; ``added`` (n_cells, most unmeasured targets of a cell);
        ``values``, ``flags`` and, where values are binned, ``encoded``, with n_tokens columns, those of both. Which of
        these are tokens (``present``), have a value (``expressed``) and a flag (``flagged``) is known on the host.
        """
        n_cells, n_genes = values.shape
        targets = [self.targets[name] for name in perturbations]
        own_flag = np.full(n_cells, PERTURBED) if flags is None else flags
        of_genes = np.full((n_cells, n_genes), NOT_PERTURBED, dtype=np.int64)
        n_added = max(len(own.added) for own in targets)
        added = np.full((n_cells, n_added), self.pad_id, dtype=np.int64)
        for row, own in enumerate(targets):
            of_genes[row, list(own.columns)] = own_flag[row]
            added[row, : len(own.added)] = own.added
        of_added = np.where(added == self.pad_id, NOT_PERTURBED, own_flag[:, None])
        zeros = np.zeros(added.shape, dtype=np.float32)
        arrays = {
            "genes": np.broadcast_to(self.token_ids[columns], (n_cells, len(columns))),
            "added": added,
            "values": np.hstack([values[:, columns].astype(np.float32, copy=False), zeros]),
            "flags": np.hstack([of_genes[:, columns], of_added]),
        }
        if self.n_bins is not None:
            encoded = bin_cells(values, self.n_bins)[0]
            arrays["encoded"] = np.hstack([encoded[:, columns].astype(np.float32, copy=False), zeros])
        present = np.hstack([np.ones((n_cells, len(columns)), dtype=bool), added != self.pad_id])
        masks = {"present": present, "expressed": arrays["values"] != 0, "flagged": arrays["flags"] != NOT_PERTURBED}
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()} | {
            name: TokenMask(mask) for name, mask in masks.items()
        }
