"""A small study in files, and the jobs that read what a user or another program may break."""

import dataclasses
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import yaml
from scipy import sparse

from jobs import Job
from scgpt_bench.data.catalogue import Dataset
from scgpt_bench.files import write_json
from scgpt_bench.methods import baselines, imported  # noqa: F401 (imported once, before jobs fork)
from scgpt_bench.scgpt import checkpoint, prediction  # noqa: F401

HEADER = [field.name for field in dataclasses.fields(Dataset)]
SUM = "0123456789abcdef" * 4
ROW = {
    "name": "drop",
    "address": "drop.h5ad",
    "sha256": "unknown",
    "format": "h5ad",
    "values": "counts",
    "target_sum": "40",
    "perturbation_column": "gene",
    "control_label": "NT",
    "combination_separator": "+",
    "perturbation_kind": "interference",
}
CHECKPOINT_ROW = {
    "name": "tiny",
    "file": "args.json",
    "address": "https://example.org/tiny",
    "sha256": SUM,
    "bytes": "9",
}
CHECKPOINT_HEADER = ["name", "file", "address", "sha256", "bytes", "licence", "source"]
STUDY = {
    "dataset_table": "drops.tsv",
    "checkpoint_table": "checkpoints.tsv",
    "study": "bad",
    "datasets": ["drop"],
    "splits": {"folds": 2, "minimum_cells": 20},
    "checkpoints": {"tiny": {"source": "folder", "path": "mine"}},
    "methods": {
        "train-mean": {},
        "scgpt-zero-shot": {"checkpoint": "tiny"},
        "elsewhere": {"kind": "imported", "files": {"drop": {"fold0": "elsewhere.h5ad"}}},
    },
}
GENES = [f"G{i}" for i in range(12)]
FOLD = "results/bad/drop/fold0"

_DATASET = dataclasses.replace(
    Dataset(**{key: value for key, value in ROW.items() if key != "sha256"}), target_sum=float(ROW["target_sum"])
).row
_CELLS = {"cells": "results/bad/drop/cells.h5ad"}
_SPLIT = {"split": f"{FOLD}/split.tsv"}
_CONTROLS = {"controls": f"{FOLD}/controls.h5ad"}
_CHECKPOINT = [f"mine/{name}" for name in ("best_model.pt", "args.json", "vocab.json")]
_DEALING = {"made_by": "fold", "fold": 0, "folds": 2, "seed": 1, "validation_share": 0.15, "minimum_cells": 20}
_OF_CONTEXT = {"made_by": "context", "seed": 1, "validation_share": 0.15, "minimum_cells": 12}
_HARMONIZING = {"minimum_cells": 10, "maximum_genes": None, "minimum_guide_umis": 5, "minimum_guide_share": 0.8}
_LABELS = {"perturbation_column": "perturbation", "control_label": "control"}
_LABELS |= {"guide_prefix": None, "guide_suffix": None}


def _predicted(folder: str) -> dict[str, str]:
    return {"predictions": f"{folder}/predictions.h5ad", "method": f"{folder}/method.json"}


