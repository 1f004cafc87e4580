"""How good the data are, before any model: what ``card.json`` says of a data set and of each of its perturbations.

Cells are read by chunks; memory grows with perturbations and genes, not with cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse, stats

from scgpt_bench.data.names import CONTROL, JOINED_BY, genes_of
from scgpt_bench.data.on_disk import add_rows, row_chunks
from scgpt_bench.seeding import random_generator

BLOCKS = 10
SUMS_AT_ONCE = 2**26  # float64 values: 512 MiB of sums per block in one pass over the cells
FALSE_DISCOVERY_RATE = 0.05
ELSEWHERE = 0.5  # share of a perturbation's cells in other batches than the controls that is worth a warning
# Share of a response's length that is worth a warning. Who predicts nothing but the shift scores about so much in
# pearson_delta; in 40 simulated responses that share nothing else, 0.24 for all of them lifted train-mean by 0.13.
BATCH_SHIFT = 0.2


def data_card(
    cells: anndata.AnnData, *, dataset: str, perturbation_kind: str, minimum_reliability: float
) -> dict[str, Any]:
    """The content of ``card.json``.

    The cells of every perturbation, and the control cells of every cell type, are dealt into ``BLOCKS`` blocks by
    their names. All of what follows comes from the blocks' means of log1p expression.

    - ``reliability``: Pearson correlation between the deltas of two halves of the cells, each compared with its own
      half of the controls (else noise of the controls, which both share, would look like a response); mean over all
      ways to split the blocks in two; the interval (95 %) is the jackknife over blocks, on Fisher's scale.
      ``reliable``: it is at least ``minimum_reliability``.
    - ``target_log_fold_change``: log2 of the target's mean expression (of scaled counts) over that of the controls. One
      average control cell is added to the perturbation's, so that a target without a count is no minus infinity. Of a
      combination, the target that changed least; ``targets`` holds all.
    - ``n_de_genes``: genes whose mean differs from the matched control mean: Welch test, Benjamini-Hochberg at 5 %. The
      variance of the perturbed cells is never taken to be below that of the controls, since a gene without a count in
      few cells would have none.
    - ``shared_response``: cosine between the delta and the mean delta of all other perturbations, against the other
      half of the controls: what a method gets right that tells no perturbation from another (Systema, Viñas Torné et
      al. 2025).
    - ``batch_distance``: share of the cells that would have to change batch to be spread over batches as the controls
      are.
    - ``batch_shift``: how far the control mean would move if controls were matched by batch as well as by cell type, as
      a share of the length of the response (Euclidean norms). Its square is the product of the shifts of two halves of
      the controls, so that their noise adds nothing; nor do cells whose batch has fewer than two controls of their type
      (None where all are such). ``confounded``: it is more than ``BATCH_SHIFT``.
    - ``shared_control_noise``: mean over perturbations of the Pearson correlation between the delta and the mean delta
      of all others. ``same_controls``: both against the mean of all controls, as in the scores. ``disjoint_controls``:
      as if either side had as many controls of its own; its covariance is the mean over all pairs of different blocks
      of the controls, one for either side. The difference is noise of the control mean, which is in every delta; of a
      cell type with fewer than ``BLOCKS`` controls it shows a part.

    Parameters
    ----------
    cells
        ``cells.h5ad``; X may stay on disk.
    perturbation_kind
        Which way targets go: ``activation`` up, ``mixed`` unknown, anything else down.

    Returns
    -------
    Plain values, None where something is not defined: ``perturbations`` is a list of records sorted by name;
    ``problems`` and ``repairs`` are sentences.
    """
    labels = cells.obs["perturbation"].astype(str).to_numpy()
    types = cells.obs["cell_type"].astype(str).to_numpy()
    rows_of = cells.obs.groupby(labels).indices
    perturbations = sorted(set(labels) - {CONTROL})
    shares = pd.crosstab(labels, types).loc[perturbations]
    shares = shares.div(shares.sum(axis=1), axis=0)
    control = _Controls(cells, labels, types, list(shares.columns))
    rows, means = [], np.empty((len(perturbations), cells.n_vars))
    lengths = np.empty(len(perturbations))  # of the responses
    at_once = max(1, SUMS_AT_ONCE // (BLOCKS * cells.n_vars))
    for start in range(0, len(perturbations), at_once):
        names = perturbations[start : start + at_once]
        group = _Perturbed(cells, rows_of, names)
        for position, name in enumerate(names):
            weights = shares.loc[name].to_numpy()
            means[start + position] = group.mean[position]
            lengths[start + position] = np.linalg.norm(group.mean[position] - control.mean(weights))
            rows.append(
                {
                    "perturbation": name,
                    "n_cells": int(group.n_cells[position]),
                    **_reliability(group.deltas(position, control.blocks(weights)), group.block_cells[position]),
                    **_targets(group, position, name, control, weights, list(cells.var_names)),
                    "n_de_genes": _n_de_genes(group, position, control, weights),
                }
            )
    table = pd.DataFrame(rows)
    table["shared_response"] = _shared_responses(means, shares.to_numpy(), control)
    batches = cells.obs["batch"].astype(str).to_numpy()
    table = table.join(_batches(batches, labels), on="perturbation")
    table["batch_shift"] = _batch_shifts(cells, labels, types, batches, lengths)
    table["confounded"] = table["batch_shift"] > BATCH_SHIFT
    table["reliable"] = table["reliability"] >= minimum_reliability
    harmonized = cells.uns.get("harmonized", {})
    return {
        "dataset": dataset,
        "n_cells": cells.n_obs,
        "n_genes": cells.n_vars,
        "n_controls": int((labels == CONTROL).sum()),
        "n_perturbations": len(perturbations),
        "n_combinations": sum(JOINED_BY in name for name in perturbations),
        "n_batches": int(cells.obs["batch"].nunique()),
        "n_cell_types": int(cells.obs["cell_type"].nunique()),
        "minimum_reliability": minimum_reliability,
        "n_reliable": int(table["reliable"].sum()),
        "median_reliability": float(table["reliability"].median()),
        "median_shared_response": float(table["shared_response"].median()),
        "shared_control_noise": _shared_control_noise(means, shares.to_numpy(), control),
        "values_evidence": str(harmonized.get("values_evidence", "")),
        "dropped_perturbations": _sentences(harmonized.get("dropped_perturbations", ())),
        "problems": _sentences(harmonized.get("problems", ())) + _problems(table, perturbation_kind),
        "repairs": _sentences(harmonized.get("repairs", ())),
        "perturbations": table.astype(object).where(table.notna(), None).to_dict("records"),
    }


def _sentences(texts: Iterable[str]) -> list[str]:
    return [str(text) for text in texts]


def blocks_of_cells(names: Sequence[str], *draw: str) -> np.ndarray:
    """The block of each cell, dealt at random by the names of the cells: neither order nor other cells matter."""
    order = np.argsort(np.asarray(names, dtype=str))
    block = np.empty(len(order), dtype=np.int64)
    block[order[random_generator(0, "blocks", *draw).permutation(len(order))]] = np.arange(len(order)) % BLOCKS
    return block


class _Controls:
    """Means and variances of the control cells of each cell type, as a whole and by block."""

    def __init__(self, cells: anndata.AnnData, labels: np.ndarray, types: np.ndarray, wanted: Sequence[str]):
        group = np.full(cells.n_obs, -1)
        for number, cell_type in enumerate(wanted):
            of_type = np.flatnonzero((labels == CONTROL) & (types == cell_type))
            group[of_type] = number * BLOCKS + blocks_of_cells(cells.obs_names[of_type], CONTROL, cell_type)
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
        self._variance, self._n = np.maximum(self._variance, 0), total[:, 0]

    def _matched(self, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        used = weights > 0
        return np.tensordot(weights[used], values[used], axes=1)

    def mean(self, weights: np.ndarray) -> np.ndarray:
        return self._matched(self._mean, weights)

    def scaled(self, weights: np.ndarray) -> np.ndarray:
        """Mean of scaled counts, not of their logarithms."""
        return self._matched(self._scaled, weights)

    def blocks(self, weights: np.ndarray) -> np.ndarray:
        return self._matched(self._blocks, weights)

    def variances(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of a control cell, and of the matched mean of all of them."""
        used = weights > 0
        of_mean = self._variance[used] / self._n[used, None]
        return self._matched(self._variance, weights), np.tensordot(weights[used] ** 2, of_mean, axes=1)


