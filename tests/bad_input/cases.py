"""What users and other programs get wrong: the job that meets it, the fault, and what its one line must say.

A case is (name, job, fault, file, where, found, expected); the last four are parts of that line.
"""

import argparse
import datetime
import gzip
import pickle

import anndata
import h5py
import numpy as np
import pandas as pd
import torch

from bad_input.study import (
    ROW,
    SUM,
    appended,
    arguments,
    both,
    checkpoint_rows,
    configured,
    flipped_bit,
    h5ad,
    hdf5,
    joined_row,
    removed,
    renamed,
    row,
    table_lines,
    tensors,
    text,
    truncated,
)

DEEP = "[" * 200_000  # more than a recursive parser can follow


def value(number):
    return h5ad("drop.h5ad", lambda cells: cells.X.__setitem__((5, 3), number))


def label(new):
    def change(cells):
        labels = cells.obs["gene"].astype(object).to_numpy()
        labels[5:8] = new
        cells.obs["gene"] = labels

    return h5ad("drop.h5ad", change)


def contexts(column, values, cells=slice(None)):
    """Other values in a column of the drop, in some of its cells; a list takes turns."""

    def change(drop):
        names = drop.obs_names[cells]
        values_of = values * (len(names) // len(values)) if isinstance(values, list) else values
        drop.obs[column] = drop.obs[column].astype(object)
        drop.obs.loc[names, column] = values_of

    return h5ad("drop.h5ad", change)


def matrix(name, change):
    """Another X in the same file."""
    return h5ad(name, lambda cells: anndata.AnnData(change(cells.X), obs=cells.obs, var=cells.var))


def rows_of_one(change):
    """The X of predictions with other values for the perturbation of the first row."""

    def damage(cells):
        first = (cells.obs["perturbation"] == cells.obs["perturbation"].iloc[0]).to_numpy()
        cells.X[first] = change(cells.X[first])

    return h5ad("elsewhere.h5ad", damage)


def linked_labels(file):
    del file["obs/gene"]
    file["obs/gene"] = h5py.ExternalLink("other.h5", "/")


def as_loom(file):
    for name in [*file]:
        del file[name]
    file.create_group("row_attrs"), file.create_group("col_attrs")


def compressed_elsewhere(file):
    """By a filter that HDF5 does not have; chunks are as they are, since the answer to the filter is the question."""
    values = file["X/data"][:]
    del file["X/data"]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk(values.shape)
    properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
    space, kind = h5py.h5s.create_simple(values.shape), h5py.h5t.py_create(values.dtype)
    made = h5py.h5d.create(file["X"].id, b"data", kind, space, properties)
    made.write_direct_chunk((0,), values.tobytes(), filter_mask=0)


def as_text(X):
    return np.full(X.shape, "x", dtype=object)


def saved(thing):
    return lambda folder: torch.save(thing, folder / "mine" / "best_model.pt")


def one_tensor(tensor):
    return tensors(lambda weights: weights.update({"encoder.enc_norm.bias": tensor}))


LIST = {"next": {"dataset": "drop", "perturbations": "x.txt"}}
SUBMISSION = {"challenge": 2026, "prediction": "next", "genes": "genes.csv", "methods": ["train-mean"]}
CONFIGURATION = [
    (name, "configuration", configured(**changes), "study.yaml", where, found, expected)
    for name, changes, where, found, expected in [
        ("unknown key", {"folds": 3}, "top level", "unknown key 'folds'", "splits"),
        ("unknown key below", {"splits__fold": 3}, "splits", "'fold'", "folds"),
        ("missing key", {"methods": {"scgpt-zero-shot": {}}}, "methods.scgpt-zero-shot", "no such key", "'checkpoint'"),
        ("no methods", {"methods": {}}, "methods", "{}", "at least 1"),
        ("no data sets", {"datasets": []}, "datasets", "[]", "at least 1"),
        ("data sets not a list", {"datasets": "drop"}, "datasets", "'drop'", "list"),
        ("data set twice", {"datasets": ["drop", "drop"]}, "datasets", "['drop', 'drop']", "no entry twice"),
        ("methods not a table", {"methods": ["train-mean"]}, "methods", "['train-mean']", "keys with values"),
        ("study that is a path", {"study": "../x"}, "study", "'../x'", "text that matches"),
        ("data set named as a folder", {"datasets": ["figures"]}, "datasets", "'figures'", "another name: results/bad/figures may be"),
        ("no such data set", {"datasets": ["other"]}, "datasets", "'other'", "a name in drops.tsv: drop"),
        ("slash in a name", {"datasets": ["a/b"]}, "datasets.0", "'a/b'", "text that matches"),
        ("dots in a name", {"datasets": ["a..b"]}, "datasets.0", "'a..b'", "text that matches"),
        ("name above results", {"methods__../x": {"kind": "train-mean"}}, "methods", "'../x'", "text that matches"),
        ("line break in a name", {"datasets": ["drop\n"]}, "datasets.0", r"'drop\n'", "text that matches"),
        ("command in a name", {"datasets": ["$(touch x)"]}, "datasets.0", "'$(touch x)'", "text that matches"),
        ("unknown kind", {"methods__my-model": {}}, "methods.my-model.kind", "'my-model'", "train-mean"),
        ("unknown option", {"methods__train-mean": {"w": 1}}, "methods.train-mean", "'w'", "weighting"),
        ("option without meaning", {"methods__train-mean": {"weighting": "gene"}}, "weighting", "'gene'", "cell"),
        ("no such checkpoint", {"methods__scgpt-zero-shot__checkpoint": "human"}, "zero-shot.checkpoint", "'human'", "tiny"),
        ("no neighbour", {"methods__knn": {"neighbours": [1, 0]}}, "methods.knn.neighbours.1", "0", "at least 1"),
        ("no candidate", {"methods__knn": {"components": []}}, "methods.knn.components", "[]", "at least 1 entries"),
        ("prediction of nothing", {"predict": {"next": {"dataset": "drop"}}}, "predict.next.perturbations", "neither or both", "a list, or targets_of a data set"),
        ("prediction of no data set", {"predict": {"next": {"dataset": "other", "perturbations": "x.txt"}}}, "predict.next.dataset", "'other'", "an entry of 'datasets': drop"),
        ("prediction by a benchmark control", {"methods__shuffled": {}, "predict": {"next": {"dataset": "drop", "perturbations": "x.txt", "methods": ["shuffled"]}}}, "predict.next.methods", "'shuffled'", "methods that can predict what nobody measured"),
        ("submission of no list", {"submissions": {"vcc": SUBMISSION}}, "submissions.vcc.prediction", "'next'", "an entry of 'predict': there is none"),
        ("submission by a method that does not predict", {"predict": LIST, "submissions": {"vcc": {**SUBMISSION, "methods": ["elsewhere"]}}}, "submissions.vcc.methods", "'elsewhere'", "methods that predict 'next': scgpt-zero-shot, train-mean"),
        ("submission of too few cells", {"predict": LIST, "submissions": {"vcc": SUBMISSION}}, "predict.next.cells_per_perturbation", "100", "400, the number that the challenge of submissions.vcc takes"),
        ("genes of no part", {"predict": LIST, "submissions": {"vcc": {**SUBMISSION, "missing_genes": "control-cell"}}}, "submissions.vcc.missing_genes", "'control-cell', of 'drop', which is not joined", "refuse"),
        ("limit of another year", {"submissions": {"vcc": {**SUBMISSION, "challenge": 2025, "limits": {"counts_per_cell": 9}}}}, "submissions.vcc.limits", "'counts_per_cell'", "limits of 2025: genes, cells"),
        ("contexts of another year", {"submissions": {"vcc": {**SUBMISSION, "challenge": 2025, "contexts": {"A": "all"}}}}, "submissions.vcc.contexts", "1 contexts", "none: 2025 has one"),
        ("no such vectors", {"methods__knn": {"vectors": "go"}}, "methods.knn.vectors", "'go'", "a key of 'vectors': none is configured"),
        ("vectors of the cells to predict", {"vectors__mine": {"source": "file", "path": "vectors.tsv", "made_from": ["drop"]}}, "vectors.mine.made_from", "'drop', cells of the run's data set 'drop'", "vectors made without its cells"),
        ("vectors of unknown data", {"vectors__mine": {"source": "file", "path": "vectors.tsv", "made_from": ["other"]}}, "vectors.mine.made_from", "'other'", "names in drops.tsv: drop"),
        ("no such graph", {"methods__gears": {"graph": "go"}}, "methods.gears.graph", "'go'", "a key of 'vectors': none is configured"),
        ("no graph", {"methods__gears": {}}, "methods.gears", "no such key", "'graph'"),
        ("a graph of no known kind", {"methods__gears": {"graph": "go"}, "vectors__go": {"source": "file", "path": "go.h5ad"}}, "vectors.go.path", "'go.h5ad'", "a file that ends in .tsv, .tsv.gz, .csv, .csv.gz, .tar.gz"),
        ("a graph from a screen", {"methods__gears": {"graph": "go"}, "vectors__go": {"source": "dataset", "datasets": {"drop": "drop"}}}, "vectors.go.source", "'dataset', for a method that takes a graph", "a file or catalogue"),
        ("a graph from other contexts", {"methods__gears": {"graph": "go"}, "vectors__go": {"source": "contexts"}}, "vectors.go.source", "'contexts', for a method that takes a graph", "a file or catalogue"),
        ("vectors of no known kind", {"vectors__go": {"source": "file", "path": "go.pickle"}}, "vectors.go.path", "'go.pickle'", "a file that ends in .tsv"),
        ("vectors without a file", {"vectors__go": {"source": "file"}}, "vectors.go", "no such key", "'path'"),
        ("vectors not in the table", {"vectors__go": {"source": "catalogue"}}, "vectors.go", "no such gene vectors", "vectors.tsv: gears_go, gene2vec"),
        ("vectors of no other screen", {"vectors__other": {"source": "dataset", "datasets": {}}}, "vectors.other.datasets", "no entry for 'drop'", "another of drop"),
        ("vectors of the same screen", {"vectors__other": {"source": "dataset", "datasets": {"drop": "drop"}}}, "vectors.other.datasets.drop", "'drop', the same data set", "another screen"),
        ("unknown source", {"checkpoints__tiny__source": "web"}, "checkpoints.tiny.source", "'web'", "catalogue"),
        ("not in the table", {"checkpoints__x": {"source": "catalogue"}}, "checkpoints.x", "no such checkpoint", "checkpoints.tsv"),
        ("checkpoint without path", {"checkpoints__tiny": {"source": "folder"}}, "checkpoints.tiny", "no such key", "'path'"),
        ("a folder of downloads", {"checkpoints__tiny": {"source": "folder", "path": "resources/checkpoints/tiny"}}, "checkpoints.tiny.path", "'resources/checkpoints/tiny'", "source: catalogue, or a folder outside resources/checkpoints"),
        ("nothing to pretrain on", {"checkpoints__tiny": {"source": "pretrain", "dataset": "x"}}, "tiny.dataset", "'x'", "drop"),
        ("moving Census", {"checkpoints__tiny": {"source": "census", "census_version": "stable"}}, "census_version", "'stable'", "matches"),
        ("a date without quotes", {"checkpoints__tiny": {"source": "census", "census_version": datetime.date(2024, 7, 1)}}, "tiny.census_version", "date(2024, 7, 1)", "text; quotes make it one"),
        ("more pairs than there are", {"generated": {"x": {"combinations": 1771}}}, "generated.x.combinations", "1771", "at most 1770"),
        ("genes that are never asked for", {"methods__scgpt-knockout": {"checkpoint": "tiny", "draws": 2, "known_share": 0.6}}, "methods.scgpt-knockout.known_share", "0.6", "0 to 0.5 with 2 draws"),
        ("options of a script that JSON has not", {"methods__own": {"kind": "script", "script": "x.py", "options": {"since": datetime.date(2024, 7, 1)}}}, "methods.own.options.since", "date(2024, 7, 1)", "JSON"),
        ("no such fold", {"splits__run": [0, 2]}, "splits.run", "2", "from 0 to 1"),
        ("folds in words", {"splits__folds": "two"}, "splits.folds", "'two'", "integer"),
        ("folds with a point", {"splits__folds": 2.0}, "splits.folds", "2.0", "integer, such as 2"),
        ("a fold with a point", {"splits__run": [0.0]}, "splits.run.0", "0.0", "integer, such as 0"),
        ("genes with a point", {"harmonize__maximum_genes": 1e3}, "harmonize.maximum_genes", "1000.0", "integer, such as 1000"),
        *(
            (f"heads of {source}", {"checkpoints__tiny": {"source": source, "nheads": 7, **options}}, "checkpoints.tiny.nheads", "7", "a divisor of embsize, 512")
            for source, options in [("random", {}), ("pretrain", {"dataset": "drop"}), ("census", {"census_version": "2024-07-01"})]
        ),
        ("share of all", {"splits__validation_share": 1}, "splits.validation_share", "1", "less than 1"),
        ("share that is no number", {"splits__validation_share": float("nan")}, "splits.validation_share", "nan", "a finite number"),
        ("a data set named like a table of the study", {"datasets": ["scores.tsv"]}, "datasets", "'scores.tsv'", "another name"),
        ("no split", {"splits__run": []}, "splits", "no split to run", "an entry in run, gears_seeds, contexts or files, or a list in predict"),
        ("a method that no list has, without a split", {"splits__run": [], "predict": {"next": {"dataset": "drop", "perturbations": "list.txt", "methods": ["train-mean"]}}}, "methods.", "a method that nothing runs", "a method of a list in predict"),
        ("a training without a split", {"splits__run": [], "methods": {"scgpt-finetuned": {"checkpoint": "tiny"}}, "predict": {"next": {"dataset": "drop", "perturbations": "list.txt"}}}, "predict.next.methods", "'scgpt-finetuned', and no split of measured conditions", "a split"),
        ("scorers without a split", {"splits__run": [], "methods": {"train-mean": {}}, "official_scorers": ["cell_eval"], "predict": {"next": {"dataset": "drop", "perturbations": "list.txt"}}}, "official_scorers", "scorers, and no split", "an entry in splits"),
        ("split twice", {"splits__files": {"fold0": {"drop": "x.tsv"}}}, "splits", "'fold0' twice", "every split once"),
        ("contexts that no table names", {"splits__contexts": {"hold_out": "all"}}, "splits.contexts.hold_out", "all, but drops.tsv does not name the contexts of 'drop'", "column 'contexts'"),
        ("a context without a list", {"splits__contexts": {"hold_out": "K562"}}, "splits.contexts.hold_out", "'K562'", "all, or a list"),
        ("contexts of one name", {"splits__contexts": {"hold_out": ["T cell", "T-cell"]}}, "splits.contexts.hold_out", "'T cell' and 'T-cell', both of which are 'T_cell'", "names that differ"),
        ("both without a fold", {"splits__run": [], "splits__contexts": {"hold_out": ["K562"], "unseen": ["both"]}}, "splits.contexts.unseen", "no fold in splits.run", "folds to cross"),
        ("all conditions seen", {"splits__contexts": {"hold_out": ["K562"], "seen": [1]}}, "splits.contexts.seen.0", "1", "less than 1"),
        ("a split named like pooled ones", {"splits__contexts": {"hold_out": ["K562"]}, "splits__files": {"contexts": {"drop": "x.tsv"}}}, "splits.files.contexts", "pooled", "another name"),
        ("split named all", {"splits__files": {"all": {"drop": "x.tsv"}}}, "splits.files.all", "pooled", "another name"),
        ("no split file", {"splits__files": {"mine": {}}}, "splits.files.mine", "no file for 'drop'", "every data set"),
        *(
            (f"split named {name}", {"splits__files": {name: {"drop": "x.tsv"}}}, f"splits.files.{name}", "the workflow's own folders", "another name")
            for name in ("vocabulary", "vectors", "figures", "predicted-next")
        ),
        ("one prediction file for two seeds", {"methods__elsewhere__seeds": [0, 1]}, "methods.elsewhere.files.drop.fold0", "'elsewhere.h5ad', for 2 seeds", "a path with {seed}, or one seed"),
        ("no prediction file", {"methods__elsewhere__files": {}}, "files.drop", "no file for split 'fold0'", "every split"),
        ("oracle of real cells", {"methods__oracle": {}}, "methods.oracle", "measured data (drop)", "generated"),
        ("no control cells", {"controls__cells_per_perturbation": 0}, "controls.cells_per_perturbation", "0", "at least 1"),
        ("scorers without cells", {"inference__keep_cells": False, "official_scorers": ["cell_eval"]}, "inference.keep_cells", "false, with official_scorers", "every predicted cell"),
        ("a number for a key", {"splits__files": {1: {}}}, "splits.files", "the key 1", "text"),
        ("negative seed", {"splits__seed": -1}, "splits.seed", "-1", "at least 0"),
        ("no margin", {"scores__margin": 0}, "scores.margin", "0", "greater than 0"),
        ("a candidate out of range", {"methods__scgpt-finetuned": {"checkpoint": "tiny", "search": {"epochs": [1, 0]}}}, "methods.scgpt-finetuned.search.epochs", "0", ""),
        ("a search of what is no option", {"methods__scgpt-scratch": {"checkpoint": "tiny", "search": {"seeds": [1]}}}, "methods.scgpt-scratch.search", "seeds", ""),
        ("a training size of one", {"splits__training_sizes": [1]}, "splits.training_sizes.0", "1", "a whole number of at least 2, or full"),
        ("a split called like a subset", {"splits__files": {"fold0-train5": {"drop": "mine.tsv"}}, "splits__training_sizes": [5]}, "splits.files.fold0-train5", "fold0 with 5 perturbations", "another name"),
        ("a family with a simple method", {"scores__family": ["train-mean"]}, "scores.family", "'train-mean'", "methods that are judged"),
        ("resamples of the bootstrap of before", {"scores__bootstrap_draws": 100}, "scores", "unknown key 'bootstrap_draws'", "margin"),
        ("seed in quotes", {"methods__train-mean": {"seeds": ["0"]}}, "methods.train-mean.seeds.0", "'0'", "integer"),
        ("no quantile", {"methods__scgpt-knockout": {"checkpoint": "tiny", "target_quantile": None}}, "knockout.target_quantile", "None", "number"),
        *(
            ("braces in " + where, changes, where, "{", "without '{' and '}'")
            for where, changes in [
                ("checkpoints.tiny.path", {"checkpoints__tiny__path": "my{tiny}"}),
                ("vectors.go.path", {"vectors__go": {"source": "file", "path": "{go}.tsv"}}),
                ("published_results_table", {"published_results_table": "{published}.tsv"}),
                ("splits.files.mine.drop", {"splits__files": {"mine": {"drop": "{x.tsv"}}, "methods": {"train-mean": {}}}),
                ("methods.elsewhere.files.drop.fold0", {"methods__elsewhere__files__drop__fold0": "{seed}{dataset}.h5ad"}),
                ("predict.next.perturbations", {"predict": {"next": {"dataset": "drop", "perturbations": "{x}.txt", "methods": ["train-mean"]}}}),
                ("methods.own.script", {"methods__own": {"kind": "script", "script": "{x}.py"}}),
            ]
        ),
        ("too many panels", {"figures__perturbations": 25}, "figures.perturbations", "25", "at most 24"),
    ]
]  # fmt: skip

TABLES = [
    *(
        (f"{column} {cell!r}", "configuration", row(**{column: cell}), "drops.tsv", where, found, expected)
        for column, cell, where, found, expected in [
            *(
                ("name", name, "column 'name'", repr(name), "letters, digits")
                for name in ("a/b", "..", "-a", ".a", "a b", "ä", "<b>", "$(touch x)")
            ),
            ("name", "", "line 3 (None), column 'name'", "an empty cell", "a value"),
            ("name", "first", "line 3 (first), column 'name'", "'first' a second time", "every name once"),
            ("sha256", "abc", "column 'sha256'", "'abc'", "64 hexadecimal digits"),
            ("address", "a{b}.h5ad", "address of 'drop'", "'a{b}.h5ad'", "without '{' and '}'"),
            ("guide_table", "{b}.csv", "guide_table of 'drop'", "'{b}.csv'", "without '{' and '}'"),
            ("address", "ftp://a/b", "column 'address'", "'ftp://a/b'", "https://"),
            ("address", "https://a/b", "column 'sha256'", "'unknown'", "64 hexadecimal digits"),
            ("address", "generated", "column 'format'", "'h5ad'", "'generated' in both"),
            ("format", "xlsx", "line 3 (drop), column 'format'", "'xlsx'", "h5ad"),
            ("values", "tpm", "column 'values'", "'tpm'", "counts, log1p"),
            ("perturbation_kind", "drug", "column 'perturbation_kind'", "'drug'", "knock-out"),
            ("perturbation_kind", "mixed", "column 'direction_column'", "'an empty cell' with perturbation_kind 'mixed'", "a column of obs with down and up"),
            ("direction_column", "way", "column 'direction_column'", "'way' with perturbation_kind 'interference'", "only there"),
            ("perturbation_column", "", "column 'control_label'", "'NT'", "an empty cell, or the column of each cell's perturbation"),
            ("control_label", "", "column 'control_label'", "an empty cell", "a value"),
            ("control_label", "NT|", "column 'control_label'", "'NT|'", "none empty"),
            ("excluded_label", "doublet|NT", "column 'excluded_label'", "'NT', which control_label has too", "labels of other cells"),
            ("contexts", "K562|RPE1", "column 'contexts'", "'K562|RPE1'", "an empty cell where there is no context_column"),
            ("guide_prefix", "*sg", "column 'guide_prefix'", "'*sg'", "a regular expression"),
            ("guide_prefix", "(?i)sg", "column 'guide_prefix'", "'(?i)sg'", "a regular expression"),
            ("guide_suffix", "g(", "column 'guide_suffix'", "'g('", "a regular expression"),
            ("bytes", "1.5", "column 'bytes'", "'1.5'", "a positive whole number"),
            ("cells", "0", "column 'cells'", "'0'", "a positive whole number"),
            *(("target_sum", cell, "column 'target_sum'", repr(cell), "a positive number") for cell in ("0", "inf", "x")),
        ]
    ),
    ("control cells only, of mixed kind", "configuration", row(perturbation_column="", control_label="", combination_separator="", perturbation_kind="mixed"), "drops.tsv",
     "column 'perturbation_kind'", "'mixed'", "one kind, for cells without perturbations"),
    ("a split of control cells only", "configuration", row(perturbation_column="", control_label="", combination_separator=""), "study.yaml", "splits",
     "'fold0', but 'drop' has control cells only", "no split (run: []), and lists in predict"),
    ("a layer of what has none", "configuration", row(format="10x_h5", layer="counts"),
     "drops.tsv", "column 'layer'", "'counts'", "an empty cell in format '10x_h5'"),
    ("a context twice", "configuration", row(context_column="line", contexts="K562|K562"),
     "drops.tsv", "column 'contexts'", "'K562|K562'", "every context once"),
    ("a context to hold out that the table does not have", "configuration",
     both(row(context_column="line", contexts="K562|RPE1"), configured(splits__contexts={"hold_out": ["HAP1"]})),
     "study.yaml", "splits.contexts.hold_out", "'HAP1', of which 'drop' has no cell", "one of K562, RPE1"),
    *(
        (f"joined: {name}", "configuration", joined_row(**changes), "drops.tsv", where, found, expected)
        for name, changes, where, found, expected in [
            ("a part that is no row", {"address": "joined:drop,third"}, "line 4 (both), column 'address'", "'third', which is no row of this table", "the names of drops"),
            ("no part", {"address": "joined:"}, "column 'address'", "'', which is no row", "the names of drops"),
            ("a part that is joined", {"address": "joined:drop,both"}, "column 'address'", "'both', which is joined itself", "the names of drops"),
            ("a part twice", {"address": "joined:drop,drop"}, "column 'address'", "'drop' twice", "every part once"),
            ("one part", {"address": "joined:drop"}, "column 'address'", "'drop' alone", "two parts or more"),
            ("labels of its own", {"control_label": "NT"}, "column 'control_label'", "'NT'", "an empty cell"),
            ("a checksum", {"sha256": SUM}, "column 'sha256'", SUM, "an empty cell"),
            ("a file", {"address": "drop.h5ad"}, "column 'address'", "'drop.h5ad'", "'joined:' and the names of rows"),
            ("another format", {**ROW, "name": "both", "address": "joined:drop,second"}, "column 'format'", "'h5ad' with address 'joined:drop,second'", "'joined' in both"),
        ]
    ),
    ("vectors from a part", "configuration", both(joined_row(), configured(
        datasets=["drop", "both"], methods={"train-mean": {}}, vectors__own={"source": "dataset", "datasets": {"drop": "both", "both": "drop"}},
    )), "study.yaml", "vectors.own.datasets.drop", "'both', the same data set", "another screen"),
    ("a key twice", "configuration", appended("study.yaml", "splits: {training_sizes: [2]}\n"), "study.yaml", "splits", "two of them (lines", "one"),
    ("a key below twice", "configuration", text("study.yaml", "study: a\nmethods:\n  knn: {}\n  knn: {neighbours: 3}\n"), "study.yaml",
     "methods.knn", "two of them (lines 3 and 4)", "one"),
    ("own weights under another name", "configuration", renamed("mine/best_model.pt", "mine/epoch_6.ckpt"),
     "mine", "best_model.pt", "no such file, only epoch_6.ckpt", "best_model.pt or model.safetensors"),
    ("folder by hand", "configuration", both(configured(checkpoints__tiny={"source": "catalogue"}), checkpoint_rows({"file": "folder", "address": "https://a/b"})),
     "study.yaml", "checkpoints.tiny", "to be downloaded by hand: https://a/b", "source: folder"),
    ("no table", "configuration", removed("drops.tsv"), "drops.tsv", "table", "No such file", "tab-separated"),
    ("empty table", "configuration", text("drops.tsv", ""), "drops.tsv", "line 1", "missing column 'name'", "the columns name"),
    ("table in Latin-1", "configuration", text("drops.tsv", b"\xe4"), "drops.tsv", "table", "codec", "tab-separated"),
    ("short row", "configuration", table_lines("a\tb"), "drops.tsv", "line 3", "2 cells", "one per column"),
    *(
        (f"checkpoint {name}", "configuration", checkpoint_rows(change), "checkpoints.tsv", where, found, expected)
        for name, change, where, found, expected in [
            ("files missing", {}, "checkpoint 'tiny'", "no row for best_model.pt, vocab.json", "a row per file"),
            ("file unknown", {"file": "model.bin"}, "column 'file'", "'model.bin'", "best_model.pt"),
            ("sum unknown", {"sha256": "unknown"}, "column 'sha256'", "'unknown'", "64 hexadecimal digits"),
            ("without size", {"bytes": ""}, "line 2 (tiny), column 'bytes'", "an empty cell", "a value"),
            ("above resources", {"name": "../x"}, "column 'name'", "'../x'", "letters, digits"),
        ]
    ),
]  # fmt: skip

VECTORS = [
    (name, "gene_vectors", fault, "vectors.tsv", where, found, expected)
    for name, fault, where, found, expected in [
        ("no such file", removed("vectors.tsv"), "table", "No such file", "with a header"),
        ("a gene twice", text("vectors.tsv", "gene\tx\nG0\t1\nG0\t2\n"), "row 2", "'G0' a second time", "every gene once"),
        ("a missing value", text("vectors.tsv", "gene\tx\nG0\t1\nG1\t\n"), "gene 'G1', column 'x'", "nan", "a finite number"),
        ("text for a number", text("vectors.tsv", "gene\tx\nG0\tNA\n"), "gene 'G0', column 'x'", "'NA'", "a number"),
        ("another number of columns", text("vectors.tsv", "gene\tx\nG0\t1\nG1\t2\t3\n"), "table", "Expected 2 fields", "a table"),
        ("no gene", text("vectors.tsv", "gene\tx\n"), "table", "0 genes, 1 dimensions", "a vector for every gene"),
        ("other names", text("vectors.tsv", "gene\tx\nQ1\t1\n"), "genes", "none of the 6 perturbed genes (G0, G1, G2, ...), but Q1", "gene symbols"),
    ]
]  # fmt: skip

GRAPHS = [
    (name, "predict_gears", fault, "graph.csv", where, found, expected)
    for name, fault, where, found, expected in [
        ("no such graph", removed("graph.csv"), "table", "No such file", "with a header"),
        ("no edge", text("graph.csv", "source,target,importance\n"), "table", "no row", "an edge per row"),
        ("no similarity", text("graph.csv", "source,target\nG0,G1\n"), "columns", "source, target", "the column 'importance'"),
        ("a negative similarity", text("graph.csv", "source,target,importance\nG0,G1,-1\n"), "row 1", "G0, G1, -1", "two genes and a positive number"),
        ("a graph of other genes", text("graph.csv", "source,target,importance\nQ0,Q1,1\n"), "genes", "none of the 6 perturbed genes (G0, G1, G2, ...)", "a graph of perturbed genes"),
    ]
]  # fmt: skip

CONTEXTS = [
    (name, "harmonize contexts", fault, "drop.h5ad", where, found, expected)
    for name, fault, where, found, expected in [
        ("no column of contexts", h5ad("drop.h5ad", lambda cells: cells.obs.__delitem__("line")), "obs", "no column 'line' (columns: 'gene', 'way')", "the data-set table names"),
        ("a cell without a context", contexts("line", None, slice(5, 8)), "obs['line'] of cell 'cell5'", "no value (3 such cells)", "a value for every cell"),
        ("a context with the reserved name", contexts("line", ["all", "RPE1"]), "obs['line']", "the context 'all'", "not 'all'"),
        ("a context that is a path", contexts("line", ["../x", "RPE1"]), "obs['line']", "the context '../x'", "without '@' and '/'"),
        ("a context with the sign of labels", contexts("line", ["a@b", "RPE1"]), "obs['line']", "the context 'a@b'", "without '@' and '/'"),
        ("two spellings of a context", contexts("line", ["K562", "k562"]), "obs['line']", "the contexts 'K562' and 'k562'", "one spelling"),
        ("a context without controls", contexts("line", "HAP1", slice(30, 60)), "obs['line']", "30 cells of 'HAP1', but no control cell", "control cells or more in every context"),
        ("a cell without a direction", contexts("way", "", slice(40, 42)), "obs['way'] of cell 'cell40'", "no value (2 such cells)", "a value for every cell"),
        ("an unknown direction", contexts("way", "prime editing"), "obs['way'] of cell 'cell30'", "'prime editing' (180 such cells)", "down or CRISPRi"),
        ("two directions of one condition", contexts("way", "up", slice(30, 40)),
         "obs['way']", "'G0@K562' down in 10 cells and up in 5", "one direction of each perturbation"),
    ]
]  # fmt: skip
CONTEXTS += [
    ("contexts that the table does not have", "harmonize declared contexts", contexts("line", ["HAP1", "RPE1"]),
     "drop.h5ad", "obs['line']", "HAP1, RPE1", "K562, RPE1 (column 'contexts' of the data-set table)"),
    ("a context to hold out that is not there", "split by context",
     h5ad("results/bad/lines/cells.h5ad", lambda cells: cells[cells.obs["context"] == "RPE1"].copy()),
     "data set drop", "obs['context']", "perturbed cells of 'RPE1'", "perturbed cells of 'K562'"),
    ("a context with few cells", "split by context",
     h5ad("results/bad/lines/cells.h5ad", lambda cells: cells[(cells.obs["context"] == "RPE1") | (np.arange(cells.n_obs) % 4 == 0)].copy()),
     "data set drop", "split by context 'K562'", "no test perturbation", "at least one of each"),
]  # fmt: skip

PARTS = [
    (name, "join", fault, file, where, found, expected)
    for name, fault, file, where, found, expected in [
        ("half a part", truncated("part.h5ad"), "part.h5ad", "file", "truncated file", "AnnData"),
        ("parts without a common gene", h5ad("part.h5ad", lambda cells: setattr(cells, "var_names", [f"X{i}" for i in range(12)])),
         "joined:drop,other", "genes", "0 that all parts have (of drop 12, other 12)", "at least 3, 10% of the smallest part's"),
    ]
]  # fmt: skip

CELLS = [
    (name, "harmonize", fault, "drop.h5ad", where, found, expected)
    for name, fault, where, found, expected in [
        ("a web page", text("drop.h5ad", "<html>are you a robot?</html>"), "file", "a web page", "AnnData"),
        ("an empty file", text("drop.h5ad", ""), "file", "an empty file", "AnnData"),
        ("half a file", truncated("drop.h5ad"), "file", "truncated file", "AnnData"),
        ("a compressed file", text("drop.h5ad", gzip.compress(b"\x89HDF")), "file", "an HDF5 file compressed by gzip", "format 'gz_h5ad'"),
        ("a table", text("drop.h5ad", ",G0,G1\ncell0,1,2\n"), "file", "a comma-separated table", "AnnData"),
        ("a loom file", hdf5("drop.h5ad", as_loom), "file", "a loom file", "read_loom"),
        ("another compression", hdf5("drop.h5ad", compressed_elsewhere), "/X/data", "zstd (HDF5 filter 32015)", "import hdf5plugin"),
        ("a group for X", hdf5("drop.h5ad", lambda file: file["X"].attrs.update({"encoding-type": "dict"})),
         "X", "a group of encoding 'dict'", "CSR"),
        ("a label beyond the categories", hdf5("drop.h5ad", lambda file: file["obs/gene/codes"].__setitem__(0, 99)),
         "obs['gene']", "codes need to be", "a column that anndata"),
        ("no gene among the features", h5ad("drop.h5ad", lambda cells: cells.var.__setitem__("feature_types", "Peaks")),
         "var['feature_types']", "only Peaks (12)", "Gene Expression"),
        ("a feature without a type", h5ad("drop.h5ad", lambda cells: cells.var.__setitem__("feature_types", ["Gene Expression"] * 11 + [""])),
         "var['feature_types'] of 'G11'", "no value", "the type of every feature"),
        ("no obs", hdf5("drop.h5ad", lambda file: file.pop("obs")), "file", "'obs'", "AnnData"),
        ("no X", hdf5("drop.h5ad", lambda file: file.pop("X")), "X", "nothing", "a matrix"),
        ("text for X", matrix("drop.h5ad", as_text), "X", "values of type object", "numbers"),
        ("complex X", matrix("drop.h5ad", lambda X: X.toarray() * 1j), "X", "complex", "numbers"),
        ("indices beyond the genes", hdf5("drop.h5ad", lambda file: file["X/indices"].__setitem__(0, 10**6)),
         "X", "indices must be < 12", "a valid sparse matrix"),
        ("negative indices", hdf5("drop.h5ad", lambda file: file["X/indices"].__setitem__(0, -7)),
         "X", "indices must be >= 0", "a valid sparse matrix"),
        ("short index pointer", hdf5("drop.h5ad", lambda file: file["X"].update(indptr=file["X"].pop("indptr")[:3])),
         "X", "index pointer size 3", "a valid sparse matrix"),
        ("a link to a file", hdf5("drop.h5ad", linked_labels),
         "obs['gene']", "a ExternalLink", "data in the file itself"),
        ("a missing label", label(None), "obs['gene'] of cell 'cell5' (3 such cells)", "the label ''", "'nan' in excluded_label"),
        ("guides for genes", h5ad("drop.h5ad", lambda cells: cells.obs.__setitem__("gene", cells.obs["gene"].astype(str) + "_guide1")),
         "obs['gene']", "no control; most frequent: 'NT_guide1' (30)", "labelled 'NT'; proposed: guide_suffix '_guide\\d+$'"),
        ("promoters for genes", h5ad("drop.h5ad", lambda cells: cells.obs.__setitem__("gene", cells.obs["gene"].astype(str).replace(r"^G(\d)$", r"G\1_TSS", regex=True))),
         "obs['gene']", "6 labels that look like guides or combinations, such as 'G0_TSS'", "guide_suffix '_TSS$' in the data-set table (7 of 7 labels"),
        ("bars between genes", h5ad("drop.h5ad", lambda cells: cells.obs.__setitem__("gene", cells.obs["gene"].astype(str).replace(r"^G(\d)$", r"G\1|G7", regex=True))),
         "obs['gene']", "such as 'G0|G7'", "combination_separator '|' in the data-set table"),
        ("half a pair", label("G1+"), "obs['gene'] of cell 'cell5'", "the label 'G1+'", "names a gene"),
        ("a control in lower case", label("nt"), "obs['gene'] of cell 'cell5' (3 such cells)", "the label 'nt', which differs from the control label 'NT' in case only", "one spelling"),
        ("a control in lower case beside a gene", label("G1+nt"), "cell 'cell5'", "the label 'G1+nt', in which 'nt' differs", "one spelling"),
        ("a reserved label in capitals", label("Control"), "cell 'cell5'", "reserved for control cells", "among the control labels"),
        ("a reserved label", label("control"), "cell 'cell5'", "reserved for control cells", "among the control labels"),
        ("no controls", h5ad("drop.h5ad", lambda cells: cells[30:].copy()), "obs['gene']", "no control", "labelled 'NT'"),
        ("numbers for labels", h5ad("drop.h5ad", lambda cells: cells.obs.__setitem__("gene", np.arange(210))),
         "obs['gene']", "no control", "'NT'"),
        ("another column", h5ad("drop.h5ad", lambda cells: cells.obs.rename(columns={"gene": "target"}, inplace=True)),
         "obs", "no column 'gene' (columns: 'target', 'line', 'way')", "the perturbation of each cell"),
        ("NaN", value(np.nan), "X, gene 'G3', cell 'cell5'", "nan", "a finite value"),
        ("infinity", value(np.inf), "X, gene 'G3', cell 'cell5'", "inf", "a finite value"),
        ("negative counts", value(-1), "X, gene 'G3', cell 'cell5'", "-1", "a finite value of 0 or more"),
        ("half a count", value(0.5), "X, gene 'G3', cell 'cell5'", "0.5", "an integer"),
        ("a gene twice", h5ad("drop.h5ad", lambda cells: cells.var.rename(index={"G7": "G1"}, inplace=True)),
         "var index", "duplicate gene names: 'G1'", "every gene name once"),
        ("Ensembl", h5ad("drop.h5ad", lambda cells: cells.var.set_index(
            pd.Index([f"ENSG{i:011d}" for i in range(12)]), inplace=True)), "var index", "Ensembl", "gene symbols"),
        ("nothing but zeros", matrix("drop.h5ad", lambda X: X * 0), "X", "nothing but zeros", "expression"),
        ("no cells", h5ad("drop.h5ad", lambda cells: cells[:0].copy()), "X", "0 cells x 12 genes", "values"),
        ("few cells", h5ad("drop.h5ad", lambda cells: cells[:39].copy()), "obs['gene']", "at most 9 cells", "at least 10"),
        ("one control", h5ad("drop.h5ad", lambda cells: cells[29:].copy()), "obs['gene']", "but one control cell",
         "two control cells or more in every context"),
        ("two genes", h5ad("drop.h5ad", lambda cells: cells[:, :2].copy()), "genes", "2", "at least 3"),
    ]
]  # fmt: skip
CELLS += [
    (name, "harmonize to variable genes", h5ad("drop.h5ad", fault), "drop.h5ad", "control cells", found, expected)
    for name, fault, found, expected in [
        ("two control cells", lambda cells: cells[28:].copy(), "2", "at least 3 to choose genes by dispersion"),
        ("controls that are alike", lambda cells: cells[np.r_[[0] * 30, 30:210]].copy(), "no gene that varies", "that differ"),
    ]
]  # fmt: skip
OWN_FILES = [
    ("tested and trained on", "audit", text("results/bad/drop/fold0/split.tsv", "perturbation\tcontext\trole\nG1\tall\ttest\nG1\tall\ttrain\n"), "split fold0", "role 'test'", "'G1', which is trained on as well", "no tested perturbation in training"),
    ("own cells cut short", "split", truncated("results/bad/drop/cells.h5ad"), "cells.h5ad", "file", "truncated", "AnnData"),
    ("own cells damaged", "sample_controls", flipped_bit("results/bad/drop/cells.h5ad", "X/data"),
     "cells.h5ad", "file", "OSError", "AnnData"),
    ("own split empty", "sample_controls", text("results/bad/drop/fold0/split.tsv", ""), "split.tsv", "table", "No columns", "a table"),
]  # fmt: skip

VOCABULARY = [
    (name, "align_vocabulary", text("mine/vocab.json", content), "mine/vocab.json", where, found, expected)
    for name, content, where, found, expected in [
        ("cut short", '{"G0": 0', "file", "Expecting", "JSON: token ids by gene symbol"),
        ("too deep", DEEP, "file", "recursion", "JSON"),
        ("not UTF-8", b'{"\xe4": 0}', "file", "codec", "JSON"),
        ("a list", '["G0"]', "file", "list", "a JSON object"),
        ("an object in it", '{"G0": {}, "<pad>": 0}', "'G0'", "()", "a whole number"),
        ("no pad", '{"G0": 0, "G1": 1}', "symbols", "without '<pad>'", "'<pad>'"),
        ("empty", "{}", "symbols", "0 without '<pad>'", "'<pad>'"),
        ("ids and symbols the wrong way round", '{"0": "G0", "1": "<pad>"}', "'0'", "'G0'", "a whole number"),
        ("ids with a point", '{"G0": 0.0, "<pad>": 1.0}', "'G0'", "0.0", "a whole number"),
        (
            "Ensembl identifiers",
            '{"ENSG00000000003": 0, "<pad>": 1}',
            "symbols",
            "none of the data set's 12 genes (G0, ...), but ENSG00000000003",
            "their names",
        ),
        ("an id twice", '{"G0": 0, "G1": 0, "<pad>": 1}', "token id 0", "2 times", "once"),
        ("a symbol twice", '{"G0": 0, "G0": 1, "<pad>": 2}', "symbol 'G0'", "2 times", "once"),
        ("an id in quotes", '{"G0": "0", "<pad>": 1}', "'G0'", "'0'", "a whole number"),
        ("half an id", '{"G0": 0.5, "<pad>": 1}', "'G0'", "0.5", "a whole number"),
        ("a truth for an id", '{"G0": true, "<pad>": 0}', "'G0'", "True", "a whole number"),
        ("a gap", '{"G0": 5, "<pad>": 0}', "token ids", "0 to 5", "0 to 1"),
        ("a negative id", '{"G0": -1, "<pad>": 0}', "token ids", "-1 to 0", "0 to 1"),
    ]
]

GENE_INFO = [
    (f"identifiers: {name}", "align_vocabulary", text("mine/gene_info.csv", content), "mine/gene_info.csv", where, found, expected)
    for name, content, where, found, expected in [
        ("empty", "", "table", "No columns", "a table"),
        ("a web page", "<html>are you a robot?</html>", "line 1", "no column 'feature_id'", "feature_id (Ensembl)"),
        ("tabs", "feature_id\tfeature_name\nENSG00000000001\tG0\n", "line 1", "no column 'feature_id'", "feature_name (symbol)"),
        ("no symbols", "feature_id,gene\nENSG00000000001,G0\n", "line 1", "no column 'feature_name' (columns: feature_id, gene)", "the columns"),
        ("columns exchanged", "feature_id,feature_name\nG0,ENSG00000000001\n", "line 2, feature_id", "'G0'", "an Ensembl identifier"),
        ("no identifier", "feature_id,feature_name\nENSG00000000001,G0\n,G1\n", "line 3, feature_id", "''", "an Ensembl identifier"),
        ("an identifier twice", "feature_id,feature_name\nENSG00000000001.1,G0\nENSG00000000001.2,G1\n",
         "feature_id", "'ENSG00000000001' a second time", "every one once"),
        ("a symbol twice", "feature_id,feature_name\nENSG00000000001,G0\nENSG00000000002,G0\n",
         "feature_name", "'G0' a second time", "every one once"),
        ("not UTF-8", b"feature_id,feature_name\nENSG00000000001,\xe4\n", "table", "codec", "a table"),
        ("ragged", "feature_id,feature_name\nENSG00000000001,G0\nENSG00000000002,G1,x,y\n", "table", "line 3, saw 4", "a table"),
    ]
]  # fmt: skip

CHECKPOINT = [
    (name, "predict_scgpt", fault, f"mine/{file}" if file else "mine", where, found, expected)
    for name, fault, file, where, found, expected in [
        ("no weights", removed("mine/best_model.pt"), "", "folder", "no weights", "best_model.pt or model.safetensors"),
        ("empty weights", text("mine/best_model.pt", ""), "best_model.pt", "file", "0 bytes", "a state dict"),
        ("a web page", text("mine/best_model.pt", "<html>"), "best_model.pt", "file", "a web page (HTML) (6 bytes)", "a state dict"),
        ("half the weights", truncated("mine/best_model.pt"), "best_model.pt", "file", "bytes)", "a state dict"),
        ("changed weights", flipped_bit("mine/best_model.pt"), "best_model.pt", "data/", "checksum", "undamaged"),
        ("a list", saved([1]), "best_model.pt", "file", "list", "a state dict"),
        ("a whole module", saved(torch.nn.Linear(2, 2)), "best_model.pt", "file", "torch.nn.modules.linear.Linear", "a state dict"),
        ("other weights one level down", saved({"model": {"a": torch.zeros(2)}}),
         "best_model.pt", "encoder.embedding.weight", "no such tensor", "shape [15, 8]"),
        ("an optimizer alone", saved({"lr": 0.1}), "best_model.pt", "file", "no tensors in a dict", "torch.save(model.state_dict())"),
        ("arguments beside", saved({"model": {"a": torch.zeros(2)}, "args": argparse.Namespace(lr=1)}),
         "best_model.pt", "file", "more than plain tensors: argparse.Namespace", "torch.save(model.state_dict())"),
        ("two models", tensors(lambda weights: weights.update({f"ema.{name}": weights[name] for name in list(weights)})),
         "best_model.pt", "file", "models '' and 'ema.'", "one model"),
        ("another name", renamed("mine/best_model.pt", "mine/model_e12.pt"), "", "folder", "no weights, only model_e12.pt", "best_model.pt"),
        ("a pointer of Git LFS", text("mine/best_model.pt", "version https://git-lfs.example/v1"),
         "best_model.pt", "file", "a pointer of Git LFS", "a state dict"),
        ("batch norm in the weights", tensors(lambda weights: weights.update({"bn.weight": torch.ones(8)})),
         "best_model.pt", "bn.weight", "domain_spec_batchnorm", "a model without it"),
        ("an adapter", tensors(lambda weights: weights.update({"encoder.enc_norm.lora_A": torch.ones(2, 8)})),
         "best_model.pt", "encoder.enc_norm.lora_A", "does not have", "scGPT alone"),
        ("too large for fp32", one_tensor(torch.full((8,), 1e300, dtype=torch.float64)),
         "best_model.pt", "enc_norm.bias", "not finite in fp32", "finite weights"),
        ("names without values", one_tensor(torch.empty(8, device="meta")), "best_model.pt", "enc_norm.bias", "without values", "dense"),
        ("norm before attention", arguments(pre_norm=True), "args.json", "pre_norm", "true", "false: layers normalize after"),
        ("embedded bins", arguments(input_emb_style="category"), "args.json", "input_emb_style", '"category"', '"continuous"'),
        ("logarithms for bins", arguments(input_style="log1p"), "args.json", "input_style", '"log1p"', '"binned"'),
        ("batch norm", arguments(DSBN=True), "args.json", "DSBN", "true", "false: embeddings are not batch-normalized"),
        ("another padding token", arguments(pad_token="[PAD]"), "args.json", "pad_token", '"[PAD]"', '"<pad>"'),
        ("two numbers of bins", arguments(n_input_bins=101), "args.json", "n_input_bins", "101", "51, as n_bins"),
        ("arguments one level down", text("mine/args.json", '{"model": {"embsize": 8}}'),
         "args.json", "embsize", "no such key but one inside 'model'", "a positive whole number"),
        ("other names for sizes", text("mine/args.json", '{"n_embd": 8}'),
         "args.json", "embsize", "no such key but a key 'n_embd'", "a positive whole number"),
        ("arguments of a model hub", renamed("mine/args.json", "mine/config.json"),
         "args.json", "file", "no such file, only config.json", "a file args.json"),
        ("integers", one_tensor(torch.zeros(8, dtype=torch.int64)), "best_model.pt", "enc_norm.bias", "int64", "floating-point"),
        ("sparse", one_tensor(torch.zeros(8).to_sparse()), "best_model.pt", "enc_norm.bias", "sparse", "a dense tensor"),
        ("another shape", one_tensor(torch.zeros(9)), "best_model.pt", "enc_norm.bias", "shape [9]", "[8], as args.json"),
        ("an absurd shape", one_tensor(torch.zeros(1).expand(2**40)), "best_model.pt", "enc_norm.bias", "1099511627776", "[8]"),
        ("NaN", one_tensor(torch.full((8,), torch.nan)), "best_model.pt", "enc_norm.bias", "not finite", "finite weights"),
        ("a missing tensor", tensors(lambda weights: weights.pop("encoder.enc_norm.bias")),
         "best_model.pt", "encoder.enc_norm.bias", "no such tensor", "shape [8]"),
        ("fewer layers", arguments(nlayers=1), "args.json", "nlayers", "1", "2, as in best_model.pt"),
        ("a billion layers", arguments(nlayers=10**9), "args.json", "nlayers", "1000000000", "2, as in best_model.pt"),
        ("an absurd width", arguments(embsize=10**12), "best_model.pt", "encoder.embedding.weight", "[15, 8]", "1000000000000"),
        ("three heads", arguments(nheads=3), "args.json", "nheads", "3", "a divisor of embsize, 8"),
        ("no bins", arguments(n_bins=0), "args.json", "n_bins", "0", "a whole number from 3 to 1000"),
        ("bins in words", arguments(n_bins="x"), "args.json", "n_bins", "'x'", "a whole number"),
        ("half a bin", arguments(n_bins=51.5), "args.json", "n_bins", "51.5", "a whole number"),
        ("a million bins", arguments(n_bins=10**6), "args.json", "n_bins", "1000000", "a whole number from 3 to 1000"),
        ("padding not given", arguments(pad_value=None), "args.json", "pad_value", "None", "a finite number"),
        ("padding in words", arguments(pad_value="x"), "args.json", "pad_value", "'x'", "a finite number"),
        ("infinite padding", arguments(pad_value=float("inf")), "args.json", "pad_value", "inf", "a finite number"),
        ("a number for the origin", arguments(scgpt_bench=5), "args.json", "scgpt_bench", "5", "an object"),
        ("heads not given", arguments(nheads=None), "args.json", "nheads", "None", "a positive whole number"),
        ("a truth for a number", arguments(nheads=True), "args.json", "nheads", "True", "a positive whole number"),
        ("width in quotes", arguments(embsize="8"), "args.json", "embsize", "'8'", "a positive whole number"),
        ("no arguments", removed("mine/args.json"), "args.json", "file", "No such file", "JSON: the model's arguments"),
        ("arguments in a list", text("mine/args.json", "[]"), "args.json", "file", "list", "a JSON object"),
        ("arguments too deep", text("mine/args.json", DEEP), "args.json", "file", "recursion", "JSON"),
        ("another vocabulary", text("mine/vocab.json", '{"A": 0, "<pad>": 1}'), "vocab.json", "symbols", "2 symbols", "15, the rows"),
    ]
]  # fmt: skip

SPLIT_FILE = [
    (f"{file}: {name}", f"split from {file}", fault, f"split.{file}", where, found, expected)
    for file, name, fault, where, found, expected in [
        ("txt", "suffix", text("split.txt", "G0 train"), "suffix", "'.txt'", ".tsv, .csv, .json"),
        *(
            (file, name, text(f"split.{file}", content), where, found, expected)
            for file, name, content, where, found, expected in [
                ("tsv", "empty", "", "table", "No columns", "with a header"),
                ("tsv", "binary", b"\xff\xfe\x00", "table", "codec", "with a header"),
                ("tsv", "ragged", "perturbation\trole\nG0\ttrain\nG1\ttest\tx\n", "table", "line 3, saw 3", "a table"),
                ("tsv", "commas", "perturbation,role\nG0,train\n", "columns", "perturbation,role", "perturbation and role"),
                ("tsv", "header only", "perturbation\trole\n", "roles", "no train perturbation", "at least one"),
                ("csv", "a column twice", "perturbation,role,role\nG0,train,test\n", "columns", "role, role", "each once"),
                ("csv", "open quote", 'perturbation,role\n"G0,train\n', "table", "EOF inside string", "a table"),
                ("csv", "not measured", "perturbation,role\nG9,train\n", "train", "'G9', which has no cells", "measured"),
                ("csv", "unknown role", "perturbation,role\nG0,val\n", "role of 'G0'", "'val'", "train, validation, test"),
                ("csv", "two roles", "perturbation,role\nG0,train\nG0,test\n", "test", "'G0', which is in train", "one role"),
                ("csv", "no validation", "perturbation,role\nG0,train\nG1,test\n", "roles", "no validation", "at least one"),
                ("json", "cut short", '{"train": ["G0"', "file", "Expecting", "JSON"),
                ("json", "too deep", DEEP, "file", "recursion", "JSON"),
                ("json", "a list", "[]", "top level", "list", "lists under train, val, test"),
                ("json", "a key twice", '{"test": ["G0"], "train": ["G1"], "test": ["G2"]}', "top level", "'test' 2 times", "every key once"),
                ("json", "another key", '{"train": [], "holdout": []}', "top level", "'holdout'", "train, val, test"),
                ("json", "text for a list", '{"val": "G0+ctrl"}', "val", "a str", "a list of names"),
                ("pkl", "code", b"cos\nsystem\n(S'touch executed'\ntR.", "pickle", "os.system", "strings only"),
                ("pkl", "cut short", pickle.dumps({"train": ["G0"]})[:-5], "pickle", "truncated", "strings only"),
                ("pkl", "a number of NumPy", pickle.dumps({"train": [np.float64(1)]}), "pickle", "type f8", "strings only"),
                ("pkl", "more bytes than memory", b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b".",
                 "pickle", "MemoryError", "strings only"),
            ]
        ),
    ]
]  # fmt: skip

RECORDS = [
    (name, "gather_predictions", fault, "method.json", where, found, expected)
    for name, fault, where, found, expected in [
        ("none", removed("method.json"), "file", "No such file", "the record of a method"),
        ("cut short", text("method.json", '{"kind": "train-mean"'), "file", "EOF", "JSON: the record of a method"),
        ("empty", text("method.json", "{}"), "kind", "no such key", "the record of a method"),
        ("a list", text("method.json", "[]"), "file", "[]", "object"),
    ]
]  # fmt: skip

PREDICTIONS = [
    (name, "import_predictions", fault, "elsewhere.h5ad", where, found, expected)
    for name, fault, where, found, expected in [
        ("half a file", truncated("elsewhere.h5ad"), "file", "truncated file", "AnnData"),
        ("damaged values", flipped_bit("elsewhere.h5ad", "X"), "file", "OSError", "AnnData"),
        ("another column", h5ad("elsewhere.h5ad", lambda file: file.obs.rename(columns={"perturbation": "gene"}, inplace=True)),
         "obs", "gene, context, control_cell, weight", "the column 'perturbation'"),
        ("a perturbation missing", h5ad("elsewhere.h5ad", lambda file: file[5:].copy()),
         "obs['perturbation']", "no row of 1 of 3 test conditions", "every test condition"),
        ("no rows", h5ad("elsewhere.h5ad", lambda file: file[:0].copy()), "obs['perturbation']", "no row of 3 of 3", "every"),
        ("a gene missing", h5ad("elsewhere.h5ad", lambda file: file[:, :11].copy()), "var", "missing, such as 'G11'", "every gene"),
        ("a gene twice", h5ad("elsewhere.h5ad", lambda file: file.var.rename(index={"G7": "G1"}, inplace=True)),
         "var", "the gene 'G1' more than once", "every gene once"),
        ("NaN", h5ad("elsewhere.h5ad", lambda file: file.X.__setitem__((0, 0), np.nan)), "X", "1 NaN", "finite predictions"),
        ("text for X", matrix("elsewhere.h5ad", as_text), "X", "values of type object", "numbers"),
        ("no X", hdf5("elsewhere.h5ad", lambda file: file.pop("X")), "X", "nothing", "a matrix"),
        ("counts", matrix("elsewhere.h5ad", lambda X: np.rint(np.expm1(X))), "X", "whole numbers", "log1p of counts"),
        ("another logarithm", matrix("elsewhere.h5ad", lambda X: X / np.log(10)), "X", "0.433 times", "log1p of counts"),
        ("another logarithm of one", rows_of_one(lambda X: X / np.log(10)), "X, perturbation 'G", "times those", "near 1"),
        ("nothing for one", rows_of_one(np.zeros_like), "X, perturbation 'G", "values 0 times", "near 1"),
        ("one absurd value", h5ad("elsewhere.h5ad", lambda file: file.X.__setitem__((0, 0), -1e30)), "X", "-1e+30, below", "log1p of counts"),
    ]
]  # fmt: skip

CASES = [
    *CONFIGURATION,
    *TABLES,
    *VECTORS,
    *GRAPHS,
    *PARTS,
    *CELLS,
    *CONTEXTS,
    *OWN_FILES,
    *VOCABULARY,
    *GENE_INFO,
    *CHECKPOINT,
    *SPLIT_FILE,
    *RECORDS,
    *PREDICTIONS,
]
