"""How good the data are, before any model: what ``card.json`` says of a data set and of each of its conditions.

Everything is measured within a context. Cells are read by chunks; memory grows with conditions and genes, not with
cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse, stats

from scgpt_bench.data.blocks import BLOCKS, blocks_of_cells
from scgpt_bench.data.conditions import Condition, conditions_of, contexts_of, labels_of, noun_of, rows_of
from scgpt_bench.data.means import FEWEST
from scgpt_bench.data.names import CONTROL, JOINED_BY, UNSTATED, first_names
from scgpt_bench.data.on_disk import add_rows, row_chunks

SUMS_AT_ONCE = 2**26  # float64 values: 512 MiB of sums per block in one pass over the cells
FEWEST_CONTROLS = BLOCKS  # of a cell type: with fewer, a block has none, and halves would share some
FEWEST_HALVED = 4  # cells of a condition: two halves of two
RARE_TYPE = 0.05  # share of a condition's cells up to which their type may have fewer controls
DOMINANT_SHARE = 0.2  # of all counts, in one gene
COUNTS_CHANGE = 0.15  # of counts per cell, against the controls'
CONFIDENCE = 0.95
FALSE_DISCOVERY_RATE = 0.05
ELSEWHERE = 0.5  # share of a condition's cells in other batches than the controls that is worth a warning
# Share of a response's length that is worth a warning. Who predicts nothing but the shift scores about so much in
# pearson_delta; in 40 simulated responses that share nothing else, 0.24 for all of them lifted train-mean by 0.13.
BATCH_SHIFT = 0.2


Record = dict[str, Any]  # of one condition: COLUMNS
# What a reader needs to know of the card's numbers; in ``card.json`` as ``thresholds``.
THRESHOLDS = {
    "fewest_cells": FEWEST,
    "fewest_cells_halved": FEWEST_HALVED,
    "fewest_controls_of_a_cell_type": FEWEST_CONTROLS,
    "rare_cell_type": RARE_TYPE,
    "fewest_conditions": FEWEST,
    "dominant_share_of_counts": DOMINANT_SHARE,
    "counts_change": COUNTS_CHANGE,
    "confidence": CONFIDENCE,
    "false_discovery_rate": FALSE_DISCOVERY_RATE,
    "cells_in_other_batches": ELSEWHERE,
    "batch_shift": BATCH_SHIFT,
}
# Of every condition: what compares its cells with the controls, what halves them, and what compares counts per cell.
HALVED = ("reliability", "reliability_low", "reliability_high", "reliable")
COMPARED = (
    *("target_log_fold_change", "target_wrong_way_p_value", "target_wrong_way", "n_de_genes", "shared_response"),
    *("batch_distance", "batch_shift", "confounded"),
)
OF_COUNTS = ("counts_ratio", "counts_ratio_low", "counts_ratio_high", "counts_differ")
COLUMNS = ("perturbation", "context", "n_cells", *HALVED, *COMPARED, "n_batches", *OF_COUNTS, "targets", "unknown")


def data_card(
    cells: anndata.AnnData, *, dataset: str, perturbation_kind: str, minimum_reliability: float
) -> dict[str, Any]:
    """Measure how good the data are: the content of ``card.json``.

    The cells of every condition, and the control cells of every context and cell type, are dealt into ``BLOCKS`` blocks
    by their names. Every comparison is with cells of the same context. What follows comes from the blocks' means of
    log1p expression, unless it says otherwise.

    - ``reliability``: Pearson correlation between the deltas of two halves of the cells, each compared with its own
      half of the controls (else noise of the controls, which both share, would look like a response); mean over all
      ways to split the blocks in two; the interval (95 %) is the jackknife over blocks, on Fisher's scale.
      ``reliable``: it is at least ``minimum_reliability``.
    - ``target_log_fold_change``: log2 of the target's mean expression (of scaled counts) over that of the controls. One
      average control cell is added to the perturbation's, so that a target without a count is no minus infinity. Of a
      combination, the target that changed least; ``targets`` holds all.
    - ``target_wrong_way_p_value``: that a target moved against what ``perturbation_kind`` says (down where it is
      ``activation``, else up), by the test of ``n_de_genes``, one-sided; Benjamini-Hochberg over all measured targets
      of the data set; of a combination the smallest. ``target_wrong_way``: it is at most 5 %. None where the kind is
      ``mixed``.
    - ``n_de_genes``: genes whose mean differs from the matched control mean: Welch test, Benjamini-Hochberg at 5 %. The
      variance of the perturbed cells is never taken to be below that of the controls, since a gene without a count in
      few cells would have none.
    - ``shared_response``: cosine between the delta and the mean delta of all others of the context, against the other
      half of the controls: what a method gets right that tells no perturbation from another (Systema, Viñas Torné et
      al. 2025).
    - ``batch_distance``: share of the cells that would have to change batch to be spread over batches as the controls
      are.
    - ``batch_shift``: how far the control mean would move if controls were matched by batch as well as by cell type, as
      a share of the length of the response (Euclidean norms). Its square is the product of the shifts of two halves of
      the controls, so that their noise adds nothing; nor do cells whose batch has fewer than ``FEWEST_CONTROLS`` of
      their type. ``confounded``: it is more than ``BATCH_SHIFT``.
    - ``counts_ratio``: mean counts per cell, over all genes of the file, divided by those of the controls of the same
      batches and cell types; cells that share them with fewer than ``FEWEST`` controls are left out. The interval is
      that of a difference of logarithms of means, with variances by the delta method and Welch's degrees of freedom;
      the intervals of all conditions hold together with 95 % (Bonferroni). ``counts_differ``: all of the interval
      is more than ``COUNTS_CHANGE`` away from 1.
    - ``dominant_genes``: genes with more than ``DOMINANT_SHARE`` of all counts.
    - ``shared_control_noise``: mean over conditions of the Pearson correlation between the delta and the mean delta
      of all others of the context. ``same_controls``: both against the mean of all controls, as in the scores.
      ``disjoint_controls``: as if either side had as many controls of its own; its covariance is the mean over all
      pairs of different blocks of the controls, one for either side. The difference is noise of the control mean, which
      is in every delta.

    What cannot be known is None, and ``unknown`` says why: of the card and of every condition, by name of the value.
    So it is with what compares fewer than ``FEWEST`` cells (``FEWEST_HALVED`` to halve them), cells that are all alike,
    or controls of which a cell type has fewer than ``FEWEST_CONTROLS`` (unless it is rare: ``RARE_TYPE``).

    Parameters
    ----------
    cells
        ``cells.h5ad``; X may stay on disk.
    perturbation_kind
        Which way targets go: ``activation`` up, ``mixed`` unknown, anything else down. A ``knock-out`` need not lower
        the transcript: a target that goes up is a note there, not a problem.

    Returns
    -------
    Plain values: ``conditions`` is a list of records, sorted by context and perturbation; ``problems``, ``notes``
    (which need not be faults) and ``repairs`` are sentences; ``thresholds`` are the constants of this module.
    """
    contexts, n_conditions = contexts_of(cells.obs), len(conditions_of(cells.obs))
    records: list[Record] = []
    correlations = []
    for context in contexts:
        part = _Context(cells, context)
        own, lengths, *compared = _compare_with_controls(part, perturbation_kind)
        with_others, of_noise = _compare_with_others(own, *compared)
        correlations.append(with_others)
        _compare_batches(own, part, lengths)
        _compare_counts(own, part, n_conditions)
        records += own
    n_targets = _correct_wrong_ways(records)
    for record in records:
        if record["reliability"] is not None:
            record["reliable"] = record["reliability"] >= minimum_reliability
    perturbations = {record["perturbation"] for record in records}
    harmonized = cells.uns.get("harmonized", {})
    dominant = _dominant_genes(harmonized)
    medians = {f"median_{name}": _median(records, name) for name in ("reliability", "shared_response")}
    noise = np.concatenate(correlations)
    means = noise.mean(axis=0).tolist() if len(noise) else [None, None]
    unknown = {name: "it is known of no perturbation" for name, value in medians.items() if value is None}
    unknown |= {} if len(noise) else {"shared_control_noise": of_noise}
    unknown |= {"dominant_genes": "cells.h5ad does not say"} if dominant is None else {}
    problems, notes = _problems(records, dominant, unknown, perturbation_kind, n_targets)
    return {
        "dataset": dataset,
        "n_cells": cells.n_obs,
        "n_genes": cells.n_vars,
        "n_controls": int((cells.obs["perturbation"].astype(str) == CONTROL).sum()),
        "n_conditions": n_conditions,
        "n_contexts": len(contexts),
        "n_perturbations": len(perturbations),
        "n_combinations": sum(JOINED_BY in name for name in perturbations),
        "n_batches": int(cells.obs["batch"].nunique()),
        "n_cell_types": int(cells.obs["cell_type"].nunique()),
        "minimum_reliability": minimum_reliability,
        "n_reliable": sum(record["reliable"] is True for record in records),
        **medians,
        "shared_control_noise": dict(zip(("same_controls", "disjoint_controls"), means, strict=True)),
        "dominant_genes": dominant,
        "unknown": unknown,
        "thresholds": THRESHOLDS,
        "values_evidence": str(harmonized.get("values_evidence", "")),
        "dropped_perturbations": _sentences(harmonized.get("dropped_perturbations", ())),
        "problems": _sentences(harmonized.get("problems", ())) + problems,
        "notes": notes,
        "repairs": _sentences(harmonized.get("repairs", ())),
        "conditions": records,
    }


class _Context:
    """The cells of one context, as rows of all cells."""

    def __init__(self, cells: anndata.AnnData, name: str):
        self.cells, self.name = cells, name
        self.rows = {condition: rows for condition, rows in rows_of(cells.obs).items() if condition.context == name}
        self.control = self.rows.pop(Condition(CONTROL, name))
        self.conditions = list(self.rows)
        # Of each cell the position of its condition; that of the control is -1, and of other contexts -2.
        self.condition_of = np.full(cells.n_obs, -2)
        self.condition_of[self.control] = -1
        for position, condition in enumerate(self.conditions):
            self.condition_of[self.rows[condition]] = position
        self.types = cells.obs["cell_type"].astype(str).to_numpy()
        self.batches = cells.obs["batch"].astype(str).to_numpy()

    def strata(self) -> tuple[np.ndarray, pd.MultiIndex]:
        """Find the cell type and batch of each cell: its position (-1 of other contexts), and all pairs."""
        here = self.condition_of > -2
        stratum = np.full(len(here), -1)
        stratum[here], pairs = pd.factorize(pd.MultiIndex.from_arrays([self.types[here], self.batches[here]]))
        return stratum, pairs

    def numbers(self, labels: np.ndarray) -> pd.DataFrame:
        """Count cells by condition and label [control and conditions x labels]; the control is row -1."""
        here = self.condition_of > -2
        return pd.crosstab(self.condition_of[here], labels[here])


def _compare_with_controls(
    context: _Context, perturbation_kind: str
) -> tuple[list[Record], np.ndarray, np.ndarray, np.ndarray, _Controls]:
    """Make the records of one context, with all that compares a condition with the controls alone.

    Returns
    -------
    records
    lengths : of the responses, NaN where one is unknown [conditions]
    shares : of the cell types of the controls [conditions x types]
    means : [conditions x genes]
    controls
    """
    cells, conditions = context.cells, context.conditions
    numbers = context.numbers(context.types).drop(-1)
    shares = numbers.div(numbers.sum(axis=1), axis=0)
    control = _Controls(context, list(shares.columns))
    records: list[Record] = []
    means, lengths = np.empty((len(conditions), cells.n_vars)), np.full(len(conditions), np.nan)
    at_once = max(1, SUMS_AT_ONCE // (BLOCKS * cells.n_vars))
    for start in range(0, len(conditions), at_once):
        group = _Perturbed(context, conditions[start : start + at_once])
        for position, condition in enumerate(group.conditions):
            record = {**dict.fromkeys(COLUMNS), **condition._asdict(), "n_cells": int(group.n_cells[position])}
            record |= {"targets": dict.fromkeys(condition.genes), "unknown": {}}
            weights, means[len(records)] = shares.loc[len(records)].to_numpy(), group.mean[position]
            if reason := _too_few(group, position, control, weights):
                _unknown(record, reason, *HALVED, *COMPARED)
            else:
                lengths[len(records)] = np.linalg.norm(group.mean[position] - control.mean(weights))
                _compare(record, group, position, control, weights, list(cells.var_names), perturbation_kind)
            records.append(record)
    return records, lengths, shares.to_numpy(), means, control


def _unknown(record: Record, reason: str, *names: str) -> None:
    """Leave values out, and say why; the first reason stays."""
    for name in names:
        record[name] = None
        record["unknown"].setdefault(name, reason)


def _median(records: Sequence[Record], name: str) -> float | None:
    known = [record[name] for record in records if record[name] is not None]
    return float(np.median(known)) if known else None


def _dominant_genes(harmonized: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    largest = harmonized.get("largest_shares_of_counts")
    if largest is None:
        return None
    pairs = zip(largest["gene"], largest["share"], strict=True)
    return [{"gene": str(gene), "share": float(share)} for gene, share in pairs if share > DOMINANT_SHARE]


def _sentences(texts: Iterable[str]) -> list[str]:
    return [str(text) for text in texts]


class _Controls:
    """Means and variances of the control cells of each cell type of a context, as a whole and by block."""

    def __init__(self, context: _Context, wanted: Sequence[str]):
        cells = context.cells
        group = np.full(cells.n_obs, -1)
        for number, cell_type in enumerate(wanted):
            of_type = context.control[context.types[context.control] == cell_type]
            drawn_for = *Condition(CONTROL, context.name).drawn_for, cell_type
            group[of_type] = number * BLOCKS + blocks_of_cells(cells.obs_names[of_type], *drawn_for)
        n_genes = cells.n_vars
        sums, squares, scaled = (np.zeros((len(wanted) * BLOCKS, n_genes)) for _ in range(3))
        for chunk, codes in _groups(cells, group):
            add_rows(sums, chunk, codes)
            add_rows(squares, chunk.power(2), codes)
            add_rows(scaled, chunk.expm1(), codes)
        n = np.bincount(group[group >= 0], minlength=len(sums)).astype(float)
        shape = (len(wanted), BLOCKS, n_genes)
        total = n.reshape(len(wanted), BLOCKS).sum(axis=1)[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            self._mean = sums.reshape(shape).sum(axis=1) / total
            self._blocks = sums.reshape(shape) / n.reshape(shape[:2])[:, :, None]
            # A block without a cell (few controls of a type) stands for the whole.
            self._blocks = np.where(np.isnan(self._blocks), self._mean[:, None], self._blocks)
            self._variance = (squares.reshape(shape).sum(axis=1) - total * self._mean**2) / np.maximum(total - 1, 1)
            self._scaled = scaled.reshape(shape).sum(axis=1) / total
        self._variance, self.n, self.types = np.maximum(self._variance, 0), total[:, 0], list(wanted)
        self._alike = _no_spread(self._variance, squares.reshape(shape).sum(axis=1) / np.maximum(total, 1))

    def too_few(self, weights: np.ndarray) -> str:
        """Return why cells of these shares of cell types cannot be compared with the controls; empty where they can."""
        for weight, number, cell_type, alike in zip(weights, self.n, self.types, self._alike, strict=True):
            of_type = f" of type {cell_type!r}" if len(self.types) > 1 else ""
            if (weight > RARE_TYPE and number < FEWEST_CONTROLS) or (weight > 0 and number == 0):
                return f"{_cells(int(number), 'control cell')}{of_type}, of {FEWEST_CONTROLS} at least"
            if weight > RARE_TYPE and alike:
                return f"all control cells{of_type} are alike"
        return ""

    def _matched(self, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        used = weights > 0
        return np.tensordot(weights[used], values[used], axes=1)

    def mean(self, weights: np.ndarray) -> np.ndarray:
        return self._matched(self._mean, weights)

    def scaled(self, weights: np.ndarray) -> np.ndarray:
        """Return the mean of scaled counts, not of their logarithms."""
        return self._matched(self._scaled, weights)

    def blocks(self, weights: np.ndarray) -> np.ndarray:
        return self._matched(self._blocks, weights)

    def variances(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the variance of a control cell, and of the matched mean of all of them."""
        used = weights > 0
        of_mean = self._variance[used] / self.n[used, None]
        return self._matched(self._variance, weights), np.tensordot(weights[used] ** 2, of_mean, axes=1)

    def effective_number(self, weights: np.ndarray) -> float:
        """Return the effective number of control cells behind the matched mean: 1 / sum of w^2 / n."""
        used = weights > 0
        return float(1 / (weights[used] ** 2 / self.n[used]).sum())