JOBS = {
    "harmonize": Job("harmonize.py", ["drop.h5ad"], ["results/bad/drop/cells.h5ad"], {
        "dataset": _DATASET, "options": _HARMONIZING,
    }, {"dataset": "drop"}, {"dataset_table": "drops.tsv"}),
    "split": Job("split.py", {**_CELLS, "file": []}, [f"{FOLD}/split.tsv"], {
        "how": _DEALING, "series": "drop",
    }, {"dataset": "drop", "split": "fold0"}),
    "sample_controls": Job("sample_controls.py", {**_CELLS, **_SPLIT, "asked": []}, [f"{FOLD}/controls.h5ad"], {
        "options": {"cells_per_perturbation": 5, "seed": 1}, "split": "fold0", "series": "drop",
    }, {"dataset": "drop", "split": "fold0"}),
    "identical_cells": Job("identical_cells.py", [*_CELLS.values()], ["results/bad/drop/identical_cells.json"]),
    "audit": Job("audit.py", {
        **_CELLS, **_SPLIT, "identical": "results/bad/drop/identical_cells.json",
    }, [f"{FOLD}/audit.json"], {"how": {"made_by": "fold", "fold": 0}}, {"dataset": "drop", "split": "fold0"}),
    "predict_baseline": Job("predict_baseline.py", {
        **_CELLS, **_SPLIT, **_CONTROLS, "embeddings": [],
    }, _predicted("."), {
        "function": "train_mean", "options": {"kind": "train-mean", "weighting": "cell"}, "context_vectors": None,
    }, {"seed": "0"}),
    "gene_vectors": Job("gene_vectors.py", {**_CELLS, "file": "vectors.tsv"}, ["results/bad/drop/vectors/mine.h5ad"], {
        "options": {"source": "file", "path": "vectors.tsv"},
    }, {"vectors": "mine"}),
    "gather_predictions": Job("gather_predictions.py", {
        "shards": ["predictions.h5ad"], "methods": ["method.json"],
    }, _predicted("gathered")),
    "align_vocabulary": Job("align_vocabulary.py", {
        **_CELLS, "vocabulary": "mine/vocab.json", "gene_info": "mine/gene_info.csv",
    }, ["vocabulary.tsv"]),
    "predict_scgpt": Job("predict_scgpt.py", {
        **_CONTROLS, "checkpoint": _CHECKPOINT, "vocabulary": "vocabulary.tsv", "model": [],
    }, _predicted(f"{FOLD}/scgpt-zero-shot/0"), {
        "function": "zero_shot",
        "options": {"kind": "scgpt-zero-shot", "checkpoint": "tiny", "genes_fed": "all"},
        "batch_size": None, "keep_cells": True, "precision": None,
    }, {"seed": "0"}),
    "import_predictions": Job("import_predictions.py", {
        "file": "elsewhere.h5ad", **_CELLS, **_SPLIT, **_CONTROLS,
    }, _predicted(f"{FOLD}/elsewhere/0"), {
        "dataset": _DATASET,
        "labels": {**_LABELS, "combination_separator": "+", "gene_symbol_column": None},
        "missing": {"missing_perturbations": "refuse", "missing_genes": "refuse"},
        "made_by": {"kind": "imported"},
    }, {"seed": "0"}),
}  # fmt: skip
JOBS["predict_gears"] = Job("predict_gears.py", {
    **_CELLS, **_SPLIT, **_CONTROLS, "graph": "graph.csv",
}, _predicted(f"{FOLD}/gears/0"), {"options": {"kind": "gears", "graph": "mine"}}, {"seed": "0"})  # fmt: skip
JOBS["predict_baseline on vectors"] = dataclasses.replace(
    JOBS["predict_baseline"],
    input={**JOBS["predict_baseline"].input, "embeddings": ["results/bad/drop/vectors/mine.h5ad"]},
    params={
        "function": "knn",
        "options": {"kind": "knn", "neighbours": 2, "components": 10, "vectors": "mine"},
        "context_vectors": None,
    },
)
JOBS["harmonize to variable genes"] = dataclasses.replace(
    JOBS["harmonize"], params={"dataset": _DATASET, "options": {**_HARMONIZING, "maximum_genes": 10}}
)
JOBS["harmonize declared contexts"] = dataclasses.replace(
    JOBS["harmonize"],
    output=["results/bad/lines/cells.h5ad"],
    params={"dataset": {**_DATASET, "context_column": "line", "contexts": "K562|RPE1"}, "options": _HARMONIZING},
)
JOBS["transfer"] = Job(
    "transfer.py", ["results/bad/lines/cells.h5ad"], {
        "table": "transfer.tsv", "ceiling": "transfer.svg", "perturbations": "carried_over.svg",
    }, {"minimum_reliability": 0.3, "perturbations": 6}, {"dataset": "lines"},
)  # fmt: skip
JOBS["split by context"] = dataclasses.replace(
    JOBS["split"],
    input={"cells": "results/bad/lines/cells.h5ad", "file": []},
    params={"how": {**_OF_CONTEXT, "context": "K562"}, "series": "drop"},
    output=["results/bad/drop/context-K562/split.tsv"],
)
JOBS["join"] = Job("join.py", [*_CELLS.values(), "part.h5ad"], ["results/bad/both/cells.h5ad"], {
    "dataset": {**_DATASET, "name": "both", "address": "joined:drop,other", "format": "joined"}, "maximum_genes": None,
}, {"dataset": "both"})  # fmt: skip
JOBS["harmonize contexts"] = dataclasses.replace(
    JOBS["harmonize"],
    params={
        "dataset": {**_DATASET, "context_column": "line", "direction_column": "way", "perturbation_kind": "mixed"},
        "options": _HARMONIZING,
    },
)
for suffix in ("tsv", "csv", "json", "pkl", "txt"):
    JOBS[f"split from {suffix}"] = dataclasses.replace(
        JOBS["split"], input={**_CELLS, "file": f"split.{suffix}"}, output=["results/bad/drop/fixed/split.tsv"]
    )