class _Perturbed:
    """Sums over the cells of some perturbations, by block."""

    def __init__(self, cells: anndata.AnnData, rows_of: Mapping[str, np.ndarray], names: Sequence[str]):
        self.group = np.full(cells.n_obs, -1)
        for number, name in enumerate(names):
            of_name = rows_of[name]
            self.group[of_name] = number * BLOCKS + blocks_of_cells(cells.obs_names[of_name], name)
        sums = np.zeros((len(names) * BLOCKS, cells.n_vars))
        squares = np.zeros((len(names), cells.n_vars))
        self.columns = _target_columns(names, cells.var_names)
        self.scaled = np.zeros(self.columns.shape)
        for chunk, codes in _groups(cells, self.group):
            perturbation = np.where(codes >= 0, codes // BLOCKS, -1)
            add_rows(sums, chunk, codes)
            add_rows(squares, chunk.power(2), perturbation)
            self._add_targets(chunk, perturbation)
        self.block_cells = np.bincount(self.group[self.group >= 0], minlength=len(sums)).reshape(-1, BLOCKS)
        self.n_cells = self.block_cells.sum(axis=1)
        self._sums = sums.reshape(len(names), BLOCKS, -1)
        self.mean = self._sums.sum(axis=1) / self.n_cells[:, None]
        excess = squares - self.n_cells[:, None] * self.mean**2
        self.variance = np.maximum(excess, 0) / np.maximum(self.n_cells - 1, 1)[:, None]

    def _add_targets(self, chunk: sparse.csr_matrix, perturbation: np.ndarray) -> None:
        of_entry = np.repeat(perturbation, np.diff(chunk.indptr))
        for column in range(self.columns.shape[1]):
            chosen = (of_entry >= 0) & (self.columns[of_entry, column] == chunk.indices)
            np.add.at(self.scaled[:, column], of_entry[chosen], np.expm1(chunk.data[chosen]))

    def deltas(self, position: int, control: np.ndarray) -> np.ndarray:
        """[blocks with cells x genes]: the mean of each block minus that of its block of the controls."""
        filled = self.block_cells[position] > 0
        return self._sums[position, filled] / self.block_cells[position, filled, None] - control[filled]


def _groups(cells: anndata.AnnData, group: np.ndarray) -> Iterable[tuple[sparse.csr_matrix, np.ndarray]]:
    for start, chunk in row_chunks(cells.X, read=group >= 0):
        chunk = sparse.csr_matrix(chunk, dtype=np.float64)
        yield chunk, group[start : start + chunk.shape[0]]


def _target_columns(names: Sequence[str], genes: pd.Index) -> np.ndarray:
    """[perturbations x most targets of one]: the gene of each target, -1 where it was not measured."""
    found = [genes.get_indexer(genes_of(name)) for name in names]
    columns = np.full((len(names), max(map(len, found))), -1)
    for row, of_name in zip(columns, found, strict=True):
        row[: len(of_name)] = of_name
    return columns


def _halves(n: int) -> np.ndarray:
    """Every way to split ``n`` in halves (the first rounded down), one of each mirrored pair: masks [ways x n]."""
    chosen = [half for half in combinations(range(n), n // 2) if n % 2 or 0 in half]
    masks = np.zeros((len(chosen), n))
    masks[np.arange(len(chosen))[:, None], chosen] = 1
    return masks


def split_half(deltas: np.ndarray, n_cells: np.ndarray) -> float:
    """Mean correlation of the two halves of ``deltas`` [blocks x genes], weighted by their cells, over all ways."""
    centred = deltas - deltas.mean(axis=1, keepdims=True)
    return _mean_correlation(centred @ centred.T, n_cells)


def _mean_correlation(products: np.ndarray, n_cells: np.ndarray) -> float:
    masks = _halves(len(n_cells))
    first, second = masks * n_cells, (1 - masks) * n_cells
    across = np.einsum("wi,ij,wj->w", first, products, second)
    within = [np.einsum("wi,ij,wj->w", half, products, half) for half in (first, second)]
    size = np.sqrt(np.maximum(within[0] * within[1], 0))
    return float(np.mean(np.divide(across, size, out=np.zeros_like(across), where=size > 0)))


def _reliability(deltas: np.ndarray, block_cells: np.ndarray) -> dict[str, float]:
    n_cells = block_cells[block_cells > 0].astype(float)
    k = len(n_cells)
    if k < 4:  # too few to leave one out and still have two halves of more than one
        value = split_half(deltas, n_cells) if k > 1 else np.nan
        return {"reliability": value, "reliability_low": np.nan, "reliability_high": np.nan}
    centred = deltas - deltas.mean(axis=1, keepdims=True)
    products = centred @ centred.T
    value = _mean_correlation(products, n_cells)
    rest = [np.delete(np.arange(k), left_out) for left_out in range(k)]
    replicates = np.arctanh(_inside([_mean_correlation(products[np.ix_(r, r)], n_cells[r]) for r in rest]))
    error = np.sqrt((k - 1) / k * np.square(replicates - replicates.mean()).sum())
    reach = stats.t.ppf(0.975, k - 1) * error
    low, high = np.tanh(np.arctanh(_inside(value)) + np.array([-reach, reach]))
    return {"reliability": value, "reliability_low": float(low), "reliability_high": float(high)}


def _inside(correlation: float | Sequence[float]) -> np.ndarray:
    return np.clip(correlation, -1 + 1e-9, 1 - 1e-9)


def _targets(
    group: _Perturbed, position: int, name: str, control: _Controls, weights: np.ndarray, genes: Sequence[str]
) -> dict[str, Any]:
    level, changes = control.scaled(weights), dict.fromkeys(genes_of(name))
    n = group.n_cells[position]
    for column, total in zip(group.columns[position], group.scaled[position], strict=True):
        if column >= 0 and level[column] > 0:
            changes[genes[column]] = float(np.log2((total + level[column]) / ((n + 1) * level[column])))
    measured = [change for change in changes.values() if change is not None]
    return {"target_log_fold_change": min(measured, key=abs, default=None), "targets": changes}


def _n_de_genes(group: _Perturbed, position: int, control: _Controls, weights: np.ndarray) -> int:
    n = group.n_cells[position]
    of_cell, of_mean = control.variances(weights)
    error = np.sqrt(np.maximum(group.variance[position], of_cell) / n + of_mean)
    change = np.abs(group.mean[position] - control.mean(weights))
    measurable = error > 0
    p_values = 2 * stats.t.sf(change[measurable] / error[measurable], max(n - 1, 1))
    return int((stats.false_discovery_control(p_values) <= FALSE_DISCOVERY_RATE).sum()) if len(p_values) else 0


def _shared_responses(means: np.ndarray, shares: np.ndarray, control: _Controls) -> list[float]:
    if len(means) < 2:
        return [np.nan] * len(means)
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


def _shared_control_noise(means: np.ndarray, shares: np.ndarray, control: _Controls) -> dict[str, float | None]:
    """See :func:`data_card`; None where no perturbation has another one."""
    if len(means) < 2:
        return {"same_controls": None, "disjoint_controls": None}

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
    same, disjoint = correlations.mean(axis=0)
    return {"same_controls": float(same), "disjoint_controls": float(disjoint)}


def _batches(batches: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    counts = pd.crosstab(labels, batches)
    spread = counts.div(counts.sum(axis=1), axis=0)
    perturbed = counts.index != CONTROL
    distance = 0.5 * (spread[perturbed] - spread.loc[CONTROL]).abs().sum(axis=1)
    return pd.DataFrame({"n_batches": (counts[perturbed] > 0).sum(axis=1), "batch_distance": distance})


def _batch_shifts(
    cells: anndata.AnnData, labels: np.ndarray, types: np.ndarray, batches: np.ndarray, lengths: np.ndarray
) -> list[float]:
    """``batch_shift`` of every perturbation, sorted by name; ``lengths`` are those of their responses."""
    stratum, strata = pd.factorize(pd.MultiIndex.from_arrays([types, batches]))
    type_of, group = strata.get_level_values(0), np.full(cells.n_obs, -1)
    for number, (cell_type, batch) in enumerate(strata):
        own = np.flatnonzero((labels == CONTROL) & (stratum == number))
        group[own] = 2 * number + blocks_of_cells(cells.obs_names[own], CONTROL, cell_type, batch) % 2
    sums = np.zeros((2 * len(strata), cells.n_vars))
    for chunk, codes in _groups(cells, group):
        add_rows(sums, chunk, codes)
    sums = sums.reshape(len(strata), 2, -1)
    n = np.bincount(group[group >= 0], minlength=2 * len(strata)).reshape(len(strata), 2, 1)
    known, from_mean = (n > 0).all(axis=(1, 2)), np.zeros_like(sums)  # batch mean minus that of its cell type, by half
    for cell_type in type_of.unique():
        here = known & (type_of == cell_type)
        from_mean[here] = sums[here] / n[here] - sums[here].sum(axis=0) / n[here].sum(axis=0)
    n_cells = pd.crosstab(labels, stratum).drop(CONTROL)
    shifts = []
    for weights, length in zip(n_cells.to_numpy(dtype=float), lengths, strict=True):
        first, second = np.tensordot(weights / weights.sum(), from_mean, axes=1)
        defined = weights[known].any() and length > 0
        shifts.append(float(np.sqrt(max(first @ second, 0)) / length) if defined else np.nan)
    return shifts


def _problems(table: pd.DataFrame, perturbation_kind: str) -> list[str]:
    problems = []
    unreliable = table.loc[~table["reliable"], "perturbation"]
    if len(unreliable):
        problems.append(f"{_some(unreliable, len(table))} of unreliable response: half of the cells does not repeat it")
    change = table["target_log_fold_change"].astype(float)
    if perturbation_kind != "mixed":
        wrong = change < 0 if perturbation_kind == "activation" else change > 0
        if wrong.any():
            way = "down" if perturbation_kind == "activation" else "up"
            problems.append(f"{_some(table.loc[wrong, 'perturbation'], len(table))} whose target goes {way}")
    elsewhere = table.loc[table["batch_distance"] > ELSEWHERE, "perturbation"]
    if len(elsewhere):
        problems.append(f"{_some(elsewhere, len(table))} mostly in other batches than the controls: confounded")
    confounded = table.loc[table["confounded"], "perturbation"]
    if len(confounded):
        problems.append(
            f"{_some(confounded, len(table))} whose response takes in a difference between batches: matching controls "
            f"by batch too would move their mean by more than {100 * BATCH_SHIFT:.0f} % of its length"
        )
    return problems


def _some(names: Iterable[str], total: int, shown: int = 5) -> str:
    names = list(names)
    listed = ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
    return f"{len(names)} of {total} perturbations ({listed})"


def reliability_of(card: Mapping[str, Any]) -> pd.Series:
    """The split-half reliability of every perturbation of ``card.json``, by name."""
    table = pd.DataFrame(card["perturbations"]).set_index("perturbation")
    return table["reliability"].rename("split-half reliability")


def leakage_notes(splits: dict[str, pd.DataFrame], checkpoints: dict[str, str]) -> list[str]:
    """What a test perturbation may have in common with the training data, by name: sentences.

    Parameters
    ----------
    splits
        ``split.tsv`` by the name of the split.
    checkpoints
        What each checkpoint was pretrained on, as declared, by its name.
    """
    notes = ["Truth and input share the control cells: a delta subtracts what every method is given."]
    for split, table in splits.items():
        of = {role: list(table.loc[table["role"] == role, "perturbation"]) for role in ("train", "test")}
        trained = {gene for name in of["train"] for gene in genes_of(name)}
        seen = [name for name in of["test"] if trained & set(genes_of(name))]
        if seen:
            notes.append(f"{split}: {_some(seen, len(of['test']))} have a gene that training perturbs too.")
        families = {family(gene) for gene in trained}
        tested = {gene for name in of["test"] for gene in genes_of(name)} - trained
        related = sorted(gene for gene in tested if family(gene) in families)
        if related:
            shown = ", ".join(related[:8]) + (", ..." if len(related) > 8 else "")
            notes.append(
                f"{split}: training perturbs genes of the same name but for the last number or letter: {shown}."
            )
    return notes + [f"{name}: {declared}" for name, declared in checkpoints.items()]


def split_notes(card: Mapping[str, Any], splits: Mapping[str, pd.DataFrame], minimum_cells: int) -> list[str]:
    """Perturbations that a split leaves out, and those that a fixed one judges by few cells: sentences.

    Parameters
    ----------
    card, splits
        ``card.json``, and ``split.tsv`` by the name of the split.
    minimum_cells
        Cells below which a split that is dealt here neither tests nor validates a perturbation.
    """
    n_cells = {row["perturbation"]: row["n_cells"] for row in card["perturbations"]}
    notes = []
    for split, table in splits.items():
        role_of = dict(zip(table["perturbation"], table["role"], strict=True))
        left_out = [name for name in n_cells if name not in role_of]
        if left_out:
            notes.append(
                f"{split}: {_some(left_out, len(n_cells))} are not used: its file does not name them, or they would be "
                f"judged by fewer than {minimum_cells} cells (splits.minimum_cells)."
            )
        few = [name for name, role in role_of.items() if role != "train" and n_cells[name] < minimum_cells]
        if few:
            notes.append(
                f"{split}: {_some(few, len(role_of))} are tested or choose a model, as its file says, on fewer than "
                f"{minimum_cells} cells (splits.minimum_cells): what is measured of them is mostly noise."
            )
    return notes


def family(gene: str) -> str:
    """The stem of a symbol that paralogs by name share: CEBPA and CEBPB, STAT1 and STAT5A, FOXA1 and FOXA3."""
    stem = gene.upper().rstrip("0123456789")
    if len(stem) == len(gene) or (stem and stem[-1].isdigit()):
        stem = stem[:-1].rstrip("0123456789") if len(stem) > 3 else stem
    return stem or gene.upper()
