"""Zero-shot prediction by the pretrained generative head: set a target and see what the unknown genes become.

A control cell is prompted twice, with the target at its prompted value and with the target at its mean, beside the same
random share of known genes. The prompted value is 0, or, of an activated target, a high quantile of the bins in which
control cells express it (:func:`raised_bins`). The genes left unknown are generated, the difference of the two is the
effect. It is read at unknown genes only, averaged over several draws of the known share, and moved from bins to
expression through the cell's own bins. With one round this is ``scgpt-knockout`` (one masked forward pass); with K
rounds the unknown genes are generated iteratively, each round making the most confident 1/K known.

A checkpoint that was pretrained on expressed genes alone, as the published one, has never seen the value 0 that
silenced targets and unexpressed known genes are prompted with; :func:`prediction.prompted` reports it. Silenced targets
may be left out of the prompt instead.

The paper (Cui et al. 2024) adds unknown genes "by prediction confidence" and does not define it; the released code has
no iterative generation. Confidence here is one of :data:`CONFIDENCE`: ``agreement`` (small distance between the
prediction from the gene's own token and the one from the cell embedding), with the ablations ``value`` (largest
predicted bin) and ``random``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scgpt_bench.errors import InputError
from scgpt_bench.options import Count, Prompt, Rounds
from scgpt_bench.scgpt.attention import Cells
from scgpt_bench.scgpt.binning import expression_of_bins
from scgpt_bench.scgpt.checkpoint import Checkpoint
from scgpt_bench.scgpt.masked_model import MaskedTransformer
from scgpt_bench.seeding import random_generator, stream_seed

# Unknown genes per pass, on a CPU and on a GPU: fixed sizes, so that their number cannot move a bit of any prediction.
_CHUNK = {"cpu": 64, "cuda": 1024}
_KNOWN_AT_ONCE = 64_000  # known genes of all cells of a pass: keys and values of 3 GB at the published size


class PromptOptions(Rounds, Prompt):
    """How the prompts are made, and in how many rounds they are answered."""

    rounds: Count = 1


@dataclass(frozen=True)
class Prompter:
    """A pretrained model with the tokens of a data set's genes.

    Parameters
    ----------
    model
        In evaluation mode.
    token_ids
        (n_genes,) ids of the data set's genes; ``pad_id`` for a gene outside the vocabulary, which is never read.
    cls_id, pad_id, pad_value, n_bins
        As in pretraining.
    """

    model: MaskedTransformer
    token_ids: np.ndarray
    cls_id: int
    pad_id: int
    pad_value: float
    n_bins: int

    @classmethod
    def of(cls, model: MaskedTransformer, weights: Checkpoint, token_ids: np.ndarray) -> Prompter:
        """Combine what :func:`scgpt_bench.scgpt.masked_model.load` returns with the token ids of a data set's genes."""
        if "<cls>" not in weights.vocabulary:
            raise InputError(weights.folder, "vocab.json", "no '<cls>'", "the token that begins every cell")
        cls_id, pad_id = weights.vocabulary["<cls>"], weights.vocabulary["<pad>"]
        pad_value = float(weights.arguments.get("pad_value", -2))
        return cls(model, np.asarray(token_ids), cls_id, pad_id, pad_value, weights.n_bins)

    @torch.no_grad()
    def generate(
        self, bins: np.ndarray, known: np.ndarray, rounds: int = 1, confidence: str = "agreement", seed: int = 0,
        left_out: Sequence[int] = (),
    ) -> np.ndarray:  # fmt: skip
        """Generate the unknown genes of cells, in ``rounds`` rounds.

        Parameters
        ----------
        bins
            (n_cells, n_genes) value bins; read at known genes only.
        known
            (n_cells, n_genes) bool, the same number in every cell.
        seed
            Of the draws of ``confidence="random"``.
        left_out
            Columns that are neither prompted nor generated.

        Returns
        -------
        (n_cells, n_genes) float32: the given bins of known genes, and of every other gene its prediction in the round
        that made it known. A generated gene is prompted in later rounds with its prediction rounded to a bin.
        """
        device = self.model.flag_encoder.weight.device
        has_token = self.token_ids != self.pad_id
        has_token[list(left_out)] = False
        tokens = torch.from_numpy(self.token_ids).to(device)
        generated = torch.from_numpy(np.where(known, bins, 0).astype(np.float32)).to(device)
        prompted = generated.clone()
        unknown = torch.from_numpy(~known & has_token).to(device)
        known = torch.from_numpy(known & has_token).to(device)
        per_round = -(-int(unknown.sum(dim=1).max()) // rounds)
        for index in range(rounds):
            n_unknown = int(unknown.sum(dim=1).max())
            if n_unknown == 0:
                break
            genes = _columns(unknown)  # (n_cells, n_unknown)
            compared = confidence == "agreement" and n_unknown > per_round
            predicted, from_cell = self._predict(tokens, prompted, _columns(known), genes, compared)
            if n_unknown > per_round:
                certainty = _certainty(confidence, predicted, from_cell, genes, stream_seed(seed, "confidence", index))
                best = certainty.argsort(dim=1, descending=True, stable=True)[:, :per_round]
                genes, predicted = genes.gather(1, best), predicted.gather(1, best)
            generated.scatter_(1, genes, predicted)
            prompted.scatter_(1, genes, predicted.round().clamp(0, self.n_bins - 1))
            known = known.scatter(1, genes, True)
            unknown = unknown.scatter(1, genes, False)
        return generated.cpu().numpy()

    def _predict(
        self, tokens: Tensor, values: Tensor, known: Tensor, unknown: Tensor, compared: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Predict the bins (n_cells, n_unknown) of the columns ``unknown`` given the columns ``known``.

        Where they are ``compared``, the same from the cell embedding too.
        """
        first = torch.ones(len(known), 1, dtype=torch.long, device=known.device)
        known_genes = torch.cat([first * self.cls_id, tokens[known]], dim=1)
        known_values = torch.cat([first * self.pad_value, values.gather(1, known)], dim=1)
        n_cells, n_known = known_genes.shape
        cells = Cells([n_known] * n_cells)
        hidden, memory = self.model.known(known_genes.flatten(), known_values.flatten(), cells)
        n_unknown = unknown.shape[1]
        size = _CHUNK[known.device.type]
        missing = -n_unknown % size
        chunks = functional.pad(tokens[unknown], (0, missing), value=self.pad_id).split(size, dim=1)
        of_chunk = Cells([size] * n_cells)
        cell = self.model.cell_embeddings(hidden, cells)
        predicted, from_cell = [], []
        for chunk in chunks:
            genes = self.model.encoder(chunk.flatten())
            predicted.append(self.model.unknown(genes, of_chunk, memory).view(n_cells, -1))
            if compared:
                from_cell.append(self.model.from_cell(cell, genes, of_chunk).view(n_cells, -1))
        first, *second = (torch.cat(parts, dim=1)[:, :n_unknown] for parts in (predicted, from_cell) if parts)
        return first, second[0] if compared else None


def effects(
    prompter: Prompter, bins: np.ndarray, edges: np.ndarray, targets: Sequence[int], options: PromptOptions, seed: int,
    drawn_for: Sequence[str], activated: bool,
) -> tuple[np.ndarray, bool]:  # fmt: skip
    """Predict the change of expression of every gene in every control cell when ``targets`` are perturbed.

    Parameters
    ----------
    bins, edges
        (n_cells, n_genes) and (n_cells, n_bins - 1) of the control cells (:func:`scgpt_bench.scgpt.binning.bin_cells`).
    targets
        Token ids of the perturbed genes. A target that is not measured is prompted with the bin that the model
        predicts for it in each cell.
    drawn_for
        The names under which known genes are drawn: :attr:`Condition.drawn_for`.
    activated
        Whether the targets are raised; else they are silenced.

    Returns
    -------
    (n_cells, n_genes) float32 change in the scale of the cells, 0 for genes outside the vocabulary and for the targets
    themselves, whose value is set, not predicted; and whether anything was asked: False where the targets already have
    their prompted values in all cells, as those that are silenced and that no cell expresses, and the change is 0.
    """
    if prompter.pad_id in targets or len(targets) == 0:
        found = "a gene outside the checkpoint's vocabulary"
        raise InputError(" ".join(drawn_for), "target", found, "targets that have a token")
    measured, n_genes = bins, bins.shape[1]
    prompter, bins = _with_unmeasured(prompter, bins, targets, options)
    columns = np.flatnonzero(np.isin(prompter.token_ids, targets))
    left_out = columns if options.silenced_targets == "left_out" and not activated else ()
    perturbed, unchanged = bins.copy(), bins.copy()
    perturbed[:, columns] = raised_bins(measured, columns, options.target_quantile) if activated else 0
    unchanged[:, columns] = bins[:, columns].mean(axis=0)
    if (perturbed == unchanged).all():
        return np.zeros(measured.shape, dtype=np.float32), False
    total, read = np.zeros(bins.shape, dtype=np.float32), np.zeros(bins.shape[1], dtype=np.float32)
    for draw, known in enumerate(_known_genes(prompter, columns, options, seed, drawn_for)):
        for rows in _passes(len(bins), options, _known_in_last_round(prompter, known, options.rounds)):
            mask = np.tile(known, (len(bins[rows]), 1))
            round_seed = stream_seed(seed, "generation", *drawn_for, draw)
            after, before = (
                expression_of_bins(
                    prompter.generate(values[rows], mask, options.rounds, options.confidence, round_seed, without),
                    edges[rows],
                )
                for values, without in ((perturbed, left_out), (unchanged, ()))
            )
            total[rows] += np.where(known, 0, after - before)
        read += ~known
    return (total / np.maximum(read, 1))[:, :n_genes], True


def raised_bins(bins: np.ndarray, columns: Sequence[int], quantile: float) -> np.ndarray:
    """Choose the bins that activated targets are set to: (len(columns),) whole numbers above 0.

    The quantile of a target's bins among the control cells that express it: over all cells it would be 0, no change,
    for a gene that few of them express. A target that none of them is seen to express gets the same quantile of all
    bins above 0.

    Parameters
    ----------
    bins
        (n_cells, n_genes) value bins of the drawn control cells.
    columns
        Of the targets; a column beyond ``bins`` is a target that was not measured.
    quantile
        0 to 1.
    """
    expressed = [bins[:, column : column + 1] for column in columns]
    expressed = [own[own > 0] if own.any() else bins[bins > 0] for own in expressed]
    return np.round([np.quantile(values, quantile) for values in expressed])


def _with_unmeasured(
    prompter: Prompter, bins: np.ndarray, targets: Sequence[int], options: PromptOptions
) -> tuple[Prompter, np.ndarray]:
    """Add a column for every target that has none, with its predicted bin given all measured genes."""
    unmeasured = np.setdiff1d(targets, prompter.token_ids)
    if not unmeasured.size:
        return prompter, bins
    prompter = replace(prompter, token_ids=np.concatenate([prompter.token_ids, unmeasured]))
    bins = np.hstack([bins, np.zeros((len(bins), unmeasured.size), dtype=np.float32)])
    known = np.ones(bins.shape, dtype=bool)
    known[:, -unmeasured.size :] = False
    passes = _passes(len(bins), options, known.shape[1])
    bins = np.concatenate([prompter.generate(bins[rows], known[rows]) for rows in passes])
    return prompter, np.clip(bins.round(), 0, prompter.n_bins - 1)


def _known_in_last_round(prompter: Prompter, known: np.ndarray, rounds: int) -> int:
    """Count the genes of a cell that the last round of a generation knows, of ``known`` (n_genes,) in the first."""
    has_token = prompter.token_ids != prompter.pad_id
    n_known, n_unknown = int((known & has_token).sum()), int((~known & has_token).sum())
    return min(n_known + (rounds - 1) * -(-n_unknown // rounds), n_known + n_unknown)


def _passes(n_cells: int, options: PromptOptions, n_known: int) -> list[slice]:
    """Split the cells into passes of ``batch_size``, or fewer where many genes become known: these take memory."""
    size = max(1, min(options.batch_size, _KNOWN_AT_ONCE // max(1, n_known)))
    return [slice(start, start + size) for start in range(0, n_cells, size)]


def _known_genes(
    prompter: Prompter, targets: np.ndarray, options: PromptOptions, seed: int, drawn_for: Sequence[str]
) -> list[np.ndarray]:
    """Draw masks (n_genes,) of the known genes: windows of one random order, in which none is always known."""
    others = np.setdiff1d(np.flatnonzero(prompter.token_ids != prompter.pad_id), targets)
    order = random_generator(seed, "generation", *drawn_for).permutation(others)
    size = int(options.known_share * len(order))
    masks = []
    for draw in range(options.draws):
        window = (np.arange(size) + draw * len(order) // options.draws) % max(1, len(order))
        known = np.zeros(len(prompter.token_ids), dtype=bool)
        known[targets] = True
        known[order[window]] = True
        masks.append(known)
    return masks


def _columns(mask: Tensor) -> Tensor:
    """Return (n_cells, n) ascending columns of the True entries of a mask with as many in every row."""
    return mask.nonzero()[:, 1].view(len(mask), -1)


def _certainty(confidence: str, predicted: Tensor, from_cell: Tensor | None, genes: Tensor, seed: int) -> Tensor:
    if confidence == "agreement":
        return -(predicted - from_cell).abs()
    if confidence == "value":
        return predicted
    draws = torch.rand(int(genes.max()) + 1, generator=torch.Generator().manual_seed(seed))  # per gene, for all cells
    return draws.to(predicted.device)[genes]
