"""Cells of CELLxGENE Census, or of any SOMA experiment laid out like it, as a source to pretrain on.

Only the ``soma_joinid`` of every selected cell is held in memory (8 bytes each); expression is read from the ``raw``
layer when it is asked for.

Order. Cells that lie side by side are read fast, and are alike: Census stores one study after the other. Cells drawn
one by one are a perfect shuffle, but every one costs the decompression of its whole tile. The order here lies between:
the cells are cut into short runs of neighbours, the runs are shuffled, as many of them as fit a buffer are read in one
ordered read, and the cells of the buffer are shuffled. Every cell is read once per epoch and its batch mixes runs from
all over the corpus; two neighbours of one run, however, always meet in one buffer. Batch ``i`` of an epoch is a
function of the seed, the epoch and ``i``, so that a restart needs nothing but ``i``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import scipy.sparse as sp
import tiledbsoma

from scgpt_bench.errors import InputError
from scgpt_bench.options import CensusCells
from scgpt_bench.seeding import random_generator

ORGANISM, MEASUREMENT, LAYER = "homo_sapiens", "RNA", "raw"
TISSUE, DISEASE, PRIMARY = "tissue_general", "disease", "is_primary_data"
Buffer = tuple[np.ndarray, sp.csr_matrix]  # rows in ascending order, their counts

# tiledbsoma's own default is 1 GiB per column of a read.
READ_BUFFERS = {"soma.init_buffer_bytes": 128 * 2**20}


class CensusSource:
    """The selected cells of an experiment, numbered 0 to n - 1 by ``soma_joinid``.

    Parameters
    ----------
    experiment
        With ``obs``, ``ms["RNA"].var["feature_name"]`` and raw counts in ``ms["RNA"].X["raw"]``.
    options
        Which cells.
    symbols
        The vocabulary. A symbol that several features bear gets the sum of their counts.

    Raises
    ------
    InputError
        For a filter that is no filter or selects no cell, a missing layer or column, and genes without overlap.
    """

    def __init__(self, experiment: tiledbsoma.Experiment, options: CensusCells, symbols: Iterable[str]):
        self.name = options.address or f"CELLxGENE Census {options.census_version}"
        self.options = options
        self.filter = value_filter(options)
        self._experiment = experiment  # its layers are open as long as it is
        self._counts = _raw_layer(experiment, self.name)
        self.genes, self._column_of_feature = _matched_genes(experiment, symbols, self.name)
        self.joinids = _selected_cells(experiment, self.filter, self.name)

    def __len__(self) -> int:
        return len(self.joinids)

    def rows(self, index: np.ndarray) -> sp.csr_matrix:
        """Read (len(index), n_genes) float32 raw counts of these cells and no others, in one ordered read.

        Raises
        ------
        InputError
            For values that are not counts.
        """
        wanted, row_of_wanted = np.unique(self.joinids[index], return_inverse=True)
        cells, genes, counts = [np.empty(0, np.int32)], [np.empty(0, np.int32)], [np.empty(0, np.float32)]
        for table in self._counts.read((wanted, slice(None)), result_order="row-major").tables():
            joinids, features, values = (
                table[column].to_numpy() for column in ("soma_dim_0", "soma_dim_1", "soma_data")
            )
            self._check_counts(joinids, values)
            columns = self._column_of_feature[features]
            kept = columns >= 0
            cells.append(np.searchsorted(wanted, joinids[kept]).astype(np.int32))
            genes.append(columns[kept])
            counts.append(values[kept].astype(np.float32))
        entries = np.concatenate(counts), (np.concatenate(cells), np.concatenate(genes))
        return sp.coo_matrix(entries, shape=(len(wanted), len(self.genes))).tocsr()[row_of_wanted]

    def batches(self, rows: np.ndarray, size: int, seed: int) -> Batches:
        """Return the training batches over ``rows``, by (epoch, number)."""
        return Batches(self, rows, size, seed)

    def description(self) -> dict[str, object]:
        """Describe the cells for the checkpoint's report: the same hash means the same cells."""
        return {
            "census_version": self.options.census_version,
            "experiment": self.name,
            "obs_filter": self.filter,
            "cells": len(self),
            "soma_joinids_sha256": hashlib.sha256(self.joinids.astype("<i8").tobytes()).hexdigest(),
            "genes": len(self.genes),
            "shuffle_run": self.options.shuffle_run,
            "shuffle_buffer": self.options.shuffle_buffer,
        }

    def _check_counts(self, joinids: np.ndarray, values: np.ndarray) -> None:
        faulty = ~((values >= 0) & (values == np.floor(values)) & np.isfinite(values))
        if faulty.any():
            first = int(np.argmax(faulty))
            raise InputError(
                self.name, f"X[{LAYER!r}] of the cell with soma_joinid {joinids[first]}", str(values[first]),
                "raw counts: whole numbers at or above 0",
            )  # fmt: skip


