"""Generative masked pretraining in scGPT's architecture, from cells to a checkpoint folder in scGPT's own layout.

Loss: squared error of the value bins of unknown genes, once from their own token and once from the cell embedding
(MVC), after Cui et al. 2024 and upstream's branch ``integrate-huggingface-model``. The model (:mod:`masked_model`) and
its training differ from that branch in this:

- the unknown stream passes the attention's output projection as the known stream does (upstream: none);
- there is no dropout on attention weights (the kernel that returns the log-sum-exp has none);
- the start: the value encoder's first weights are divided by 8, the decoder's last weights and the MVC matrix are
  scaled to the spread of bins, and the decoder's last bias is their middle (:func:`_start_on_bins`; upstream: torch's
  own);
- a value that equals several edges of bins gets the middle one of these bins (:mod:`binning`; upstream draws one at
  random). Counts are full of such ties, so that losses are not comparable with upstream's;
- the learning rate is one step ahead: the first step has 1 / ``warm_up`` of the peak (upstream: 0);
- precision: bf16 on GPUs that have it, fp32 elsewhere, or what is asked for, without loss scaling (upstream: fp16 with
  loss scaling);
- the loss is the mean over the unknown genes of the whole batch, with one mask ratio (upstream: over each process's
  share, with a ratio of its own);
- the second pass begins at step ``second_pass_after`` of the run (upstream counts epochs from 1, so that in its script
  an epoch of more than 1,000 steps has it from the first step on);
- the last, incomplete batch of an epoch is left out, and the weights of the last step are kept (upstream: all batches,
  and the weights of the smallest validation error).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import anndata
import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

import scgpt_bench
from scgpt_bench import files
from scgpt_bench.data.conditions import controls_of
from scgpt_bench.data.halves import INPUT
from scgpt_bench.data.means import cells_of
from scgpt_bench.data.on_disk import rows
from scgpt_bench.errors import InputError
from scgpt_bench.options import Pretraining
from scgpt_bench.scgpt import checkpoint, recipe_version, training
from scgpt_bench.scgpt.attention import TokenMask
from scgpt_bench.scgpt.binning import bin_cells
from scgpt_bench.scgpt.masked_model import MaskedTransformer
from scgpt_bench.scgpt.vocabulary import SPECIAL_TOKENS, human_vocabulary
from scgpt_bench.seeding import random_generator

if TYPE_CHECKING:
    from lightning.fabric import Fabric

MOST_SCORED = 2_000  # held-out cells: dense bins of 3 % of a corpus would not fit in memory
SECOND_PASS = "second_pass"  # a batch with this key has one: a value would have to be read back from the GPU
MOST_AT_ONCE = 32  # held-out cells per pass: one process scores them, and several may share a batch of the training


class PretrainingOptions(Pretraining):
    """How a model is pretrained."""

    pad_value: float = -2.0
    """Value of padding, as upstream has it."""


class CellSource(Protocol):
    """Cells that can be read by row: an AnnData's ``X`` in memory, a backed file, a streamed corpus."""

    def __len__(self) -> int: ...

    def rows(self, index: np.ndarray) -> sp.csr_matrix:
        """Read (len(index), n_genes) expression at or above 0, in any monotone scale per cell."""

    def batches(self, rows: np.ndarray, size: int, seed: int) -> Callable[[int, int], sp.csr_matrix]:
        """Return a function (epoch, number) -> (size, n_genes), a training batch of ``rows``, each once per epoch."""

    def description(self) -> Mapping[str, object]:
        """Describe the cells for the report, with a checksum: a training state of other cells is not resumed."""


@dataclass(frozen=True)
class MatrixSource:
    """Cells of a matrix in memory, or mapped into it; of all its genes, or of ``columns``."""

    matrix: sp.csr_matrix
    columns: np.ndarray | None = None

    def __len__(self) -> int:
        return self.matrix.shape[0]

    def rows(self, index: np.ndarray) -> sp.csr_matrix:
        cells = self.matrix[index]
        return cells if self.columns is None else cells[:, self.columns]

    def batches(self, rows: np.ndarray, size: int, seed: int) -> Callable[[int, int], sp.csr_matrix]:
        @lru_cache(maxsize=1)  # one permutation of all rows per epoch, not per batch
        def order(epoch: int) -> np.ndarray:
            return random_generator(seed, "pretraining", "order", epoch).permutation(rows)

        def batch(epoch: int, number: int) -> sp.csr_matrix:
            return self.rows(np.sort(order(epoch)[number * size : (number + 1) * size]))

        return batch

    def description(self) -> Mapping[str, object]:
        return {"matrix_sha256": files.matrix_sha256(self.matrix)}