def write(folder: Path) -> None:
    """The study: six perturbations and a control of 30 cells each, half of them of another cell line, 12 genes,
    raw counts; a tiny random checkpoint.
    """
    write_table(folder / "drops.tsv", HEADER, [ROW])
    write_table(folder / "checkpoints.tsv", CHECKPOINT_HEADER, [])
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    generator = np.random.default_rng(0)
    labels = np.repeat(["NT", *GENES[:6]], 30)
    drop = anndata.AnnData(
        sparse.csr_matrix(generator.poisson(3, size=(len(labels), len(GENES))).astype(np.float32)),
        obs=pd.DataFrame(
            {"gene": labels, "line": ["K562", "RPE1"] * (len(labels) // 2), "way": "CRISPRi"},
            index=[f"cell{i}" for i in range(len(labels))],
        ),
        var=pd.DataFrame(index=GENES),
    )
    drop.write_h5ad(folder / "drop.h5ad")
    tokens = {name: position for position, name in enumerate([*GENES, "<pad>", "<cls>", "<eoc>"])}
    checkpoint.initialize(folder / "mine", {"embsize": 8, "nlayers": 2, "nheads": 2, "d_hid": 6}, tokens, seed=1)
    ids = [f"{number},ENSG{number:011d},{gene}" for number, gene in enumerate(GENES)]
    (folder / "mine" / "gene_info.csv").write_text("\n".join([",feature_id,feature_name", *ids, ""]))
    (folder / "vectors.tsv").write_text("gene\tx\ty\n" + "".join(f"{gene}\t{i}\t0.5\n" for i, gene in enumerate(GENES)))
    (folder / "graph.csv").write_text("source,target,importance\nG0,G1,0.5\n")
    harmonized = ("harmonize", "harmonize declared contexts")
    for name in (
        *harmonized,
        "split",
        "identical_cells",
        "sample_controls",
        "align_vocabulary",
        "gene_vectors",
        "predict_baseline",
    ):
        done = JOBS[name].run(folder)
        assert done.status == 0, done.terminal + done.log
    (folder / "elsewhere.h5ad").write_bytes((folder / "predictions.h5ad").read_bytes())
    (folder / "part.h5ad").write_bytes((folder / "results/bad/drop/cells.h5ad").read_bytes())
    roles = pd.read_csv(folder / FOLD / "split.tsv", sep="\t")
    roles.to_csv(folder / "split.csv", index=False)
    roles.to_csv(folder / "split.tsv", index=False, sep="\t")
    named = {"train": "train", "val": "validation", "test": "test"}
    lists = {key: list(roles.loc[roles["role"] == role, "perturbation"]) for key, role in named.items()}
    write_json(lists, folder / "split.json")
    (folder / "split.pkl").write_bytes(pickle.dumps(lists))
    (folder / "split.txt").write_text("G0 train\n")


def write_table(path: Path, header: list[str], rows: list[dict]) -> None:
    lines = [header, *([row.get(column, "") for column in header] for row in rows)]
    path.write_text("".join("\t".join(line) + "\n" for line in lines))


# Ways to break a file. Each returns what breaks it in a folder.

Damage = Callable[[Path], None]


def text(name: str, content: str | bytes) -> Damage:
    """The file holds something else."""
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def appended(name: str, content: str) -> Damage:
    """The file goes on."""
    return lambda folder: (folder / name).write_text((folder / name).read_text() + content)


def both(first: Damage, second: Damage) -> Damage:
    return lambda folder: (first(folder), second(folder))


def removed(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def renamed(name: str, new: str) -> Damage:
    return lambda folder: (folder / name).rename(folder / new)


def truncated(name: str, share: float = 0.5) -> Damage:
    """A download or copy that ended early."""

    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return damage


def configured(**changes) -> Damage:
    """``a__b=value`` sets ``value`` under ``a``, ``b`` of the configuration."""

    def damage(folder: Path) -> None:
        config = yaml.safe_load((folder / "study.yaml").read_text())
        for path, value in changes.items():
            *parents, last = path.split("__")
            part = config
            for key in parents:
                part = part.setdefault(key, {})
            part[last] = value
        (folder / "study.yaml").write_text(yaml.safe_dump(config))

    return damage


def row(**changes) -> Damage:
    """Cells of the second row of the data-set table."""
    return lambda folder: write_table(folder / "drops.tsv", HEADER, [{**ROW, "name": "first"}, {**ROW, **changes}])


def joined_row(**changes) -> Damage:
    """A joined data set of both rows before it, with other cells."""
    joined = {"name": "both", "address": "joined:drop, second", "format": "joined", "target_sum": "40", **changes}
    return lambda folder: write_table(folder / "drops.tsv", HEADER, [ROW, {**ROW, "name": "second"}, joined])


def table_lines(*lines: str) -> Damage:
    """Further lines of the data-set table."""

    def damage(folder: Path) -> None:
        with open(folder / "drops.tsv", "a") as table:
            table.writelines(f"{line}\n" for line in lines)

    return damage


def checkpoint_rows(*changes: dict) -> Damage:
    """Rows of the checkpoint table, each the good one with changes."""
    rows = [{**CHECKPOINT_ROW, **change} for change in changes]
    return lambda folder: write_table(folder / "checkpoints.tsv", CHECKPOINT_HEADER, rows)


def hdf5(name: str, change: Callable[[h5py.File], object]) -> Damage:
    """What is below AnnData, changed in place by ``change``."""

    def damage(folder: Path) -> None:
        with h5py.File(folder / name, "r+") as file:
            change(file)

    return damage


def flipped_bit(name: str, dataset: str | None = None) -> Damage:
    """One bit changed: in a data set of an HDF5 file, or in the first part of an archive that holds weights.

    The third byte belongs to the first value, also where LZF compresses: without a checksum, to another number.
    """

    def damage(folder: Path) -> None:
        if dataset:
            with h5py.File(folder / name) as file:
                start = file[dataset].id.get_chunk_info(0).byte_offset + 2
        else:
            with zipfile.ZipFile(folder / name) as archive:
                part = next(part for part in archive.infolist() if "/data/" in part.filename)
            header = (folder / name).read_bytes()[part.header_offset :][:30]
            start = part.header_offset + 30 + sum(struct.unpack("<2H", header[26:])) + 2
        content = bytearray((folder / name).read_bytes())
        content[start] ^= 1
        (folder / name).write_bytes(content)

    return damage


def h5ad(name: str, change: Callable[[anndata.AnnData], anndata.AnnData | None]) -> Damage:
    """An h5ad that is changed in place by ``change``, or replaced by what it returns."""

    def damage(folder: Path) -> None:
        cells = anndata.read_h5ad(folder / name)
        changed = change(cells)
        (cells if changed is None else changed).write_h5ad(folder / name)

    return damage


def arguments(**changes) -> Damage:
    """Entries of the checkpoint's args.json."""

    def damage(folder: Path) -> None:
        path = folder / "mine" / "args.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def tensors(change: Callable[[dict], None]) -> Damage:
    """The checkpoint's weights, changed in place by ``change``."""

    def damage(folder: Path) -> None:
        import torch

        weights = {name: tensor.clone() for name, tensor in checkpoint.read_tensors(folder / "mine").items()}
        change(weights)
        torch.save(weights, folder / "mine" / "best_model.pt")

    return damage