class Batches:
    """Training batches in the order that the module describes.

    Two buffers of cells are in memory: one that batches are taken from, and the next one of the epoch, which a thread
    reads meanwhile.
    """

    def __init__(self, source: CensusSource, rows: np.ndarray, size: int, seed: int):
        self._source, self._rows, self._size, self._seed = source, rows, size, seed
        self._per_buffer = max(1, source.options.shuffle_buffer // size) * size  # no batch lies in two buffers
        self._order: tuple[int, np.ndarray] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="next buffer")
        self._buffers: dict[tuple[int, int], Future[Buffer]] = {}  # read or being read, by epoch and number

    def __call__(self, epoch: int, number: int) -> sp.csr_matrix:
        """Read (size, n_genes) counts of batch ``number`` of ``epoch``, cells in ascending order."""
        order = self.order(epoch)
        start = number * self._size
        wanted = start // self._per_buffer
        last = (len(order) - 1) // self._per_buffer
        places = [(epoch, place) for place in (wanted, wanted + 1) if place <= last]
        # what is not wanted any more gives its memory back before the next one is read
        self._buffers = {place: self._buffers[place] for place in places if place in self._buffers}
        for place in places:
            if place not in self._buffers:
                rows = order[place[1] * self._per_buffer : (place[1] + 1) * self._per_buffer]
                self._buffers[place] = self._thread.submit(self._read, np.sort(rows))
        held, counts = self._buffers[epoch, wanted].result()
        return counts[np.searchsorted(held, np.sort(order[start : start + self._size]))]

    def _read(self, rows: np.ndarray) -> Buffer:
        return rows, self._source.rows(rows)

    def order(self, epoch: int) -> np.ndarray:
        """Return the rows in the order in which ``epoch`` sees them."""
        if self._order is None or self._order[0] != epoch:
            generator = random_generator(self._seed, "pretraining", "order", epoch)
            self._order = epoch, _shuffled(self._rows, self._source.options.shuffle_run, self._per_buffer, generator)
        return self._order[1]


def open_source(options: CensusCells, symbols: Iterable[str]) -> CensusSource:
    """Open the source that ``options`` describe, over the network unless they give an address.

    Raises
    ------
    InputError
        As :class:`CensusSource`, and for an address without an experiment, an unknown release, and a missing
        ``cellxgene-census``.
    """
    return CensusSource(_experiment(options), options, symbols)


def value_filter(options: CensusCells) -> str | None:
    """Write the condition on ``obs`` in SOMA's value-filter syntax; None where every cell is wanted."""
    conditions = []
    if options.tissues is not None:
        conditions.append(f"{TISSUE} in {sorted(options.tissues)!r}")
    if options.disease is not None:
        conditions.append(f"{DISEASE} == {options.disease!r}")
    if options.primary_only:
        conditions.append(f"{PRIMARY} == True")
    if options.obs_filter is not None:
        conditions.append(f"({options.obs_filter})")
    return " and ".join(conditions) or None


