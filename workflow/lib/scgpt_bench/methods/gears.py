"""GEARS (Roohani, Huang and Leskovec 2023, Nature Biotechnology), the package ``cell-gears``, in each context.

It learns from the cells of the training perturbations and of the half ``input`` of the control cells, and keeps the
weights of the epoch that is best on the validation perturbations. Its similarity of perturbed genes is a graph that is
handed in, and nothing is downloaded. In all else it is the published package as it is.
"""

from __future__ import annotations

import pickle
import tarfile
import tempfile
from collections.abc import Sequence, Set
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
from scipy import sparse

from scgpt_bench.data.conditions import Condition, conditions_of, context_of, listed
from scgpt_bench.data.halves import INPUT
from scgpt_bench.data.means import FEWEST, cells_of
from scgpt_bench.data.names import CONTROL, genes_of
from scgpt_bench.errors import InputError
from scgpt_bench.files import first_line, read_table, sha256
from scgpt_bench.method_record import Gears
from scgpt_bench.methods import by_context
from scgpt_bench.methods.training_data import Shifts, ToPredict, TrainingData, learned_from
from scgpt_bench.options import GearsTraining
from scgpt_bench.predictions import Write
from scgpt_bench.scgpt import devices
from scgpt_bench.seeding import stream_seed

EDGES = ["source", "target", "importance"]
ROLES = {"train": "train", "validation": "val"}  # what GEARS calls them
MOST_GENES = 2  # of a combination, by which GEARS names conditions


def predict(
    cells: anndata.AnnData,
    split: pd.DataFrame,
    controls: anndata.AnnData,
    name: str,
    file: str | Path,
    options: GearsTraining,
    seed: int,
    device: torch.device,
    *,
    write: Write,
) -> dict[str, Any]:
    """Train GEARS in each context and write every drawn control cell as predicted, one condition at a time.

    A test perturbation that GEARS cannot be asked about is predicted as the mean shift of the training and validation
    perturbations of its context, and listed; so are those of a context without enough of these, as the mean shift of
    all contexts together (:mod:`scgpt_bench.methods.training_data`).

    Parameters
    ----------
    cells, split, controls
        ``cells.h5ad``, ``split.tsv``, ``controls.h5ad``; X of both may stay on disk.
    name, file
        Of the graph: as the record calls it, and where it is (:func:`read_graph`).
    seed
        Of weights, of the order of cells, and of the control cell that GEARS draws for each perturbed one.
    device
        Where it trains.
    write
        Is given the predicted cells of each condition, sorted.

    Returns
    -------
    Entries of the method record.
    """
    graph = read_graph(file)
    genes = set(genes_of_graph(graph))
    perturbed = {gene for condition in conditions_of(split) for gene in condition.genes}
    if not perturbed & genes:
        none = f"none of the {len(perturbed)} perturbed genes ({', '.join(sorted(perturbed)[:3])}, ...)"
        raise InputError(file, "genes", none, "a graph of perturbed genes, named by symbols as in the data set")
    roles = dict(zip(listed(split), split["role"], strict=True))
    left_out: set[str] = set()

    def in_context(training: TrainingData, test: ToPredict) -> Shifts:
        context = context_of(training.controls.obs).iloc[0]
        learned = [condition for condition in learned_from(split) if condition.context == context]
        usable = [condition for condition in learned if not _cannot_be_asked(condition.perturbation, genes)]
        if training.is_own:
            left_out.update(condition.perturbation for condition in set(learned) - set(usable))
        conditions = {
            role: [condition.perturbation for condition in usable if roles[condition] == role] for role in ROLES
        }
        reasons = {name: _cannot_be_asked(name, genes) for name in test.perturbations}
        if not training.is_own:
            reasons = dict.fromkeys(test.perturbations, f"fewer than {FEWEST} training perturbations in this context")
        for role, names in conditions.items() if training.is_own else ():
            if not names:
                reasons = dict.fromkeys(test.perturbations, f"no perturbation with role {role!r} in the graph")
        instead = "mean shift of the training perturbations" + ("" if training.is_own else " of all contexts")
        fallbacks = {name: (reason, instead) for name, reason in reasons.items() if reason}
        values = np.tile(training.shifts.mean(axis=0), (len(test.perturbations), 1))
        asked = [name for name in test.perturbations if name not in fallbacks]
        if asked:
            known = cells_of(cells, [Condition(CONTROL, context), *usable], INPUT)
            rows = [test.perturbations.index(name) for name in asked]
            of_context = stream_seed(seed, "gears", context)
            values[rows] = _changes(known, conditions, asked, graph, options, of_context, device)
        return Shifts(values, fallbacks)

    found = by_context.predict(cells, split, controls, in_context, write=write)
    versions = {name: version(name) for name in ("cell-gears", "torch", "torch-geometric")}
    record = Gears(
        graph=name,
        graph_sha256=sha256(file),
        graph_genes=len(genes),
        graph_edges=len(graph),
        perturbations_left_out=tuple(sorted(left_out)),
        device=devices.device_name(device),
        versions=versions,
    )
    return {**found, "gears": record}


