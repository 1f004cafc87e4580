"""Flagged perturbation prediction: what scGPT makes of (control cell, perturbation) pairs.

The same numbers as upstream's ``TransformerGenerator.pred_perturb`` with all genes. Upstream's other mode feeds the
genes that are non-zero anywhere in the batch, so that a cell's result depends on its neighbours; here each cell's own
non-zero genes are fed instead, packed without padding.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import pandas as pd
import psutil
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from tqdm import tqdm

from scgpt_bench.scgpt.model import NOT_PERTURBED, PERTURBED, TransformerGenerator, check_tokens
from scgpt_bench.scgpt.transformer import CpuEncoder, Projection
from scgpt_bench.scgpt.vocabulary import PAD, align

log = logging.getLogger(__name__)

GenesFed = Literal["all", "nonzero"]
Item = TypeVar("Item")
Result = TypeVar("Result")

CPU_TOKENS, CUDA_TOKENS = 1280, 2**17  # per batch: more does not run faster, and a fixed number keeps the bytes fixed
_BUFFERS = 16  # arrays of [tokens x width] alive at once, at most


@dataclass(frozen=True)
class Condition:
    """How a perturbation is told to the model.

    Attributes
    ----------
    columns
        Positions of its measured targets, which carry the flag (a padded gene's too).
    added
        Token ids of targets that were not measured: tokens with value 0 and the flag, dropped from the output.
    untold
        Targets that were not measured and that the vocabulary does not know: nothing can be said about them. A
        perturbation of such targets alone is predicted without a flag, that is, as a control.
    """

    columns: tuple[int, ...]
    added: tuple[int, ...]
    untold: tuple[str, ...]


def conditions(
    perturbations: Iterable[str], alignment: pd.DataFrame, vocabulary: Mapping[str, int]
) -> dict[str, Condition]:
    """How to tell the model each perturbation (``STAT1``, ``FOS+JUN``).

    Parameters
    ----------
    alignment
        The measured genes, in order, with their tokens: :func:`scgpt_bench.scgpt.vocabulary.align`.
    vocabulary
        Token ids by symbol.
    """
    column_of_gene = {gene: column for column, gene in enumerate(alignment["gene"])}
    column_of_token = {token: column for column, token in enumerate(alignment["token_id"]) if token != vocabulary[PAD]}
    told = {}
    for perturbation in sorted(set(perturbations)):
        added, untold = [], []
        unmeasured = [target for target in perturbation.split("+") if target not in column_of_gene]
        columns = [column_of_gene[target] for target in perturbation.split("+") if target in column_of_gene]
        for target, token in align(unmeasured, vocabulary)[["gene", "token_id"]].itertuples(index=False):
            if token == vocabulary[PAD]:
                untold.append(target)
            elif token in column_of_token:  # measured under another spelling
                columns.append(column_of_token[token])
            else:
                added.append(int(token))
        told[perturbation] = Condition(tuple(columns), tuple(added), tuple(untold))
    return told


def without_token(told: Mapping[str, Condition], alignment: pd.DataFrame) -> list[str]:
    """Perturbations that the model cannot tell from others: a target outside the vocabulary, measured or not."""
    padded = (alignment["status"] == "padded").to_numpy()
    return sorted(name for name, condition in told.items() if condition.untold or padded[list(condition.columns)].any())


def tokens_in_use(told: Mapping[str, Condition], alignment: pd.DataFrame) -> list[int]:
    """Ids of every token that these predictions read, for :func:`scgpt_bench.scgpt.model.restrict_vocabulary`."""
    return sorted(
        {*map(int, alignment["token_id"]), *(token for condition in told.values() for token in condition.added)}
    )


def shard(perturbations: Iterable[str], index: int, number: int) -> list[str]:
    """The perturbations that shard ``index`` of ``number`` predicts. Whole perturbations, so whole batches."""
    return sorted(set(perturbations))[index::number]


def predict(
    model: TransformerGenerator,
    controls: sp.csr_matrix | np.ndarray,
    perturbations: Sequence[str],
    told: Mapping[str, Condition],
    token_ids: Sequence[int],
    genes_fed: GenesFed = "all",
    batch_size: int | None = None,
    progress: bool = True,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Predict every pair of a control cell and a perturbation, perturbation by perturbation in the order of names.

    A batch never crosses a perturbation, so shards of whole perturbations give the same bytes as one run.

    Parameters
    ----------
    model
        Of :mod:`scgpt_bench.scgpt.model`; its device decides the number type, see :func:`number_type`.
    controls
        [pairs x genes] log1p expression.
    perturbations
        [pairs] names.
    told
        How each perturbation is told, from :func:`conditions`.
    token_ids
        [genes] token ids.
    genes_fed
        ``all``, or each cell's ``nonzero`` genes and targets; genes not fed are predicted as 0, what they are.
    batch_size
        Cells per batch at most; None chooses it from a fixed number of tokens and from the free memory. Halved when
        memory runs out. Another batch size moves a prediction by less than 1e-5 in fp32, and by more in bf16 or fp16.
        On a CPU, batches are computed side by side on as many cores as torch has threads.

    Yields
    ------
    Rows of the pairs, and their predictions [rows x genes] float32.
    """
    engine = _Engine(model, np.asarray(token_ids, dtype=np.int64), genes_fed)
    batches = _batches(np.asarray(perturbations, dtype=object), told, controls.shape[1], engine, batch_size)

    def predicted(batch: tuple[np.ndarray, Condition]) -> tuple[np.ndarray, np.ndarray]:
        rows, condition = batch
        return rows, engine.predict(_dense(controls[rows]), condition)

    with tqdm(total=len(perturbations), unit="cell", disable=not progress, mininterval=2) as bar:
        for rows, values in _in_order(predicted, batches, engine.workers(controls.shape[1])):
            yield rows, values
            bar.update(len(rows))


def _batches(
    perturbations: np.ndarray, told: Mapping[str, Condition], n_genes: int, engine: _Engine, size: int | None
) -> Iterator[tuple[np.ndarray, Condition]]:
    groups = pd.Series(perturbations).groupby(perturbations).indices
    for name in sorted(groups):
        rows, condition = np.sort(groups[name]), told[name]
        cells = size or engine.cells_per_batch(n_genes + len(condition.added))
        for batch in np.array_split(rows, -(-len(rows) // cells)):  # even ones, so that no core waits for the last
            yield batch, condition


def _in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Results in the order of items, computed by ``workers`` threads that each use one core.

    One core per batch instead of all cores for every operation: no operation waits for its slowest core, which matters
    most where other work runs beside, and the number of cores cannot move a bit of a result.
    """
    if workers == 1:
        yield from map(function, items)
        return
    threads = torch.get_num_threads()
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            torch.set_num_threads(threads)


def running_means(
    batches: Iterable[tuple[np.ndarray, np.ndarray]], perturbations: Sequence[str], weights: np.ndarray
) -> pd.DataFrame:
    """Pseudo-bulks [perturbations x genes] (float64) of the batches of :func:`predict`, none of which is kept.

    Equal to :func:`means.mean_cell` of all cells of a perturbation; ``weights`` [cells] are theirs.
    """
    sums: dict[str, np.ndarray] = {}
    totals: dict[str, float] = {}
    for rows, predicted in batches:
        name = str(perturbations[rows[0]])
        sums[name] = sums.get(name, 0.0) + (predicted * weights[rows, None]).sum(axis=0)
        totals[name] = totals.get(name, 0.0) + weights[rows].sum()
    return pd.DataFrame({name: sums[name] / totals[name] for name in sums}).T


def device_of(gpu: int) -> torch.device:
    """Where a job that asked for ``gpu`` GPUs predicts: on one of them, or on the CPU."""
    if gpu and torch.cuda.is_available():
        return torch.device("cuda")
    if gpu:
        log.warning("a GPU asked for (hardware.gpu), but CUDA finds none: predicting on the CPU")
    return torch.device("cpu")


def device_name(device: torch.device) -> str:
    """The model of a GPU, or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def number_type(device: torch.device) -> torch.dtype:
    """What the transformer computes in: bf16 on a GPU that has it, else fp16; fp32 on a CPU."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


class _Engine:
    """A model made ready for one set of genes: what all cells share is computed once."""

    @torch.inference_mode()
    def __init__(self, model: TransformerGenerator, token_ids: np.ndarray, genes_fed: GenesFed):
        self.model = model.eval()
        self.genes_fed = genes_fed
        self.most_cells: int | None = None  # less than what once ran out of memory
        self.device = model.pert_encoder.weight.device
        self.number_type = number_type(self.device)
        self.token_ids = token_ids
        self.flags = model.pert_encoder.weight
        exact = self.number_type == torch.float32
        self.fast = exact and self.device.type == "cpu" and torch.backends.mkldnn.is_available()
        self.encoder = CpuEncoder(model.transformer_encoder) if self.fast else model.transformer_encoder.packed
        self.coefficient, self.bias = (
            _decoder(part, self.fast) for part in (model.decoder.coeff_decoder.fc, model.decoder.bias_decoder.fc)
        )
        with self._autocast():
            self.identity = self._identity(token_ids)
            # What an unexpressed gene without flag adds to its identity: the same in every cell, and most tokens do.
            self.unexpressed = model.value_encoder(torch.zeros(1, 1, device=self.device))[0] + self.flags[NOT_PERTURBED]
        self.first_projection = None
        if self.fast:
            self.first_projection = self.encoder.first_projection(self.identity + self.unexpressed)

    def _autocast(self):
        return torch.autocast(self.device.type, self.number_type, enabled=self.number_type != torch.float32)

    def _identity(self, token_ids: Sequence[int]) -> Tensor:
        check_tokens(self.model, token_ids)
        return self.model.encoder(torch.as_tensor(token_ids, dtype=torch.long, device=self.device))

    def cells_per_batch(self, n_tokens: int) -> int:
        """As many cells as fill a fixed number of tokens, if the free memory holds them."""
        most = CUDA_TOKENS if self.device.type == "cuda" else CPU_TOKENS
        return max(1, min(most, self._tokens_in_memory()) // n_tokens)

    def workers(self, n_tokens: int) -> int:
        """Batches computed side by side: one per thread of torch, if the free memory holds them; one on a GPU."""
        if not self.fast:
            return 1
        tokens = max(n_tokens, CPU_TOKENS)
        return max(1, min(torch.get_num_threads(), self._tokens_in_memory() // tokens))

    def _tokens_in_memory(self) -> int:
        """Tokens whose buffers fill half of the free memory."""
        if self.device.type == "cuda":
            free = torch.cuda.mem_get_info(self.device)[0]
        else:
            free = psutil.virtual_memory().available
        return free // 2 // (_BUFFERS * self.identity.shape[1] * 4)

    def predict(self, cells: np.ndarray, condition: Condition) -> np.ndarray:
        """[cells x genes] values -> predictions; halves of the cells one after the other when memory runs out."""
        if self.most_cells is None or len(cells) <= self.most_cells:
            try:
                return self._predict(cells, condition)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if len(cells) == 1 or not _out_of_memory(error):
                    raise
                self.most_cells = len(cells) // 2
                log.warning("out of memory: going on with %d cells per batch", self.most_cells)
        half = len(cells) // 2
        return np.concatenate([self.predict(part, condition) for part in (cells[:half], cells[half:])])

    @torch.inference_mode()
    def _predict(self, cells: np.ndarray, condition: Condition) -> np.ndarray:
        n_cells, n_genes = cells.shape
        n_added = len(condition.added)
        values = np.hstack([cells, np.zeros((n_cells, n_added), dtype=np.float32)])  # added tokens come last
        flagged = np.zeros(n_genes + n_added, dtype=bool)
        flagged[[*condition.columns, *range(n_genes, n_genes + n_added)]] = True
        fed = (values != 0) | flagged if self.genes_fed == "nonzero" else np.ones(values.shape, dtype=bool)
        result = np.zeros(values.shape, dtype=np.float32)
        if not fed.any():  # cells without an expressed gene, and nothing to tell
            return result[:, :n_genes]
        with self._autocast():
            predicted = self._forward(values[fed], np.nonzero(fed)[1], flagged, fed.sum(axis=1), condition.added)
        result[fed] = predicted.cpu().numpy()
        return result[:, :n_genes]

    def _forward(
        self, values: np.ndarray, columns: np.ndarray, flagged: np.ndarray, lengths: np.ndarray, added: Sequence[int]
    ) -> Tensor:
        """Predictions [tokens] for the tokens of several cells, one cell after the other."""
        identity = torch.cat([self.identity, self._identity(added)]) if added else self.identity
        own = self._rows((values != 0) | flagged[columns])  # tokens that are not the same in every cell
        expressed = self._rows(values != 0)
        columns, flagged = (torch.from_numpy(array).to(self.device) for array in (columns, flagged))
        values = torch.from_numpy(values).to(self.device)
        x = identity[columns].add_(self.unexpressed)  # tokens x width
        flags = torch.where(flagged[columns[own], None], self.flags[PERTURBED], self.flags[NOT_PERTURBED])
        x[own] = (identity[columns[own]] + self.model.value_encoder(values[own]) + flags).to(x.dtype)
        if self.first_projection is not None:
            hidden = self.encoder(x, lengths.tolist(), lambda: self._first_projection(x, columns, own))
        else:
            hidden = self.encoder(x, lengths.tolist())
        with torch.autocast(self.device.type, enabled=False):  # in bf16, values between 1 and 2 have steps of 0.008
            hidden = hidden.float()
            predicted = self.bias(hidden)
            predicted[expressed] += self.coefficient(hidden[expressed]) * values[expressed]
        return predicted

    def _first_projection(self, x: Tensor, columns: Tensor, own: Tensor) -> Tensor:
        """Query, key and value [tokens x 3 width] of the first layer; computed for ``own`` tokens, else shared."""
        assert self.first_projection is not None
        last = len(self.first_projection) - 1  # added tokens lie beyond it, and are all their own
        qkv = self.first_projection.index_select(0, columns.clamp(max=last))
        qkv[own] = self.encoder.first_projection(x[own])
        return qkv

    def _rows(self, mask: np.ndarray) -> Tensor:
        return torch.from_numpy(np.flatnonzero(mask)).to(self.device)


def _decoder(layers: nn.Sequential, fast: bool):
    """Half of upstream's AffineExprDecoder: hidden states [tokens x width] -> [tokens]."""
    if not fast:
        return lambda hidden: layers(hidden).squeeze(-1)
    first, second, last = (Projection(layers[i].weight, layers[i].bias) for i in (0, 2, 4))
    slope = layers[1].negative_slope

    def decode(hidden: Tensor) -> Tensor:
        rows = [
            last(second(first(block, "leaky_relu", slope), "leaky_relu", slope))
            for block in hidden.split(CpuEncoder.ROWS)
        ]
        return torch.cat(rows).squeeze(-1)

    return decode


def _dense(rows: sp.csr_matrix | np.ndarray) -> np.ndarray:
    return np.asarray(rows.toarray() if sp.issparse(rows) else rows, dtype=np.float32)


def _out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: PyTorch's allocator, the CPU's, CUDA and its libraries say it in their own ways."""
    said = ("allocate memory", "out of memory", "_ALLOC_FAILED")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(text in str(error) for text in said)