def _shuffled(rows: np.ndarray, run: int, per_buffer: int, generator: np.random.Generator) -> np.ndarray:
    """Shuffle runs of neighbours, then the cells of each buffer; a plain shuffle where one buffer holds all."""
    if len(rows) <= per_buffer:
        return generator.permutation(rows)
    runs = generator.permutation(-(-len(rows) // run))
    positions = (runs[:, None] * run + np.arange(run)).ravel()
    order = np.sort(rows)[positions[positions < len(rows)]]
    for start in range(0, len(order), per_buffer):
        generator.shuffle(order[start : start + per_buffer])
    return order


def _experiment(options: CensusCells) -> tiledbsoma.Experiment:
    if options.address is None:
        address, context = _public_experiment(options.census_version)
    else:
        address, context = options.address, tiledbsoma.SOMATileDBContext(tiledb_config=READ_BUFFERS)
    try:
        return tiledbsoma.Experiment.open(address, context=context)
    except (tiledbsoma.SOMAError, TypeError) as error:
        raise InputError(address, "address", _one_line(error), "a SOMA experiment") from None


def _public_experiment(census_version: str) -> tuple[str, tiledbsoma.SOMATileDBContext]:
    """Find a release of Census, and how it is read; its package may be missing where an address is given."""
    try:
        import cellxgene_census
    except ImportError:
        expected = "cellxgene-census (envs/census.yaml), or an `address`"
        raise InputError("cellxgene_census", "installed packages", "no such package", expected) from None
    try:
        with cellxgene_census.open_soma(census_version=census_version) as census:
            address = census["census_data"][ORGANISM].uri
    except (ValueError, OSError, tiledbsoma.SOMAError) as error:  # an unknown release, no network
        raise InputError("CELLxGENE Census", "census_version", _one_line(error), "a release within reach") from None
    return address, cellxgene_census.get_default_soma_context(READ_BUFFERS)


def _raw_layer(experiment: tiledbsoma.Experiment, name: str) -> tiledbsoma.SparseNDArray:
    for what, collection, key in (
        ("ms", experiment.ms, MEASUREMENT),
        (f"ms[{MEASUREMENT!r}].X", experiment.ms[MEASUREMENT].X if MEASUREMENT in experiment.ms else {}, LAYER),
    ):
        if key not in collection:
            raise InputError(name, what, ", ".join(collection) or "nothing", f"{key!r}")
    return experiment.ms[MEASUREMENT].X[LAYER]


def _matched_genes(
    experiment: tiledbsoma.Experiment, symbols: Iterable[str], name: str
) -> tuple[list[str], np.ndarray]:  # fmt: skip
    """Find the symbols that the experiment measures, in their order, and the column of each feature (-1: none)."""
    var = experiment.ms[MEASUREMENT].var
    if "feature_name" not in var.schema.names:
        raise InputError(name, "var", ", ".join(var.schema.names), "a column feature_name with gene symbols")
    features = var.read(column_names=["soma_joinid", "feature_name"]).concat().to_pandas()
    measured = set(features["feature_name"])
    genes = [symbol for symbol in symbols if symbol in measured]
    if not genes:
        examples = ", ".join(map(str, features["feature_name"][:3]))
        raise InputError(name, "var feature_name", f"none of the vocabulary's symbols, but {examples}", "human symbols")
    columns = features["feature_name"].astype(object).map({gene: i for i, gene in enumerate(genes)})
    column_of_feature = np.full(features["soma_joinid"].max() + 1, -1, dtype=np.int32)
    column_of_feature[features["soma_joinid"]] = columns.fillna(-1).astype(np.int32)
    return genes, column_of_feature


def _selected_cells(experiment: tiledbsoma.Experiment, condition: str | None, name: str) -> np.ndarray:
    try:
        tables = experiment.obs.read(column_names=["soma_joinid"], value_filter=condition)
        joinids = [table["soma_joinid"].to_numpy() for table in tables]
    except (tiledbsoma.SOMAError, RuntimeError, ValueError, SyntaxError) as error:
        columns = ", ".join(experiment.obs.schema.names)
        raise InputError(name, f"obs filter [{condition}]", _one_line(error), f"a filter on {columns}") from None
    joinids = np.sort(np.concatenate(joinids)) if joinids else np.empty(0, np.int64)
    if not joinids.size:
        raise InputError(name, f"obs filter [{condition}]", "no cell", f"values that exist: {_values(experiment)}")
    return joinids


def _values(experiment: tiledbsoma.Experiment) -> str:
    """List the values of the columns that are commonly filtered on."""
    described = []
    for column in (TISSUE, DISEASE, PRIMARY):
        if column in experiment.obs.schema.names:
            values: set[str] = set()
            for table in experiment.obs.read(column_names=[column]):
                values |= {str(value) for value in table[column].unique().to_pylist()}
            described.append(f"{column}: {', '.join(sorted(values))}")
    return "; ".join(described)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
