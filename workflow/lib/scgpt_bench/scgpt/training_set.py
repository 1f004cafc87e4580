"""What a fine-tuning reads: cells, their encoding, and the conditions to train and to validate on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench import files
from scgpt_bench.data.conditions import Condition, conditions_of, context_of, controls_of, rows_of
from scgpt_bench.data.halves import INPUT
from scgpt_bench.data.means import cells_of
from scgpt_bench.data.on_disk import rows
from scgpt_bench.errors import InputError
from scgpt_bench.options import ValueInput
from scgpt_bench.scgpt.checkpoint import Checkpoint
from scgpt_bench.scgpt.encoding import Encoding


class NothingToTrainOn(InputError):
    """A split has no training, or no validation condition whose genes all have a token."""


@dataclass(frozen=True)
class TrainingSet:
    """Cells of a split, encoded for the model of a checkpoint.

    Attributes
    ----------
    cells
        Control cells and those of the training and validation conditions.
    encoding
        Of the genes and of all perturbations of the split, tested ones too: a model has rows for their tokens.
    training, validation
        Conditions whose genes all have a token, by role. None are validated on where all that was measured is trained
        on.
    """

    cells: anndata.AnnData
    encoding: Encoding
    training: list[Condition]
    validation: list[Condition]

    @classmethod
    def of(
        cls, cells: anndata.AnnData, split: pd.DataFrame, alignment: pd.DataFrame, weights: Checkpoint,
        value_input: ValueInput = "log1p", validates: bool = True,
        read: Callable[[Any, np.ndarray], sparse.csr_matrix] = rows,
    ) -> TrainingSet:  # fmt: skip
        """Read the cells of a split; see :func:`scgpt_bench.scgpt.finetuning.finetune` for the parameters.

        ``read`` makes a matrix of the rows of X that are asked for (:func:`means.cells_of`).

        Raises
        ------
        NothingToTrainOn
            If no training perturbation, or no validation perturbation, has all its genes in the vocabulary.
        """
        encoding = Encoding.of(split["perturbation"], alignment, weights.vocabulary, weights.bins_of(value_input))
        training = _with_tokens(split, "train", encoding)
        validation = _with_tokens(split, "validation", encoding) if validates else []
        own = cells_of(cells, [*controls_of(cells.obs), *training, *validation], INPUT, read)
        return cls(own, encoding, training, validation)

    @property
    def directions(self) -> dict[str, int]:
        """Count the training conditions of each direction: ``down``, ``up``."""
        rows, direction = rows_of(self.cells.obs), self.cells.obs["direction"].astype(str).to_numpy()
        return dict(sorted(Counter(direction[rows[condition][0]] for condition in self.training).items()))

    def checksums(self) -> dict[str, Any]:
        """Hash what is read: the state of a training must not be resumed on other data, wherever both are."""
        columns = ["perturbation", "direction", "batch", "cell_type"]
        table = self.cells.obs[columns].assign(context=context_of(self.cells.obs))
        return {
            "values": files.matrix_sha256(self.cells.X),
            "obs": hashlib.sha256(table.to_csv().encode()).hexdigest(),
            "genes": self.cells.var_names.tolist(),
            "token_ids": self.encoding.token_ids.tolist(),
            "tokens_in_use": self.encoding.tokens_in_use,
            "training": self.training,
            "validation": self.validation,
        }


def _with_tokens(split: pd.DataFrame, role: str, encoding: Encoding) -> list[Condition]:
    without_token = encoding.without_token
    usable = [c for c in conditions_of(split, role) if c.perturbation not in without_token]
    if not usable:
        found = f"{(split['role'] == role).sum()} perturbations, none with all its genes in the vocabulary"
        raise NothingToTrainOn("split.tsv", f"role {role!r}", found, "at least one with tokens for all its genes")
    return usable