class _Perturbed:
    """Sums over the cells of some conditions of a context, by block."""

    def __init__(self, context: _Context, conditions: Sequence[Condition]):
        cells = context.cells
        self.conditions, self.group = list(conditions), np.full(cells.n_obs, -1)
        for number, condition in enumerate(conditions):
            own = context.rows[condition]
            self.group[own] = number * BLOCKS + blocks_of_cells(cells.obs_names[own], *condition.drawn_for)
        sums = np.zeros((len(conditions) * BLOCKS, cells.n_vars))
        squares = np.zeros((len(conditions), cells.n_vars))
        self.columns = _target_columns(conditions, cells.var_names)
        self.scaled = np.zeros(self.columns.shape)
        for chunk, codes in _groups(cells, self.group):
            condition = np.where(codes >= 0, codes // BLOCKS, -1)
            add_rows(sums, chunk, codes)
            add_rows(squares, chunk.power(2), condition)
            self._add_targets(chunk, condition)
        self.block_cells = np.bincount(self.group[self.group >= 0], minlength=len(sums)).reshape(-1, BLOCKS)
        self.n_cells = self.block_cells.sum(axis=1)
        self._sums = sums.reshape(len(conditions), BLOCKS, -1)
        self.mean = self._sums.sum(axis=1) / self.n_cells[:, None]
        excess = squares - self.n_cells[:, None] * self.mean**2
        self.variance = np.maximum(excess, 0) / np.maximum(self.n_cells - 1, 1)[:, None]
        self.alike = _no_spread(self.variance, squares / self.n_cells[:, None])

    def _add_targets(self, chunk: sparse.csr_matrix, condition: np.ndarray) -> None:
        of_entry = np.repeat(condition, np.diff(chunk.indptr))
        for column in range(self.columns.shape[1]):
            chosen = (of_entry >= 0) & (self.columns[of_entry, column] == chunk.indices)
            np.add.at(self.scaled[:, column], of_entry[chosen], np.expm1(chunk.data[chosen]))

    def deltas(self, position: int, control: np.ndarray) -> np.ndarray:
        """[blocks with cells x genes]: the mean of each block minus that of its block of the controls."""
        filled = self.block_cells[position] > 0
        return self._sums[position, filled] / self.block_cells[position, filled, None] - control[filled]


def _no_spread(variance: np.ndarray, mean_square: np.ndarray) -> np.ndarray:
    """Mask [groups]: no gene varies, up to rounding."""
    return (variance <= 1e-9 * mean_square).all(axis=1)


def _groups(cells: anndata.AnnData, group: np.ndarray) -> Iterable[tuple[sparse.csr_matrix, np.ndarray]]:
    for start, chunk in row_chunks(cells.X, read=group >= 0):
        chunk = sparse.csr_matrix(chunk, dtype=np.float64)
        yield chunk, group[start : start + chunk.shape[0]]


def _target_columns(conditions: Sequence[Condition], genes: pd.Index) -> np.ndarray:
    """[conditions x most targets of one]: the gene of each target, -1 where it was not measured."""
    found = [genes.get_indexer(condition.genes) for condition in conditions]
    columns = np.full((len(conditions), max(map(len, found))), -1)
    for row, of_name in zip(columns, found, strict=True):
        row[: len(of_name)] = of_name
    return columns


def _halves(n: int) -> np.ndarray:
    """Every way to split ``n`` in halves (the first rounded down), one of each mirrored pair: masks [ways x n]."""
    chosen = [half for half in combinations(range(n), n // 2) if n % 2 or 0 in half]
    masks = np.zeros((len(chosen), n))
    masks[np.arange(len(chosen))[:, None], chosen] = 1
    return masks


def split_half(products: np.ndarray, n_cells: np.ndarray) -> float:
    """Return the mean correlation of two halves of the blocks over all ways to halve them.

    Parameters
    ----------
    products
        [blocks x blocks]: inner products of the blocks' deltas, each centred over genes.
    n_cells
        [blocks]: by which a block counts in its half.
    """
    masks = _halves(len(n_cells))
    first, second = masks * n_cells, (1 - masks) * n_cells
    across = np.einsum("wi,ij,wj->w", first, products, second)
    within = [np.einsum("wi,ij,wj->w", half, products, half) for half in (first, second)]
    size = np.sqrt(np.maximum(within[0] * within[1], 0))
    return float(np.mean(np.divide(across, size, out=np.zeros_like(across), where=size > 0)))


def _reliability(deltas: np.ndarray, block_cells: np.ndarray) -> dict[str, float]:
    n_cells = block_cells[block_cells > 0].astype(float)
    k = len(n_cells)  # FEWEST_HALVED at least
    centred = deltas - deltas.mean(axis=1, keepdims=True)
    products = centred @ centred.T
    value = split_half(products, n_cells)
    rest = [np.delete(np.arange(k), left_out) for left_out in range(k)]
    replicates = np.arctanh(_inside([split_half(products[np.ix_(r, r)], n_cells[r]) for r in rest]))
    error = np.sqrt((k - 1) / k * np.square(replicates - replicates.mean()).sum())
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, k - 1) * error
    low, high = np.tanh(np.arctanh(_inside(value)) + np.array([-reach, reach]))
    return {"reliability": value, "reliability_low": float(low), "reliability_high": float(high)}


def _inside(correlation: float | Sequence[float]) -> np.ndarray:
    return np.clip(correlation, -1 + 1e-9, 1 - 1e-9)


def _too_few(group: _Perturbed, position: int, control: _Controls, weights: np.ndarray) -> str:
    """Why a condition cannot be compared with the controls; empty where it can."""
    n_cells = int(group.n_cells[position])
    if n_cells < FEWEST:
        return f"{_cells(n_cells)}, of {FEWEST} at least"
    return "all its cells are alike" if group.alike[position] else control.too_few(weights)


def _cells(number: int, noun: str = "cell") -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _compare(
    record: Record,
    group: _Perturbed,
    position: int,
    control: _Controls,
    weights: np.ndarray,
    genes: Sequence[str],
    perturbation_kind: str,
) -> None:
    """Fill in what compares a condition's cells with the controls alone."""
    if record["n_cells"] < FEWEST_HALVED:
        _unknown(record, f"{_cells(record['n_cells'])}, of {FEWEST_HALVED} at least to halve them", *HALVED)
    else:
        record |= _reliability(group.deltas(position, control.blocks(weights)), group.block_cells[position])
    n, (of_cell, of_mean) = record["n_cells"], control.variances(weights)
    change = group.mean[position] - control.mean(weights)
    error = np.sqrt(np.maximum(group.variance[position], of_cell) / n + of_mean)
    freedom = max(min(n, control.effective_number(weights)) - 1, 1)
    statistic = np.divide(change, error, out=np.zeros_like(change), where=error > 0)
    p_values = 2 * stats.t.sf(np.abs(statistic[error > 0]), freedom)
    found = stats.false_discovery_control(p_values) <= FALSE_DISCOVERY_RATE if len(p_values) else np.zeros(0)
    record["n_de_genes"] = int(found.sum())

    columns = group.columns[position][group.columns[position] >= 0]
    level, total = control.scaled(weights)[columns], group.scaled[position][group.columns[position] >= 0]
    for column, before, after in zip(columns, level, total, strict=True):
        if before > 0:
            record["targets"][genes[column]] = float(np.log2((after + before) / ((n + 1) * before)))
    changes = [value for value in record["targets"].values() if value is not None]
    if changes:
        record["target_log_fold_change"] = min(changes, key=abs)
    else:
        why = "no control cell expresses its target" if len(columns) else "its target is not measured"
        _unknown(record, why, "target_log_fold_change")
    tested = columns[error[columns] > 0]
    if perturbation_kind == "mixed" or not len(tested):
        why = "targets may go either way" if perturbation_kind == "mixed" else "no cell expresses its target"
        why = why if len(columns) else "its target is not measured"
        _unknown(record, why, "target_wrong_way_p_value", "target_wrong_way")
    else:
        wrong = -statistic[tested] if perturbation_kind == "activation" else statistic[tested]
        record["target_wrong_way_p_value"] = stats.t.sf(wrong, freedom)  # one for each target, until corrected


def _correct_wrong_ways(records: Sequence[Record]) -> int:
    """One corrected p-value for each condition; how many targets were tested."""
    tested = [record for record in records if record["target_wrong_way_p_value"] is not None]
    p_values = np.concatenate([record["target_wrong_way_p_value"] for record in tested] or [np.zeros(0)])
    corrected = iter(stats.false_discovery_control(p_values) if len(p_values) else ())
    for record in tested:
        smallest = min(float(next(corrected)) for _ in record["target_wrong_way_p_value"])
        record |= {"target_wrong_way_p_value": smallest, "target_wrong_way": smallest <= FALSE_DISCOVERY_RATE}
    return len(p_values)


def _compare_with_others(
    records: Sequence[Record], shares: np.ndarray, means: np.ndarray, control: _Controls
) -> tuple[np.ndarray, str]:
    """Fill in ``shared_response``.

    Returns
    -------
    correlations : :func:`_shared_control_noise`, none where too few conditions can be compared
    reason : why there is none; empty where there are some
    """
    compared = [row for row, record in enumerate(records) if "n_de_genes" not in record["unknown"]]
    if len(compared) < FEWEST:
        noun = noun_of(pd.DataFrame(records, columns=COLUMNS))
        why = f"{_cells(len(compared), noun)} to compare with one another, of {FEWEST} at least"
        for record in records:
            _unknown(record, why, "shared_response")
        return np.empty((0, 2)), why
    means, shares = means[compared], shares[compared]
    for row, cosine in zip(compared, _shared_responses(means, shares, control), strict=True):
        records[row]["shared_response"] = cosine
    return _shared_control_noise(means, shares, control), ""


def _shared_responses(means: np.ndarray, shares: np.ndarray, control: _Controls) -> list[float]:
    first, second = means.copy(), means.copy()
    for row, weights in enumerate(shares):
        blocks = control.blocks(weights)
        first[row] -= blocks[: BLOCKS // 2].mean(axis=0)
        second[row] -= blocks[BLOCKS // 2 :].mean(axis=0)
    total = second.sum(axis=0)
    cosines = []
    for own, other in zip(first, second, strict=True):
        rest = (total - other) / (len(means) - 1)
        size = np.linalg.norm(own) * np.linalg.norm(rest)
        cosines.append(float(own @ rest / size) if size > 0 else 0.0)
    return cosines


def _shared_control_noise(means: np.ndarray, shares: np.ndarray, control: _Controls) -> np.ndarray:
    """Correlate each delta with the mean of the others, by the same and by disjoint controls [conditions x 2]."""

    def by_block(position: int) -> np.ndarray:
        """[blocks x genes]: the delta against each block of the controls, centred over genes."""
        deltas = means[position] - control.blocks(shares[position])
        return deltas - deltas.mean(axis=1, keepdims=True)

    total = sum(map(by_block, range(len(means))))
    correlations = np.zeros((len(means), 2))
    different = ~np.eye(BLOCKS, dtype=bool)
    for position in range(len(means)):
        own = by_block(position)
        rest = total - own
        products = own @ rest.T
        size = np.linalg.norm(own.mean(axis=0)) * np.linalg.norm(rest.mean(axis=0))
        if size > 0:
            correlations[position] = products.mean() / size, products[different].mean() / size
    return correlations


def _compare_batches(records: Sequence[Record], context: _Context, lengths: np.ndarray) -> None:
    """Fill in ``n_batches``, ``batch_distance``, ``batch_shift`` and ``confounded``."""
    counts = context.numbers(context.batches)
    spread = counts.div(counts.sum(axis=1), axis=0)
    for position, (record, shift) in enumerate(zip(records, _batch_shifts(context, lengths), strict=True)):
        record["n_batches"] = int((counts.loc[position] > 0).sum())
        if counts.shape[1] == 1:
            why = "no batch is stated" if counts.columns[0] == UNSTATED else "a single batch"
            _unknown(record, why, "batch_distance", "batch_shift", "confounded")
        if "batch_distance" not in record["unknown"]:
            record["batch_distance"] = float(0.5 * (spread.loc[position] - spread.loc[-1]).abs().sum())
        if np.isnan(shift):
            why = f"no batch of its cells has {FEWEST_CONTROLS} controls of their type"
            _unknown(record, why, "batch_shift", "confounded")
        if "batch_shift" not in record["unknown"]:
            record |= {"batch_shift": shift, "confounded": shift > BATCH_SHIFT}


def _compare_counts(records: Sequence[Record], context: _Context, n_intervals: int) -> None:
    """Fill in ``OF_COUNTS``: counts per cell against those of the controls of the same batches and cell types.

    ``n_intervals`` hold together with ``CONFIDENCE``.
    """
    cells = context.cells
    if "n_counts" not in cells.obs:
        logs = cells.uns.get("harmonized", {}).get("values") == "log1p"
        why = "the file holds log values, no counts" if logs else "cells.h5ad has no obs['n_counts']"
        for record in records:
            _unknown(record, why, *OF_COUNTS)
        return
    counts = cells.obs["n_counts"].to_numpy(dtype=np.float64)
    stratum, strata = context.strata()
    of_control = pd.Series(counts[context.control]).groupby(stratum[context.control])
    of_control = of_control.agg(["size", "mean", "var"]).reindex(range(len(strata)))
    n_control, mean_control, variance_control = of_control.fillna(0).to_numpy().T
    for record, rows in zip(records, context.rows.values(), strict=True):
        rows = rows[n_control[stratum[rows]] >= FEWEST]
        if len(rows) < FEWEST:
            why = f"{_cells(len(rows))} in a batch with {FEWEST} controls of the same type, of {FEWEST} at least"
            _unknown(record, why, *OF_COUNTS)
            continue
        own, weights = counts[rows], np.bincount(stratum[rows], minlength=len(strata)) / len(rows)
        used = weights > 0
        expected = weights @ mean_control
        # Squared errors of the logarithms of both means: the own one, and the parts of each batch and type.
        parts = [own.var(ddof=1) / len(rows) / own.mean() ** 2]
        parts += list(weights[used] ** 2 * variance_control[used] / n_control[used] / expected**2)
        squared = sum(parts)
        if parts[0] == 0:
            _unknown(record, "all its cells have the same counts", *OF_COUNTS)
            continue
        within = [part**2 / (n - 1) for part, n in zip(parts, [len(rows), *n_control[used]], strict=True)]
        freedom, tail = squared**2 / sum(within), (1 - CONFIDENCE) / 2 / n_intervals
        reach = stats.t.isf(tail, freedom) * np.sqrt(squared)
        ratio = own.mean() / expected
        low, high = ratio * np.exp([-reach, reach])
        record |= {"counts_ratio": float(ratio), "counts_ratio_low": float(low), "counts_ratio_high": float(high)}
        record["counts_differ"] = bool(low > 1 + COUNTS_CHANGE or high < 1 - COUNTS_CHANGE)


def _batch_shifts(context: _Context, lengths: np.ndarray) -> list[float]:
    """``batch_shift`` of every condition of a context; ``lengths`` are those of their responses."""
    cells, (stratum, strata) = context.cells, context.strata()
    type_of, group = strata.get_level_values(0), np.full(context.cells.n_obs, -1)
    for number, (cell_type, batch) in enumerate(strata):
        own = context.control[stratum[context.control] == number]
        drawn_for = *Condition(CONTROL, context.name).drawn_for, cell_type, batch
        group[own] = 2 * number + blocks_of_cells(cells.obs_names[own], *drawn_for) % 2
    sums = np.zeros((2 * len(strata), cells.n_vars))
    for chunk, codes in _groups(cells, group):
        add_rows(sums, chunk, codes)
    sums = sums.reshape(len(strata), 2, -1)
    n = np.bincount(group[group >= 0], minlength=2 * len(strata)).reshape(len(strata), 2, 1)
    known = n.sum(axis=(1, 2)) >= FEWEST_CONTROLS
    from_mean = np.zeros_like(sums)  # batch mean minus that of its cell type, by half
    for cell_type in type_of[known].unique():
        here = known & (type_of == cell_type)
        from_mean[here] = sums[here] / n[here] - sums[here].sum(axis=0) / n[here].sum(axis=0)
    n_cells = context.numbers(stratum).drop(-1)
    shifts = []
    for weights, length in zip(n_cells.to_numpy(dtype=float), lengths, strict=True):
        first, second = np.tensordot(weights / weights.sum(), from_mean, axes=1)
        defined = weights[known].any() and length > 0
        shifts.append(float(np.sqrt(max(first @ second, 0)) / length) if defined else np.nan)
    return shifts


def _problems(
    records: Sequence[Record],
    dominant: Sequence[Mapping[str, Any]] | None,
    unknown: Mapping[str, str],
    perturbation_kind: str,
    n_targets: int,
) -> tuple[list[str], list[str]]:
    """List problems and notes, as sentences."""
    if not records:
        return ["no perturbed cell: nothing can be learned from these cells, and nothing scored on them"], []
    table = pd.DataFrame(records, columns=COLUMNS)
    labels, noun = labels_of(table), noun_of(table)
    problems, notes = _of_few(table, unknown), []

    def some(chosen: pd.Series) -> str:
        return _some(labels[chosen], len(table), noun) if chosen.any() else ""

    if found := some(table["reliable"] == False):  # noqa: E712 (None is unknown)
        problems.append(f"{found} of unreliable response: two halves of their cells do not agree")
    if found := some(table["target_wrong_way"] == True):  # noqa: E712
        way = "down" if perturbation_kind == "activation" else "up"
        test = f"one-sided Welch test, false discovery rate {100 * FALSE_DISCOVERY_RATE:.0f} % over {n_targets} targets"
        if perturbation_kind == "knock-out":
            notes.append(f"{found} whose target goes {way} ({test}): a knock-out need not lower the transcript")
        else:
            problems.append(f"{found} whose target goes {way} ({test})")
    for gene in dominant or ():
        problems.append(
            f"{gene['gene']} has {100 * gene['share']:.0f} % of all counts: values are shares of a cell's counts, so "
            "that where it changes, all other genes seem to change the other way"
        )
    differ = table[table["counts_differ"] == True]  # noqa: E712
    if len(differ):
        names = [
            f"{name} x {ratio:.2f}" for name, ratio in zip(labels[differ.index], differ["counts_ratio"], strict=True)
        ]
        problems.append(
            f"{_some(names, len(table), noun)} whose counts per cell differ by more than {100 * COUNTS_CHANGE:.0f} % "
            "from those of controls of the same batches and cell types: changes of other genes may be of composition, "
            "since values are shares of a cell's counts"
        )
    if found := some(table["batch_distance"].astype(float) > ELSEWHERE):
        problems.append(f"{found} mostly in other batches than the controls: confounded")
    if found := some(table["confounded"] == True):  # noqa: E712
        problems.append(
            f"{found} whose response takes in a difference between batches: matching controls by batch too would move "
            f"their mean by more than {100 * BATCH_SHIFT:.0f} % of its length"
        )
    return problems, notes


def _of_few(table: pd.DataFrame, unknown: Mapping[str, str]) -> list[str]:
    """List what is unknown because cells, controls or conditions are few: one sentence per reason."""
    problems = []
    no_response = table["unknown"].map(lambda why: why.get("n_de_genes", ""))
    not_halved = table["unknown"].map(lambda why: why.get("reliability", "")).where(no_response == "", "")
    for what, reasons in {"response": no_response, "reliability": not_halved}.items():
        for reason in dict.fromkeys(reasons[reasons != ""]):
            found = _some(labels_of(table)[reasons == reason], len(table), noun_of(table))
            problems.append(f"{found} of unknown {what}: {reason}")
    if "shared_control_noise" in unknown:
        problems.append(
            f"response that all share, and noise of the control mean, unknown: {unknown['shared_control_noise']}"
        )
    return problems


def _some(names: Iterable[str], total: int, noun: str) -> str:
    names = list(names)
    return f"{len(names)} of {total} {noun}s ({first_names(names)})"


def reliability_of(card: Mapping[str, Any]) -> pd.Series:
    """Read the split-half reliability of every condition of ``card.json``, indexed by their labels."""
    table = pd.DataFrame(card["conditions"], columns=COLUMNS)
    return table.set_index(labels_of(table))["reliability"].astype(float).rename("split-half reliability")


def leakage_notes(splits: dict[str, pd.DataFrame]) -> list[str]:
    """List what test conditions may share with the training data, by name: sentences.

    Parameters
    ----------
    splits
        ``split.tsv`` by the name of the split.
    """
    notes = [
        "Truth and input have different control cells; published metrics subtract those of the input on both sides."
    ]
    for split, table in splits.items():
        train, test = (conditions_of(table, role) for role in ("train", "test"))
        trained = {gene for condition in train for gene in condition.genes}
        seen = [condition.label for condition in test if trained & set(condition.genes)]
        if seen:
            notes.append(f"{split}: {_some(seen, len(test), noun_of(table))} have a gene that training perturbs too.")
        families = {family(gene) for gene in trained}
        tested = {gene for condition in test for gene in condition.genes} - trained
        related = sorted(gene for gene in tested if family(gene) in families)
        if related:
            found = f"{split}: training perturbs genes of the same name but for the last number or letter"
            notes.append(f"{found}: {first_names(related, shown=8)}.")
    return notes


def split_notes(card: Mapping[str, Any], splits: Mapping[str, pd.DataFrame], minimum_cells: int) -> list[str]:
    """Name conditions that a split leaves out, and those that a fixed one judges by few cells: sentences.

    Parameters
    ----------
    card, splits
        ``card.json``, and ``split.tsv`` by the name of the split.
    minimum_cells
        Cells below which a split that is dealt here neither tests nor validates a condition.
    """
    n_cells = {Condition(row["perturbation"], row["context"]): row["n_cells"] for row in card["conditions"]}
    noun = noun_of(pd.DataFrame(card["conditions"], columns=COLUMNS))
    notes = []
    for split, table in splits.items():
        used, train = conditions_of(table), set(conditions_of(table, "train"))
        left_out = [condition.label for condition in n_cells if condition not in set(used)]
        if left_out:
            notes.append(
                f"{split}: {_some(left_out, len(n_cells), noun)} are not used: its file does not name them, they would "
                f"be judged by fewer than {minimum_cells} cells (splits.minimum_cells), or both context and "
                "perturbation are to be unseen (splits.contexts)."
            )
        few = [name.label for name in used if name not in train and n_cells[name] < minimum_cells]
        if few:
            notes.append(
                f"{split}: {_some(few, len(used), noun)} are tested or choose a model, as its file says, on fewer than "
                f"{minimum_cells} cells (splits.minimum_cells): what is measured of them is mostly noise."
            )
    return notes


def family(gene: str) -> str:
    """Find the stem of a symbol that paralogs by name share: CEBPA and CEBPB, STAT1 and STAT5A, FOXA1 and FOXA3."""
    stem = gene.upper().rstrip("0123456789")
    if len(stem) == len(gene) or (stem and stem[-1].isdigit()):
        stem = stem[:-1].rstrip("0123456789") if len(stem) > 3 else stem
    return stem or gene.upper()
