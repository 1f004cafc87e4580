"""Predict (control cell, condition) pairs with a perturbation model, in batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from scgpt_bench.data.conditions import Condition, codes_of, conditions_of, rows_of
from scgpt_bench.data.on_disk import dense_rows
from scgpt_bench.options import Precision
from scgpt_bench.scgpt.encoding import Encoding, Targets
from scgpt_bench.scgpt.engine import Engine, GenesFed
from scgpt_bench.scgpt.model import PERTURBED, TransformerGenerator

Item = TypeVar("Item")
Result = TypeVar("Result")


def shard(obs: pd.DataFrame, index: int, number: int) -> list[Condition]:
    """List the conditions that shard ``index`` of ``number`` predicts: whole ones, so whole batches.

    Where there are more shards than conditions, the first condition is predicted again.
    """
    conditions = conditions_of(obs)
    return conditions[index::number] or conditions[:1]


def predict(
    model: TransformerGenerator,
    controls: Any,
    obs: pd.DataFrame,
    encoding: Encoding,
    genes_fed: GenesFed = "all",
    batch_size: int | None = None,
    flags: np.ndarray | None = None,
    progress: bool = True,
    precision: Precision | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Predict every pair of a control cell and a condition, condition by condition in the order of names.

    A batch never crosses a condition, so shards of whole conditions give the same bytes as one run.

    Parameters
    ----------
    model
        Of :mod:`scgpt_bench.scgpt.model`; its device and ``precision`` decide the type: :func:`devices.number_type`.
    controls
        [pairs x genes] log1p expression, in memory or on disk.
    obs
        ``perturbation`` and ``context`` of each pair.
    encoding
        Of the genes of ``controls`` and of these perturbations.
    genes_fed
        ``all``, or each cell's ``nonzero`` genes and targets; genes not fed are predicted as 0, what they are.
    batch_size
        Cells per batch at most; None chooses it from a fixed number of tokens and from the free memory. Halved when
        memory runs out. Another batch size moves a prediction by less than 1e-5 in fp32, and by more in bf16 or fp16.
        On a CPU, batches are computed side by side on as many cores as torch has threads.
    flags
        [pairs] flag of the targets, the same in all pairs of a condition (:func:`encoding.flags_of`); ``PERTURBED``
        unless given.
    precision
        What the transformer computes in; None leaves it to the device.

    Yields
    ------
    Rows of the pairs, and their predictions [rows x genes] float32.
    """
    engine = Engine(model, encoding.token_ids, genes_fed, encoding.n_bins, precision)
    batches = _batches(obs, encoding, engine, batch_size)

    def predicted(batch: tuple[np.ndarray, Targets]) -> tuple[np.ndarray, np.ndarray]:
        rows, targets = batch
        flag = PERTURBED if flags is None else int(flags[rows[0]])
        return rows, engine.predict(dense_rows(controls, rows).astype(np.float32, copy=False), targets, flag)

    with tqdm(total=len(obs), unit="cell", disable=not progress, mininterval=2) as bar:
        for rows, values in _in_order(predicted, batches, engine.workers(len(encoding.token_ids))):
            yield rows, values
            bar.update(len(rows))


def _batches(
    obs: pd.DataFrame, encoding: Encoding, engine: Engine, size: int | None
) -> Iterator[tuple[np.ndarray, Targets]]:
    for condition, rows in rows_of(obs).items():
        targets = encoding.targets[condition.perturbation]
        cells = size or engine.cells_per_batch(len(encoding.token_ids) + len(targets.added))
        for batch in np.array_split(rows, -(-len(rows) // cells)):  # even ones, so that no core waits for the last
            yield batch, targets


def _in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yield results in the order of items, computed by ``workers`` threads that each use one core.

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
    batches: Iterable[tuple[np.ndarray, np.ndarray]], obs: pd.DataFrame, weights: np.ndarray
) -> np.ndarray:
    """Average the batches of :func:`predict` to pseudo-bulks (float64), conditions sorted; keep no batch.

    Equal to :func:`means.mean_cell` of all cells of a condition; ``weights`` [cells] are theirs.

    Returns
    -------
    [conditions x genes]
    """
    codes = codes_of(obs, [*rows_of(obs)])
    sums: dict[int, np.ndarray] = {}
    totals = np.bincount(codes, weights=weights)
    for rows, predicted in batches:
        code = int(codes[rows[0]])
        sums[code] = sums.get(code, 0.0) + (predicted * weights[rows, None]).sum(axis=0)
    return np.stack([sums[code] / totals[code] for code in range(len(totals))])