def unperturbed(
    cells: anndata.AnnData, read: Callable[[Any, np.ndarray], sp.csr_matrix] = rows
) -> tuple[MatrixSource, list[str]]:
    """Read what of ``cells.h5ad`` a model may be pretrained on: control cells of the half ``input``, of all contexts.

    Returns the cells, as ``read`` reads rows of X (:func:`means.cells_of`), and their genes. Genes that scGPT's own
    vocabulary lacks are padded by every checkpoint, and left out.
    """
    known = cells.var_names.isin(human_vocabulary())
    matrix = cells_of(cells, controls_of(cells.obs), INPUT, read).X
    return MatrixSource(matrix, None if known.all() else np.flatnonzero(known)), list(cells.var_names[known])


def masked_batch(
    bins: np.ndarray, token_ids: np.ndarray, ratio: float, draws: np.ndarray, cls_id: int, pad_id: int,
    options: PretrainingOptions,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Split each cell's genes at random into known and unknown ones.

    Parameters
    ----------
    bins
        (n_cells, n_genes) value bins.
    token_ids
        (n_genes,) ids of the genes; those equal to ``pad_id`` (outside the vocabulary) are left out.
    ratio
        Share of unknown genes.
    draws
        (n_cells, at least as many as a cell has genes) random numbers from 0 to 1, by which a cell's genes are ordered.

    Returns
    -------
    ``known_genes``, ``known_values`` (n_cells, 1 + n_known) with ``<cls>`` first, ``unknown_genes``, ``unknown_values``
    (n_cells, n_unknown), and which of these positions hold a gene: ``known``, ``unknown``.
    """
    present = np.broadcast_to(token_ids != pad_id, bins.shape)
    if not options.include_zero_genes:
        present = present & (bins > 0)
    rows, columns = np.nonzero(present)
    n_present = np.bincount(rows, minlength=len(bins))
    listed = np.arange(max(1, n_present.max()))[None, :] < n_present[:, None]
    genes = np.zeros(listed.shape, dtype=np.int64)
    genes[listed] = columns  # each cell's present genes, so that the work grows with them and not with the vocabulary
    order = np.argsort(np.where(listed, draws[:, : listed.shape[1]], 2.0), axis=1)  # the present genes come first
    order = np.take_along_axis(genes, order, axis=1)
    n_genes = np.minimum(n_present, options.max_seq_len - 1)
    n_unknown = (n_genes * ratio).astype(np.int64)
    unknown_at = np.arange(n_unknown.max())[None, :]
    known_at = np.arange((n_genes - n_unknown).max())[None, :]
    scored = unknown_at < n_unknown[:, None]
    padding = known_at >= (n_genes - n_unknown)[:, None]
    unknown = np.take_along_axis(order, np.broadcast_to(unknown_at, scored.shape), axis=1)
    known = np.take_along_axis(order, np.minimum(n_unknown[:, None] + known_at, order.shape[1] - 1), axis=1)
    values = np.take_along_axis(bins, known, axis=1)
    first = np.ones((len(bins), 1), dtype=np.int64)
    return {
        "known_genes": np.hstack([first * cls_id, np.where(padding, pad_id, token_ids[known])]),
        "known_values": np.hstack([first * options.pad_value, np.where(padding, options.pad_value, values)]).astype(
            np.float32
        ),
        "known": ~np.hstack([first < 0, padding]),
        "unknown_genes": np.where(scored, token_ids[unknown], pad_id),
        "unknown_values": np.take_along_axis(bins, unknown, axis=1),
        "unknown": scored,
    }


def pretrain(
    source: CellSource, genes: list[str], folder: str | Path, options: PretrainingOptions, seed: int,
    machine: training.Machine | None = None, name: str = "cells", fabric: Fabric | None = None,
) -> dict:  # fmt: skip
    """Pretrain on ``source`` and write a checkpoint folder: best_model.pt, args.json, vocab.json, report.json.

    The training state and history.tsv stand in ``folder`` too while it runs; a restart resumes.

    Parameters
    ----------
    genes
        The vocabulary: one symbol per column of ``source``.
    name
        The file to name in errors.
    fabric
        The devices of ``machine``, where the caller has launched them.

    Returns
    -------
    The report: held-out loss against predicting each gene's mean and against the same model on cells whose known
    values were permuted among cells, gene by gene (:func:`held_out_loss`). Of several processes the first alone scores
    and writes; the others return an empty one as soon as the training is over.

    Raises
    ------
    InputError
        For values that are no expression, and for a batch that is larger than the cells or has fewer than there are
        devices.
    training.TrainingFailed
        See :func:`scgpt_bench.scgpt.training.train`.
    """
    machine = machine or training.Machine()
    training_rows, held_out_rows = split_rows(len(source), options, seed, name)
    vocabulary = {gene: i for i, gene in enumerate([*genes, *SPECIAL_TOKENS])}
    fabric = fabric or machine.fabric()
    if options.batch_size < fabric.world_size:
        expected = f"at least {fabric.world_size}, a cell for each device"
        raise InputError("configuration", "batch_size", str(options.batch_size), expected)
    torch.manual_seed(seed)
    model = build(options, len(vocabulary), vocabulary["<pad>"])
    _start_on_bins(model, options.n_bins)
    task = training_task(model, source, training_rows, held_out_rows, vocabulary, options, seed, name)
    folder = Path(folder)
    about, made_on = dict(source.description()), machine.record(fabric, options.model_dump())
    identity = {
        "options": options.model_dump(),
        "seed": seed,
        "precision": made_on["precision"],
        "cells": [name, len(source), about],
        "genes": genes,
        "torch": torch.__version__,
        "recipe_version": recipe_version.PRETRAINING,
    }
    training.train(task, fabric, folder, identity, seed=seed, clip_norm=options.clip_norm, machine=machine)
    if not fabric.is_global_zero:
        return {}
    scores = held_out_loss(model, source, training_rows, held_out_rows, vocabulary, options, seed)
    report = {"seed": seed, "cells": len(source), "genes": len(genes), "options": options.model_dump(), **scores}
    report |= {"source": about, **made_on}
    checkpoint.write(folder, model.cpu().state_dict(), _arguments(options, seed), vocabulary)
    files.write_json(report, folder / "report.json")
    (folder / training.STATE).unlink(missing_ok=True)
    return report


def build(options: PretrainingOptions, n_tokens: int, pad_id: int) -> MaskedTransformer:
    """Build a model with random weights (from torch's current random state)."""
    return MaskedTransformer(
        n_tokens, pad_id, options.embsize, options.nheads, options.d_hid, options.nlayers, options.dropout
    )


@torch.no_grad()
def _start_on_bins(model: MaskedTransformer, n_bins: int) -> None:
    """Start with outputs of the size of bins, and with a value encoder that tells large values apart.

    Default layers expect values around 1. Bins up to 50 would all look alike after the value encoder's norm, and the
    first hundreds of steps would only scale the outputs up. The hidden units of the value encoder bend at values up to
    about 8 at first: fine-tuning feeds log1p expression, which ends there, through the same layer.
    """
    middle, spread, largest_log1p = n_bins / 2, n_bins / 4, 8
    model.value_encoder.linear1.weight /= largest_log1p
    last = model.decoder.fc[4]
    last.weight *= spread
    last.bias.fill_(middle)
    model.mvc_decoder.W.weight *= spread / model.decoder.fc[0].in_features ** 0.5


def held_out_loss(
    model: MaskedTransformer, source: CellSource, training_rows: np.ndarray, held_out_rows: np.ndarray,
    vocabulary: Mapping[str, int], options: PretrainingOptions, seed: int,
) -> dict[str, float]:  # fmt: skip
    """Measure the squared error in bins of held-out cells at a mask ratio of one half, and two references to beat.

    The ``held_out_loss`` of the report: up to :data:`MOST_SCORED` cells, in fp32, on the device that ``model`` is on.
    The column of the same name in history.tsv is the same error of the first 256 of these cells under another mask and
    in the training's precision: it shows the course of a training, and its end is not this number.
    """
    token_ids = _token_ids(vocabulary)
    held_out, _ = bin_cells(source.rows(held_out_rows[:MOST_SCORED]), options.n_bins)
    gene_means = _gene_means(source, training_rows, options)
    generator = random_generator(seed, "pretraining", "permuted genes")
    permuted = np.stack([generator.permutation(column) for column in held_out.T], axis=1)
    errors = {"held_out_loss": 0.0, "gene_mean_loss": 0.0, "permuted_gene_loss": 0.0}
    n_scored = 0
    model.eval()
    size = min(options.batch_size, MOST_AT_ONCE)
    for start in range(0, len(held_out), size):
        rows = slice(start, start + size)
        batch = _tensors(_masked(held_out[rows], token_ids, 0.5, ("held out", start), vocabulary, options, seed))
        unknown, control = batch["unknown"], dict(batch)
        control["known_values"] = _known_values_of(permuted[rows], batch, token_ids, options)
        errors["held_out_loss"] += float(_squared_errors(model, batch).sum())
        errors["permuted_gene_loss"] += float(_squared_errors(model, control).sum())
        mean = torch.from_numpy(gene_means)[batch["unknown_genes"].clamp(max=len(gene_means) - 1)]
        errors["gene_mean_loss"] += float(unknown.pack(mean - batch["unknown_values"]).square().sum())
        n_scored += sum(unknown.cells.lengths)
    return {key: value / n_scored for key, value in errors.items()}


@torch.no_grad()
def _squared_errors(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Compute (n_scored,) squared errors in bins of the unknown genes, predicted from their own tokens."""
    device = next(model.parameters()).device
    batch = {key: tensor.to(device) for key, tensor in batch.items()}
    return (model(batch)[0].float() - batch["unknown"].pack(batch["unknown_values"])).square()


def training_task(
    model: MaskedTransformer, source: CellSource, training_rows: np.ndarray, held_out_rows: np.ndarray,
    vocabulary: Mapping[str, int], options: PretrainingOptions, seed: int, name: str,
) -> training.Task:  # fmt: skip
    """Define what :func:`pretrain` trains; ``name`` is the file to name in an error."""
    token_ids = _token_ids(vocabulary)
    size = options.batch_size
    n_batches = len(training_rows) // size
    cells_of_batch = source.batches(training_rows, size, seed)
    probe, _ = bin_cells(source.rows(held_out_rows[:256]), options.n_bins, name)

    def batch(epoch: int, index: int, rank: int, world_size: int) -> dict[str, Tensor]:
        cells, own = cells_of_batch(epoch, index), training.share_of(rank, world_size, size)
        ratios = random_generator(seed, "pretraining", "ratio", epoch, index)
        ratio = options.mask_ratio[ratios.integers(len(options.mask_ratio))]
        # What is drawn and counted is of the whole batch, cheap and the same for any number of ranks; binning is not.
        n_present = _genes_present(cells, token_ids, vocabulary["<pad>"], options)
        n_unknown = (np.minimum(n_present, options.max_seq_len - 1) * ratio).astype(np.int64)
        draws = random_generator(seed, "pretraining", "mask", epoch, index).random((size, max(1, n_present.max())))
        bins, _ = bin_cells(cells[own], options.n_bins, name)
        share = _tensors(_masked_by(draws[own], bins, token_ids, ratio, vocabulary, options))
        share["weight"] = torch.tensor(world_size / n_unknown.sum())
        if options.second_pass_after is not None and epoch * n_batches + index >= options.second_pass_after:
            share[SECOND_PASS] = torch.empty(0)
        return share

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        predictions = model(batch, second_pass=SECOND_PASS in batch)
        truth = batch["unknown"].pack(batch["unknown_values"])
        return sum((prediction.float() - truth).square().sum() for prediction in predictions) * batch["weight"]

    def validate(model: nn.Module) -> dict[str, float]:
        batch = _tensors(_masked(probe, token_ids, 0.5, ("validation",), vocabulary, options, seed))
        most = min(size, MOST_AT_ONCE)
        passes = [slice(start, start + most) for start in range(0, len(batch["unknown"]), most)]
        errors = [_squared_errors(model, {key: each[rows] for key, each in batch.items()}) for rows in passes]
        return {"held_out_loss": float(torch.cat(errors).mean())}

    return training.Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=options.learning_rate, fused=True),
        epochs=options.epochs,
        batches=n_batches,
        batch=batch,
        loss=loss,
        learning_rate=training.cosine_with_warm_up(options.learning_rate, options.warm_up, options.epochs * n_batches),
        validate=validate,
        must_fall="held_out_loss",  # the loss has a term more in the second pass
        work=partial(work, model),
    )


def work(model: MaskedTransformer, batch: Mapping[str, Any]) -> training.Work:
    """Count what the step on a masked batch takes."""
    known, unknown = (np.array(batch[name].cells.lengths) for name in ("known", "unknown"))
    layers, tokens = model.transformer_encoder["layers"], known + unknown
    of_layers, of_decoder, of_mvc = map(training.n_weights, (layers, model.decoder, model.mvc_decoder))
    products = of_layers * tokens.sum() + of_decoder * unknown.sum()
    products += 2 * len(layers) * model.encoder.embedding.embedding_dim * (tokens * known).sum()
    products = (2 if SECOND_PASS in batch else 1) * products + of_mvc * unknown.sum()
    return training.Work(len(known), float(tokens.sum()), 6.0 * float(products))


def split_rows(n_cells: int, options: PretrainingOptions, seed: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Draw the rows of the training cells and of those held out; ``name`` is the file to name in an error."""
    n_held_out = int(n_cells * options.held_out)
    if n_held_out < 1 or n_cells - n_held_out < options.batch_size:
        raise InputError(
            name, "cells", str(n_cells),
            f"{options.batch_size} cells to train on (batch_size) and 1 of a share of {options.held_out} held out",
        )  # fmt: skip
    order = random_generator(seed, "pretraining", "held out").permutation(n_cells)
    return order[n_held_out:], order[:n_held_out]


def _arguments(options: PretrainingOptions, seed: int) -> dict:
    """Make args.json with upstream's keys."""
    fixed = {"input_style": "binned", "input_emb_style": "continuous", "mask_value": -1, "n_layers_cls": 3, "MVC": True}
    note = {"pretrained": True, "made_by": f"scgpt-bench {scgpt_bench.__version__}", "seed": seed}
    return options.model_dump() | fixed | {"pad_token": "<pad>", "training_tasks": "both", "scgpt_bench": note}


def _token_ids(vocabulary: Mapping[str, int]) -> np.ndarray:
    return np.array([token for gene, token in vocabulary.items() if gene not in SPECIAL_TOKENS])


def _masked(bins, token_ids, ratio, names, vocabulary, options, seed) -> dict[str, np.ndarray]:
    n_present = _genes_present(sp.csr_matrix(bins), token_ids, vocabulary["<pad>"], options)
    draws = random_generator(seed, "pretraining", *names).random((len(bins), max(1, n_present.max())))
    return _masked_by(draws, bins, token_ids, ratio, vocabulary, options)


def _masked_by(draws, bins, token_ids, ratio, vocabulary, options) -> dict[str, np.ndarray]:
    return masked_batch(bins, token_ids, ratio, draws, vocabulary["<cls>"], vocabulary["<pad>"], options)


def _genes_present(cells: sp.csr_matrix, token_ids: np.ndarray, pad_id: int, options: PretrainingOptions) -> np.ndarray:
    """Count the genes (n_cells,) that each cell may be asked about: those with a token, or the expressed ones of them.

    ``cells`` may be expression or bins, which are above 0 for the same genes.
    """
    has_token = token_ids != pad_id
    if options.include_zero_genes:
        return np.full(cells.shape[0], has_token.sum())
    rows = np.repeat(np.arange(cells.shape[0]), np.diff(cells.indptr))
    return np.bincount(rows[(cells.data > 0) & has_token[cells.indices]], minlength=cells.shape[0])


def _tensors(batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {
        key: TokenMask(value) if value.dtype == bool else torch.from_numpy(np.ascontiguousarray(value))
        for key, value in batch.items()
    }


def _known_values_of(bins, batch, token_ids, options) -> Tensor:
    """Take the values that other cells ``bins`` have for the known genes of ``batch``; token ids are columns."""
    columns = batch["known_genes"].clamp(max=len(token_ids) - 1)
    values = torch.gather(torch.from_numpy(bins), 1, columns)
    special = batch["known_genes"] >= len(token_ids)
    return torch.where(special, torch.tensor(options.pad_value), values)


def _gene_means(source: CellSource, rows: np.ndarray, options: PretrainingOptions, most: int = 20_000) -> np.ndarray:
    """Average the bins of each gene over (at most ``most``) training cells, as pretraining sees them."""
    total = count = 0
    for start in range(0, min(len(rows), most), 1000):
        bins, _ = bin_cells(source.rows(np.sort(rows[start : start + 1000])), options.n_bins)
        seen = np.ones_like(bins) if options.include_zero_genes else bins > 0
        total, count = total + (bins * seen).sum(axis=0, dtype=np.float64), count + seen.sum(axis=0)
    return (total / np.maximum(count, 1)).astype(np.float32)
