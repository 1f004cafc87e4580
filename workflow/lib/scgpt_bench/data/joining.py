"""Join the cells of several data sets into one: a context for each, on the genes that all of them measured.

Where two data sets both have the Ensembl identifier of a gene, it decides whether they measured the same gene, else
the symbol does. Genes are called as in the first data set that has them, and so are perturbations of them. Cells are
read by chunks, those of controls twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from scgpt_bench.data.catalogue import Dataset
from scgpt_bench.data.conditions import IN, Condition, contexts_of
from scgpt_bench.data.findings import Findings
from scgpt_bench.data.genes import choose_genes
from scgpt_bench.data.harmonize import SELECTION
from scgpt_bench.data.means import FEWEST
from scgpt_bench.data.names import CONTROL, JOINED_BY, UNSTATED, first_names, genes_of, within
from scgpt_bench.data.on_disk import CellWriter, Matrix, row_chunks, rows_from, text_array
from scgpt_bench.data.values import LARGEST, mean_and_variance

# Of the genes of the smallest part. Lists of the 2,000 most variable genes of two cell lines share several times as
# much; below it, what is left of a part depends on the choice of genes of the others more than on its cells.
SMALLEST_SHARE = 0.1
Moments = tuple[int, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Matched:
    """Which genes of several data sets, the parts, are the same.

    Attributes
    ----------
    var
        The genes that all parts have, named and ordered as in the first; ``gene_id`` where any part has identifiers.
    positions
        Of each part: where its own table of genes has them [genes of ``var``].
    names
        Of each part: what a target that is spelled otherwise there is called in the joined data set.
    """

    var: pd.DataFrame
    positions: dict[str, np.ndarray]
    names: dict[str, dict[str, str]]

    def rename(self, part: str, perturbation: str) -> str:
        """Name a perturbation of a part in the joined data set."""
        names = self.names[part]
        return JOINED_BY.join(sorted({names.get(gene, gene) for gene in genes_of(perturbation)})) or CONTROL


def match_genes(genes: Mapping[str, pd.DataFrame], targets: Mapping[str, Iterable[str]], findings: Findings) -> Matched:
    """Find the genes that all parts measured, and the name of every target.

    A gene without an identifier takes that of its symbol in other parts, if they agree on one. An identifier that one
    part gives to several genes counts for none of them.

    Parameters
    ----------
    genes
        ``var`` of each part: unique symbols and, where known, ``gene_id``.
    targets
        The perturbed genes of each part, measured or not.

    Raises
    ------
    InputError
        Where the parts share next to no gene.
    """
    ids_of: dict[str, set[str]] = {}
    for var in genes.values():
        for symbol, gene_id in _ids(var).items():
            ids_of.setdefault(str(symbol), set()).update({gene_id} - {""})
    keys = {part: _keys(var, ids_of) for part, var in genes.items()}
    names: dict[str, str] = {}
    for of_part in keys.values():
        for symbol, key in of_part.items():
            names.setdefault(key, str(symbol))
    shared, *others = keys.values()
    for other in others:
        shared = shared[shared.isin(other)]
    _check_number(len(shared), genes, findings)
    var = pd.DataFrame(index=pd.Index(shared.index, dtype=object))
    known = set().union(*ids_of.values())
    if known:
        var["gene_id"] = [key if key in known else "" for key in shared]
    renamed = {}
    for part, of_part in keys.items():
        key_of = {target: of_part.get(target, _only(ids_of.get(target, ()))) for target in targets[part]}
        called = {target: names.get(key, target) for target, key in key_of.items()}
        renamed[part] = {target: name for target, name in called.items() if name != target}
    return Matched(var, {part: pd.Index(of_part).get_indexer(shared) for part, of_part in keys.items()}, renamed)


def _ids(var: pd.DataFrame) -> pd.Series:
    """Return the Ensembl identifier of each symbol, empty where there is none."""
    return var["gene_id"].astype(str) if "gene_id" in var else pd.Series("", index=var.index)


def _only(found: Collection[str]) -> str:
    return next(iter(found)) if len(found) == 1 else ""


def _keys(var: pd.DataFrame, ids_of: Mapping[str, Collection[str]]) -> pd.Series:
    """Give each symbol of a part the identifier by which its gene is known, or the symbol itself; every key once."""
    own = _ids(var)
    taken = set(own)
    keys = own.where(own != "", [_only(ids_of[symbol]) for symbol in var.index])
    keys = keys.where((own != "") | ~keys.isin(taken), "")
    return keys.where((keys != "") & ~keys.duplicated(keep=False), var.index)


def _check_number(number: int, genes: Mapping[str, pd.DataFrame], findings: Findings) -> None:
    smallest = min(genes, key=lambda part: len(genes[part]))
    minimum = max(FEWEST, int(np.ceil(SMALLEST_SHARE * len(genes[smallest]))))
    if number < minimum:
        sizes = ", ".join(f"{part} {len(var):,}" for part, var in genes.items())
        expected = (
            f"at least {minimum:,}, {SMALLEST_SHARE:.0%} of the smallest part's ({smallest}): fewer say little of "
            "how its cells respond"
        )
        raise findings.error("genes", f"{number:,} that all parts have (of {sizes})", expected)


def write_joined(
    parts: Mapping[str, anndata.AnnData], dataset: Dataset, path: str | Path, *, maximum_genes: int | None = None
) -> None:
    """Write ``cells.h5ad`` of a joined data set, in the form that :func:`scgpt_bench.data.harmonize.harmonize` returns.

    The context of a cell is its part's name, with that of its context in the part where it has several; so it is with
    its batch. Cells are named ``<part>:<cell>``. Values are scaled to ``dataset.target_sum``: of the counts per cell
    over all genes of the part, shared or not. Directions and halves are those of the parts.

    Parameters
    ----------
    parts
        ``cells.h5ad`` of each part with all its genes; X and counts may stay on disk.
    maximum_genes
        As in harmonize, over the control cells of all parts.

    Raises
    ------
    InputError
        For parts that share next to no gene, contexts of one name, or a perturbation with two directions in a context
        after its gene got one name.
    """
    findings = Findings(dataset.address)
    targets = {part: _targets(cells.obs) for part, cells in parts.items()}
    matched = match_genes({part: cells.var for part, cells in parts.items()}, targets, findings)
    obs = pd.concat([_annotations(part, cells.obs, matched) for part, cells in parts.items()])
    _check_contexts(parts, findings)
    _check_directions(obs, findings)
    moments, shares = _look_at_controls(parts, matched, dataset.target_sum)
    symbols, joined_targets = matched.var.index, sorted(_targets(obs))
    genes, selection = np.ones(len(symbols), dtype=bool), "those of all parts"
    if maximum_genes is not None and maximum_genes < len(symbols):
        genes = choose_genes(symbols, joined_targets, moments, maximum_genes, findings)
        selection += ", of them " + SELECTION.format(maximum_genes)
    with CellWriter(path, int(genes.sum())) as cells:
        for part, own in parts.items():
            for X, layers in _chunks(own, matched.positions[part][genes], dataset):
                cells.append(X, **layers)
        cells.obs, cells.var = _as_written(obs, dataset), matched.var[genes]
        summaries = {part: own.uns["harmonized"] for part, own in parts.items()}
        cells.uns = {
            "harmonized": {
                **_of_parts(summaries, matched),
                "dataset": dataset.name,
                "version": dataset.version or "",
                "values": dataset.values,
                "target_sum": dataset.target_sum,
                "perturbation_kind": dataset.perturbation_kind,
                "n_genes_read": len(symbols),
                "n_controls": int((obs["perturbation"] == CONTROL).sum()),
                "contexts": text_array(contexts_of(obs)),
                "n_perturbations": obs["perturbation"].nunique() - 1,
                "n_combinations": sum(JOINED_BY in name for name in obs["perturbation"].unique()),
                "genes": selection,
                "targets_measured": text_array(gene for gene in joined_targets if gene in symbols),
                "targets_not_measured": text_array(gene for gene in joined_targets if gene not in symbols),
                "repairs": text_array(_repairs(parts, summaries, matched, shares)),
                "problems": text_array(_problems(parts, summaries, targets, matched)),
                "genes_left_out": {part: text_array(_left_out(own.var, matched, part)) for part, own in parts.items()},
            }
        }


def _targets(obs: pd.DataFrame) -> list[str]:
    return [*dict.fromkeys(gene for name in obs["perturbation"].astype(str).unique() for gene in genes_of(name))]


def _annotations(part: str, obs: pd.DataFrame, matched: Matched) -> pd.DataFrame:
    """Annotate the cells of a part as those of the joined data set, as text; ``n_counts`` where the part has it."""
    perturbations = obs["perturbation"].astype(str)
    names = {name: matched.rename(part, name) for name in perturbations.unique()}
    kept = ["direction", "cell_type", "half", *(["guide"] if "guide" in obs else [])]
    table = obs[kept].astype(str).astype(object)
    table["perturbation"] = perturbations.map(names)
    for column in ("context", "batch"):
        groups = obs[column].astype(str)
        table[column] = groups.map({group: within(part, group) for group in groups.unique()})
    if "n_counts" in obs:
        table["n_counts"] = obs["n_counts"]
    table.index = pd.Index(f"{part}:" + obs.index.astype(str), dtype=object)
    return table


def _as_written(obs: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    columns = ["perturbation", "direction", "context", "batch", "cell_type", *(["guide"] if "guide" in obs else [])]
    table = pd.DataFrame({name: pd.Categorical(obs[name].fillna("")) for name in [*columns, "half"]}, index=obs.index)
    if dataset.values == "counts":
        table["n_counts"] = obs["n_counts"]
    return table


def _check_contexts(parts: Mapping[str, anndata.AnnData], findings: Findings) -> None:
    """Refuse two contexts of one name, such as ``a.b`` for the part ``a.b`` and the context ``b`` of ``a``."""
    seen: dict[str, str] = {}
    for part, cells in parts.items():
        for context in contexts_of(cells.obs):
            name = within(part, context)
            other = seen.setdefault(name.casefold(), part)
            if other != part:
                found = f"{name!r} in {other} and in {part}"
                raise findings.error("contexts", found, "other names of the parts: a part is a context of its own")


def _check_directions(obs: pd.DataFrame, findings: Findings) -> None:
    """Refuse a condition that goes down in some cells and up in others: two old names of one gene may be one now."""
    numbers = obs.groupby(["perturbation", "context"])["direction"].nunique()
    for perturbation, context in numbers.index[numbers > 1]:
        found = f"{Condition(perturbation, context).label!r} down in some cells and up in others"
        raise findings.error("perturbations", found, "one direction of each perturbation in a context")


def _look_at_controls(
    parts: Mapping[str, anndata.AnnData], matched: Matched, target_sum: float
) -> tuple[Moments, dict[str, float]]:
    """Return the moments of each shared gene over the control cells of all parts, as in :class:`values.ReadValues`.

    And the share of each part's scaled counts that is of shared genes. Both to the bit, whatever the chunks.
    """
    n_cells, sums, squares = 0, np.zeros(len(matched.var)), np.zeros(len(matched.var))
    shares = {}
    for part, cells in parts.items():
        scale = target_sum / cells.uns["harmonized"]["target_sum"]
        is_control = (cells.obs["perturbation"].astype(str) == CONTROL).to_numpy()
        kept, total = [], []
        for start, chunk in row_chunks(cells.X, read=is_control):
            rows = sparse.csr_matrix(chunk[is_control[start : start + chunk.shape[0]]])
            scaled = rows.astype(np.float64).expm1()
            shared = _columns(scaled, matched.positions[part])
            total.append(np.asarray(scaled.sum(axis=1)).ravel())
            kept.append(np.asarray(shared.sum(axis=1)).ravel())
            shared.data *= scale
            np.add.at(sums, shared.indices, shared.data)
            np.add.at(squares, shared.indices, shared.data**2)
        n_cells += int(is_control.sum())
        shares[part] = float(np.concatenate(kept).sum() / np.concatenate(total).sum())
    return mean_and_variance(n_cells, sums, squares), shares


def _chunks(
    cells: anndata.AnnData, positions: np.ndarray, dataset: Dataset
) -> Iterator[tuple[sparse.csr_matrix, dict[str, sparse.csr_matrix]]]:
    """Read X of a part, rescaled, and its counts where the joined data set has them, chunk by chunk."""
    scale = dataset.target_sum / cells.uns["harmonized"]["target_sum"]
    for start, chunk in row_chunks(cells.X):
        X = _columns(chunk, positions)
        if scale != 1:
            X.data = np.log1p(np.expm1(X.data.astype(np.float64)) * scale).astype(np.float32)
        layers = {}
        if dataset.values == "counts":
            layers["counts"] = _columns(rows_from(cells.layers["counts"], start, chunk.shape[0]), positions)
        yield X, layers


def _columns(matrix: Matrix, positions: np.ndarray) -> sparse.csr_matrix:
    """Copy some columns of a chunk, in their order."""
    chosen = sparse.csr_matrix(matrix)[:, positions]
    chosen.sort_indices()
    return chosen


def _of_parts(summaries: Mapping[str, Mapping[str, Any]], matched: Matched) -> dict[str, Any]:
    """Gather what the summaries of the parts say, each sentence with the name of its part."""
    gathered: dict[str, list] = {"dropped_perturbations": [], "gene": [], "share": []}
    for part, summary in summaries.items():
        for label in summary["dropped_perturbations"]:
            perturbation, _, context = label.partition(IN)
            name = Condition(matched.rename(part, perturbation), within(part, context or UNSTATED)).label
            gathered["dropped_perturbations"].append(name)
        gathered["gene"] += [matched.rename(part, gene) for gene in summary["largest_shares_of_counts"]["gene"]]
        gathered["share"] += [*summary["largest_shares_of_counts"]["share"]]
    largest = pd.Series(gathered["share"], index=gathered["gene"]).groupby(level=0).max()
    largest = largest.sort_values(ascending=False, kind="stable")[:LARGEST]
    return {
        "parts": text_array(summaries),
        "values_evidence": "; ".join(f"{part}: {summary['values_evidence']}" for part, summary in summaries.items()),
        "n_cells_read": sum(int(summary["n_cells_read"]) for summary in summaries.values()),
        "minimum_cells": max(int(summary["minimum_cells"]) for summary in summaries.values()),
        "dropped_perturbations": text_array(gathered["dropped_perturbations"]),
        "largest_shares_of_counts": {"gene": text_array(largest.index), "share": largest.to_numpy()},
    }


def _left_out(var: pd.DataFrame, matched: Matched, part: str) -> list[str]:
    """List the genes that only some parts have, in the order of this part."""
    return [*np.delete(var.index.to_numpy(dtype=object), matched.positions[part])]


def _repairs(
    parts: Mapping[str, anndata.AnnData],
    summaries: Mapping[str, Mapping[str, Any]],
    matched: Matched,
    shares: Mapping[str, float],
) -> Iterator[str]:
    """List what each part lost, what was renamed, and what was repaired in it."""
    for part, cells in parts.items():
        left_out = _left_out(cells.var, matched, part)
        if left_out:
            symbols = [set(other.var.index) for other in parts.values()]
            other_ids = sum(all(gene in of_part for of_part in symbols) for gene in left_out)
            same = f", {other_ids:,} of them in all by symbol, with other identifiers" if other_ids else ""
            yield (
                f"{part}: {len(left_out):,} of {cells.n_vars:,} genes left out, since not all parts have them{same}: "
                f"{first_names(left_out)}; the others have {shares[part]:.0%} of the counts of its controls"
            )
        own = cells.var.index[matched.positions[part]]
        pairs = zip(own, matched.var.index, strict=True)
        renamed = dict(sorted({**{old: new for old, new in pairs if old != new}, **matched.names[part]}.items()))
        if renamed:
            shown = first_names([f"{old} as {new}" for old, new in renamed.items()])
            yield f"{part}: {len(renamed):,} genes called as in the first part that has them: {shown}"
        yield from (f"{part}: {repair}" for repair in summaries[part]["repairs"])


def _problems(
    parts: Mapping[str, anndata.AnnData],
    summaries: Mapping[str, Mapping[str, Any]],
    targets: Mapping[str, Iterable[str]],
    matched: Matched,
) -> Iterator[str]:
    """List the measured targets that each part lost, then its problems."""
    for part, cells in parts.items():
        left_out = set(_left_out(cells.var, matched, part))
        lost = [target for target in targets[part] if target in left_out]
        if lost:
            yield f"{part}: {len(lost):,} targets were measured there, but not in all parts: {first_names(lost)}"
        yield from (f"{part}: {problem}" for problem in summaries[part]["problems"])
