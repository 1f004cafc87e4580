"""Estimate how large a study is, before any of its files is there; what its jobs need follows (:mod:`resources`).

Sizes come from the rows of the data-set table and the configuration alone, never from results: a plan on a laptop, a
dry run and the jobs on a cluster then ask for the same. Snakemake reads this module at every start: it imports nothing
heavy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from scgpt_bench.configuration import ConfiguredRun, methods_of_prediction
from scgpt_bench.data.catalogue import GENERATED, Dataset
from scgpt_bench.data.split_names import FILE, GEARS, HELD_OUT_CONTEXT
from scgpt_bench.options import ModelSizes

BYTES_PER_VALUE = 2.0  # of a compressed h5ad: 1.9 (norman_2019); log1p values and files without compression take more
# The share of genes that a cell expresses: 0.34 in the screens of Replogle, which keep expressed genes; less where all
# genes are kept, hence the limit, which is what cells of the Virtual Cell Challenge express.
EXPRESSED_SHARE, EXPRESSED_GENES = 0.35, 6000
CELLS_PER_PERTURBATION = 150
CONTROL_SHARE = 0.1  # of the cells: 0.03 (replogle_k562_essential), 0.17 (vcc_2025_train)
ASSUMED_CELLS, ASSUMED_GENES = 300_000, 20_000  # where neither the row nor a file says anything
ASSUMED_LIST = 100  # perturbations of a list that is not there yet
GEARS_TEST_SHARE, FILE_TEST_SHARE = 0.25, 0.2
VALIDATION_SHARE = 0.15
CENSUS_CELLS = 33_000_000
VOCABULARY = 60_697  # symbols of scGPT_human
# Of a token, by layer and dimension: 2,400 tokens of scGPT_human's size take 0.8 GB beside its weights.
BYTES_OF_ACTIVATIONS = 56


@dataclass(frozen=True)
class Shape:
    """The size of a data set: cells, genes, perturbations, stored values of a cell, and what says so."""

    cells: float
    genes: float
    perturbations: float
    values: float
    known_from: str

    def limited(self, maximum_genes: int | None) -> Shape:
        """Return the same with so many genes beside the targets; values in proportion."""
        genes = self.genes if maximum_genes is None else min(self.genes, maximum_genes + self.perturbations)
        return Shape(self.cells, genes, self.perturbations, self.values * genes / self.genes, self.known_from)


@dataclass(frozen=True)
class Network:
    """What the floating-point operations of an scGPT depend on."""

    embsize: int
    nlayers: int
    d_hid: int

    def flop(self, tokens: float, keys: float) -> float:
        """Return the operations of one forward pass of ``tokens`` tokens, each of which attends to ``keys``."""
        linear = 2 * (4 * self.embsize**2 + 2 * self.embsize * self.d_hid)
        return self.nlayers * tokens * (linear + 4 * self.embsize * keys)

    def weights(self, vocabulary: float) -> float:
        """Return about how many weights it has, with a vocabulary of so many genes."""
        return self.embsize * vocabulary + self.nlayers * (4 * self.embsize**2 + 2 * self.embsize * self.d_hid)


def network_of(checkpoint: Mapping[str, Any]) -> Network:
    """Return the size of a checkpoint by its options; that of the published one where nothing says otherwise."""
    options = checkpoint
    if options["source"] == "folder":
        try:
            options = json.loads(Path(options["path"], "args.json").read_text(encoding="utf-8"))
            return Network(*(int(options[key]) for key in ("embsize", "nlayers", "d_hid")))
        except (OSError, ValueError, KeyError, TypeError):
            options = {}  # what is wrong with it is said by the job that reads it
    defaults = {key: field.default for key, field in ModelSizes.model_fields.items()}
    return Network(*(options.get(key, defaults[key]) for key in ("embsize", "nlayers", "d_hid")))


def _shape_of_h5ad(path: Path, row: Dataset) -> Shape | None:
    """Read the size of a data set off the header of its file, in milliseconds; None if that has another form."""
    import h5py  # not where the rows say it all

    try:
        with h5py.File(path) as file:
            X = file["layers"][row.layer] if row.layer else file["X"]
            is_sparse = isinstance(X, h5py.Group)
            cells, genes = map(int, X.attrs["shape"] if is_sparse else X.shape)
            stored = X["data"].size if is_sparse else X.size
            labels = file["obs"][row.perturbation_column]
            categories = labels["categories"] if isinstance(labels, h5py.Group) else None
            # Nullable ones are a group, and are not counted.
            names = set(categories.asstr()[:]) if isinstance(categories, h5py.Dataset) else set()
    except (OSError, RuntimeError, KeyError, TypeError, ValueError):
        return None  # what is wrong with it is said by the job that reads it
    named = len(names - {*row.control_labels, *row.excluded_labels})
    perturbations = row.perturbations or named or max(1, cells // CELLS_PER_PERTURBATION)
    return Shape(cells, genes, perturbations, stored / max(cells, 1), "its file")


# What memory and time are proportional to; by the name that the table of resources uses.
UNITS = {
    "thousand_cells": "thousand cells",
    "gigabytes": "gigabytes of the file that comes in",
    "million_drop_values": "million values stored in the file that comes in",
    "million_values": "million values stored in cells.h5ad, after harmonize.maximum_genes",
    "million_cells_x_genes": "million cells x genes of cells.h5ad: values of a dense matrix",
    "million_scored_values": "million (cells of tested conditions, control cells and predicted cells) x genes",
    "million_means": "million conditions x genes",
    "gigabytes_of_batch": "gigabytes of activations of a training batch; none on a GPU, which has its own memory",
    "million_weights": "million weights of the checkpoint",
    "billion_distances": "billion tested conditions x conditions of the data set x genes",
    "million_predicted": "million tested conditions x drawn control cells x genes",
    "thousand_scores": "thousand tested conditions x methods x seeds, over all data sets and splits",
    "pretraining_pflop": "10^15 floating-point operations of a pretraining",
    "training_pflop": "10^15 floating-point operations of a fine-tuning, with its validation",
    "prediction_pflop": "10^15 floating-point operations of one method's predictions of a split",
}
OF_SHARDS = ("million_predicted", "prediction_pflop")  # each has its part of
OF_NETWORKS = ("pretraining_pflop", "training_pflop", "prediction_pflop")


class Sizes:
    """The sizes of a study's data and jobs.

    Parameters
    ----------
    run
        The study.
    subsets
        Points of learning curves: name of a split -> the split it is a part of, and its training perturbations.
    predicted
        Splits whose tested conditions nobody measured: name -> entry of ``predict``.
    """

    def __init__(self, run: ConfiguredRun, subsets: Mapping[str, tuple[str, int]], predicted: Mapping[str, str]):
        self.run, self.config, self.subsets, self.predicted = run, run.config, subsets, predicted
        self.amount = cache(self._amount)
        self.shape = cache(self._shape)
        self._splits = run.splits

    def of_job(self, unit: str, wildcards: Mapping[str, str]) -> float:
        """Return how many of ``unit`` (a key of :data:`UNITS`) a job with these wildcards has."""
        keys = ("dataset", "split", "method", "checkpoint", "prediction", "submission")
        amount = self.amount(unit, *(wildcards.get(key) for key in keys))
        if "scatteritem" in wildcards and unit in OF_SHARDS:
            amount /= int(wildcards["scatteritem"].rpartition("-of-")[2])
        return amount

    def _amount(
        self,
        unit: str,
        dataset: str | None = None,
        split: str | None = None,
        method: str | None = None,
        checkpoint: str | None = None,
        prediction: str | None = None,
        submission: str | None = None,
    ) -> float:
        if submission is not None:
            prediction = self.config["submissions"][submission]["prediction"]
        if prediction is not None:
            dataset, split = self.config["predict"][prediction]["dataset"], f"predicted-{prediction}"
        if unit == "pretraining_pflop":
            return self._pretraining(str(checkpoint)) / 1e15
        if unit == "million_weights":
            return self._weights(dataset, method, checkpoint) / 1e6
        if unit == "gigabytes_of_batch":
            return self._batch(checkpoint, method) / 1e9
        if unit == "thousand_scores":
            return self._scores(dataset) / 1e3
        if dataset is None and checkpoint is not None:
            dataset = self.config["checkpoints"][checkpoint].get("dataset")
        datasets = [dataset] if dataset is not None else list(self.config["datasets"])
        return sum(self._of_dataset(unit, name, split, method) for name in datasets)

    def _of_dataset(self, unit: str, dataset: str, split: str | None, method: str | None) -> float:
        drop = self.shape(dataset)
        shape = drop.limited(self.config["harmonize"]["maximum_genes"])
        if unit == "thousand_cells":
            return drop.cells / 1e3
        if unit == "gigabytes":
            return (self.run.datasets[dataset].bytes or drop.cells * drop.values * BYTES_PER_VALUE) / 1e9
        if unit == "million_drop_values":
            return drop.cells * drop.values / 1e6
        if unit == "million_values":
            return shape.cells * shape.values / 1e6
        if unit == "million_cells_x_genes":
            return shape.cells * shape.genes / 1e6
        if unit == "million_means":
            return (1 + self._conditions(dataset)) * shape.genes / 1e6
        tested = self._tested(dataset, split)
        drawn = self._drawn(split)
        if unit == "billion_distances":
            return tested * self._conditions(dataset) * shape.genes / 1e9
        if unit == "million_predicted":
            return tested * drawn * shape.genes / 1e6
        if unit == "million_scored_values":
            cells = shape.cells * min(1.0, tested / self._conditions(dataset))
            return (cells + self._controls(dataset) + tested * drawn) * shape.genes / 1e6
        if unit == "training_pflop":
            return self._training(str(method), dataset, str(split), shape) / 1e15
        return self._prediction(str(method), tested * drawn, shape) / 1e15  # prediction_pflop

    # Data sets and splits

    def _shape(self, name: str) -> Shape:
        row = self.run.datasets[name]
        if row.parts:
            parts = [self.shape(part) for part in row.parts]
            cells = sum(part.cells for part in parts)
            values = sum(part.cells * part.values for part in parts) / cells
            perturbations = max(part.perturbations for part in parts)
            return Shape(cells, min(part.genes for part in parts), perturbations, values, "its parts")
        if row.address == GENERATED:
            chosen = self.config["generated"][name]
            targets = chosen["modules"] * chosen["targets_per_module"] + chosen["combinations"]
            lines = max(1, chosen["contexts"])
            cells = lines * (targets * chosen["cells_per_perturbation"] + chosen["control_cells"])
            genes = chosen["modules"] * chosen["genes_per_module"]
            return Shape(cells, genes, targets, genes, "its options")
        path = Path(row.address)
        there = row.is_local and path.is_file()
        unknown = None in (row.cells, row.genes, row.perturbations)
        is_screen = row.format == "h5ad" and row.perturbation_column
        if there and unknown and is_screen and (of_file := _shape_of_h5ad(path, row)) is not None:
            return of_file
        size = row.bytes
        known_from = "bytes of its row"
        if size is None and there:
            size, known_from = path.stat().st_size, "size of its file"
        genes = row.genes or ASSUMED_GENES
        values = min(EXPRESSED_SHARE * genes, EXPRESSED_GENES)
        if row.cells is not None:
            cells, known_from = row.cells, "its row"
        elif size is not None:
            cells = max(1, round(size / BYTES_PER_VALUE / values))
        else:
            cells, known_from = ASSUMED_CELLS, "nothing: assumed"
        return Shape(cells, genes, row.perturbations or max(1, cells // CELLS_PER_PERTURBATION), values, known_from)

    def _contexts(self, dataset: str) -> int:
        row = self.run.datasets[dataset]
        if row.address == GENERATED:
            return max(1, self.config["generated"][dataset]["contexts"])
        return max(1, len(row.declared_contexts))

    def _conditions(self, dataset: str) -> float:
        """Count conditions, as if every perturbation were in every context."""
        return self.shape(dataset).perturbations * self._contexts(dataset)

    def _controls(self, dataset: str) -> float:
        return self.shape(dataset).cells * (CONTROL_SHARE if self.run.is_perturbed(dataset) else 1)

    def _tested(self, dataset: str, split: str | None) -> float:
        """Count the tested conditions of a split; all of the data set where the job has no split."""
        split = self.subsets[str(split)][0] if split in self.subsets else split
        if split in self.predicted:
            options = self.config["predict"][self.predicted[str(split)]]
            contexts = len(options["contexts"]) or self._contexts(dataset)
            return self._asked(options) * contexts
        conditions = self._conditions(dataset)
        if split is None or split not in self._splits:
            return conditions
        how = self._splits[split]
        if how["made_by"] == HELD_OUT_CONTEXT:
            return max(1, conditions / self._contexts(dataset) / how.get("folds", 1))
        share = {GEARS: GEARS_TEST_SHARE, FILE: FILE_TEST_SHARE}.get(how["made_by"], 1 / how.get("folds", 1))
        return max(1, conditions * share)

    def _asked(self, options: Mapping[str, Any]) -> float:
        if options["targets_of"] is not None:
            return self.shape(options["targets_of"]).perturbations
        path = Path(options["perturbations"])
        return max(1, len(path.read_bytes().splitlines())) if path.is_file() else ASSUMED_LIST

    def _drawn(self, split: str | None) -> int:
        if split in self.predicted:
            return self.config["predict"][self.predicted[str(split)]]["cells_per_perturbation"]
        return self.config["controls"]["cells_per_perturbation"]

    def _scores(self, dataset: str | None) -> float:
        names = [dataset] if dataset is not None else self.config["datasets"]
        everything = [*self._splits, *self.subsets]
        tested = sum(self._tested(name, split) for name in names for split in everything)
        tested *= sum(len(options["seeds"]) for options in self.config["methods"].values())
        for name, options in self.config["predict"].items():
            if options["dataset"] in names:
                seeds = [self.config["methods"][each]["seeds"] for each in methods_of_prediction(self.config, name)]
                tested += self._tested(options["dataset"], f"predicted-{name}") * sum(map(len, seeds))
        return tested

    # The network

    def network(self, checkpoint: str) -> Network:
        """Return the size of a checkpoint; that of the published one where nothing says otherwise."""
        return network_of(self.config["checkpoints"][checkpoint])

    def _weights(self, dataset: str | None, method: str | None, checkpoint: str | None) -> float:
        """Count weights. What was trained here has a vocabulary of the genes that it was trained on."""
        name = checkpoint or self.config["methods"][str(method)]["checkpoint"]
        trained_on = dataset or self.config["checkpoints"][name].get("dataset")
        genes = (
            self.shape(trained_on).limited(self.config["harmonize"]["maximum_genes"]).genes
            if trained_on
            else VOCABULARY
        )
        return self.network(name).weights(genes)

    def _training(self, method: str, dataset: str, split: str, shape: Shape) -> float:
        options = self.config["methods"][method]
        network = self.network(options["checkpoint"])
        tokens = min(options["max_seq_len"], shape.genes)
        share = 1.0
        if split in self.subsets:
            share = min(1.0, self.subsets[split][1] / shape.perturbations)
        elif split not in self.predicted:
            share = (1 - self._tested(dataset, split) / self._conditions(dataset)) * (1 - VALIDATION_SHARE)
        cells = max(1.0, share * shape.cells) * (2 if options["control_pairs"] else 1)
        validated = self._conditions(dataset) * VALIDATION_SHARE * options["validation_cells"]
        step = 3 * cells * network.flop(tokens, tokens)  # forward and backward
        return options["epochs"] * (step + validated * network.flop(shape.genes, shape.genes))

    def _batch(self, checkpoint: str | None, method: str | None) -> float:
        """Return the bytes of the activations of a training batch, on a CPU."""
        if self.config["hardware"]["gpu"]:
            return 0.0
        options = self.config["checkpoints"][checkpoint] if checkpoint else self.config["methods"][str(method)]
        network = self.network(checkpoint or options["checkpoint"])
        cells = self.config["hardware"]["micro_batch"] or options["batch_size"]
        return cells * options["max_seq_len"] * network.nlayers * network.embsize * BYTES_OF_ACTIVATIONS

    def _prediction(self, method: str, cells: float, shape: Shape) -> float:
        options = self.config["methods"][method]
        network = self.network(options["checkpoint"])
        # A prompt is answered with and without the perturbation, for several draws of what is known.
        passes = 2 * options["draws"] * options.get("rounds", 1) if "draws" in options else 1
        return passes * cells * network.flop(shape.genes, shape.genes)

    def _pretraining(self, checkpoint: str) -> float:
        options = self.config["checkpoints"][checkpoint]
        name = options.get("dataset")
        if name is None:
            cells, tokens = float(CENSUS_CELLS), float(options["max_seq_len"])
        else:
            shape = self.shape(name)
            generated = self.run.datasets[name].address == GENERATED
            cells = self.config["generated"][name]["atlas_cells"] if generated else self._controls(name)
            tokens = min(options["max_seq_len"], shape.genes if options["include_zero_genes"] else shape.values)
        passes = 1 if options["second_pass_after"] is None else 2
        network = self.network(checkpoint)
        # No token attends to the genes that are unknown.
        known = 1 - sum(options["mask_ratio"]) / len(options["mask_ratio"])
        return options["epochs"] * passes * 3 * cells * network.flop(tokens, known * tokens)