def read_graph(path: str | Path) -> pd.DataFrame:
    """Read a graph of genes: a table, or GEARS' own ``.tar.gz`` with one.

    Returns
    -------
    ``source``, ``target`` and ``importance``, the similarity of the two genes; other columns are left out.

    Raises
    ------
    InputError
        For a file of another kind, a missing column, a gene without a name, or a similarity that is not positive.
    """
    if str(path).endswith(".tar.gz"):
        table = _read_packed(path)
    else:
        table = read_table(path, "\t" if ".tsv" in Path(path).suffixes else ",", dtype={"source": str, "target": str})
    missing = [column for column in EDGES if column not in table]
    if missing:
        raise InputError(path, "columns", ", ".join(map(str, table.columns)), f"the column {missing[0]!r}")
    edges = table[EDGES].drop_duplicates(EDGES[:2], ignore_index=True)
    if not len(edges):
        raise InputError(path, "table", "no row", "an edge per row")
    importance = pd.to_numeric(edges["importance"], errors="coerce")
    wrong = edges["source"].isna() | edges["target"].isna() | ~((importance > 0) & np.isfinite(importance))
    if wrong.any():
        row = int(np.argmax(wrong))
        found = ", ".join(map(str, edges.iloc[row]))
        raise InputError(path, f"row {row + 1}", found, "two genes and a positive number")
    return edges.assign(importance=importance.astype(float))


def _read_packed(path: str | Path) -> pd.DataFrame:
    try:
        with tarfile.open(path) as archive:
            tables = [
                member
                for member in archive
                if member.name.endswith(".csv") and not Path(member.name).name.startswith(".")
            ]
            content = archive.extractfile(tables[0]) if len(tables) == 1 else None
            if content is None:
                raise InputError(path, "archive", f"{len(tables)} files that end in .csv", "one, the graph")
            return pd.read_csv(content, keep_default_na=False, na_values=[""], dtype={"source": str, "target": str})
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        raise InputError(path, "file", first_line(error), "a .tar.gz with a table of edges") from None


def genes_of_graph(graph: pd.DataFrame) -> np.ndarray:
    """List the genes that GEARS can be asked about, sorted."""
    return np.unique(graph[["source", "target"]].to_numpy(dtype=str))


def strongest(graph: pd.DataFrame, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """Keep the ``neighbours + 1`` most similar sources of each gene, as GEARS does: it is the most similar to itself.

    Returns
    -------
    edges : int64 [2 x edges], positions in :func:`genes_of_graph` of source and target
    importance : float32 [edges]
    """
    kept = graph.sort_values("importance", ascending=False, kind="stable").groupby("target").head(neighbours + 1)
    kept, genes = kept.sort_values(["target", "source"]), genes_of_graph(graph)
    edges = np.stack([np.searchsorted(genes, kept[end].to_numpy(dtype=str)) for end in ("source", "target")])
    return edges, kept["importance"].to_numpy(dtype=np.float32)


def _cannot_be_asked(perturbation: str, known: Set[str]) -> str:
    """Return why not; empty if it can."""
    genes = genes_of(perturbation)
    unknown = [gene for gene in genes if gene not in known]
    if unknown:
        return f"{', '.join(unknown)} not in the graph"
    return f"{len(genes)} genes, GEARS takes {MOST_GENES}" if len(genes) > MOST_GENES else ""


def _name(perturbation: str) -> str:
    """Name a condition as GEARS does."""
    if perturbation == CONTROL:
        return "ctrl"
    return perturbation if len(genes_of(perturbation)) == MOST_GENES else f"{perturbation}+ctrl"


def _changes(
    cells: anndata.AnnData,
    conditions: dict[str, list[str]],
    asked: Sequence[str],
    graph: pd.DataFrame,
    options: GearsTraining,
    seed: int,
    device: torch.device,
) -> np.ndarray:
    """Train on some cells and predict changes, float64 [asked x genes]."""
    from gears import GEARS, PertData

    torch.manual_seed(seed % 2**32)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (GEARS draws from it)
    names = cells.obs["perturbation"].astype(str).map(_name)
    obs = pd.DataFrame({"condition": names.to_numpy(), "cell_type": "cells"}, index=cells.obs.index.astype(str))
    genes = [str(gene) for gene in cells.var_names]
    known = anndata.AnnData(sparse.csr_matrix(cells.X), obs=obs, var=pd.DataFrame({"gene_name": genes}, index=genes))
    in_graph = genes_of_graph(graph).tolist()
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, Any] = {
            "gene2go_all.pkl": dict.fromkeys(in_graph, frozenset()),  # GEARS asks only which genes it has
            "genes.pkl": in_graph,
            "split.pkl": {ROLES[role]: [_name(name) for name in own] for role, own in conditions.items()},
        }
        files["split.pkl"]["train"].append("ctrl")
        files["split.pkl"]["test"] = []
        for name, content in files.items():
            Path(folder, name).write_bytes(pickle.dumps(content))
        data = PertData(folder, gene_set_path=str(Path(folder, "genes.pkl")), default_pert_graph=False)
        data.new_data_process("cells", known)
        data.prepare_split("custom", split_dict_path=str(Path(folder, "split.pkl")))
        data.get_dataloader(options.batch_size)
        del data.dataloader["test_loader"]  # it is empty, and GEARS would evaluate it
        model = GEARS(data, device=device.type)
        edges, importance = strongest(graph, options.similar_genes)
        model.model_initialize(
            hidden_size=options.hidden_size,
            G_go=torch.from_numpy(edges),
            G_go_weight=torch.from_numpy(importance),
        )
        model.train(epochs=options.epochs, lr=options.learning_rate)
    return changes(model, [genes_of(name) for name in asked])


def changes(model: Any, perturbations: Sequence[Sequence[str]]) -> np.ndarray:
    """Ask a trained ``gears.GEARS`` for the change by each perturbation, float64 [perturbations x genes].

    Its answer is a mean over 300 control cells, which it draws, plus a change that does not depend on them: where the
    only control cell is one of zeros, the change is the answer, without the noise of that draw.
    """
    zeros = sparse.csr_matrix((1, model.num_genes), dtype=np.float32)
    model.adata = anndata.AnnData(zeros, obs=pd.DataFrame({"condition": ["ctrl"]}, index=["zeros"]))
    answers = model.predict([list(genes) for genes in perturbations])
    return np.array([answers["_".join(genes)] for genes in perturbations], dtype=np.float64)
