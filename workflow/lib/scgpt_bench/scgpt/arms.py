"""The arms: declared ways to use scGPT, from drawn control cells to predicted cells and a statement of what made them.

The statement says which weights came from where, what computed the attention, and which targets the model could not be
told about.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from scgpt_bench import __version__
from scgpt_bench.data.controls import control_means_of
from scgpt_bench.data.means import mean_cell
from scgpt_bench.data.names import CONTROL, genes_of
from scgpt_bench.files import sha256
from scgpt_bench.predictions import anchored_cells
from scgpt_bench.scgpt import (
    checkpoint,
    finetuning,
    generation,
    inference,
    masked_model,
    model,
    transformer,
    vocabulary,
)
from scgpt_bench.scgpt.binning import bin_cells

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Calling:
    """How the flagged call is made.

    Attributes
    ----------
    genes_fed, batch_size
        As in :func:`inference.predict`.
    keep_cells
        False keeps the mean predicted cell of each perturbation and no other, as batches are computed.
    gpu
        GPUs that the job asked for; one is used.
    """

    genes_fed: inference.GenesFed = "all"
    batch_size: int | None = None
    keep_cells: bool = True
    gpu: int = 0


def flagged(
    controls: anndata.AnnData,
    alignment: pd.DataFrame,
    checkpoint_folder: str | Path,
    seed: int,
    calling: Calling = Calling(),
) -> tuple[np.ndarray, dict[str, Any]]:
    """The flagged call of the zero-shot arm: pretrained encoders, random perturbation embedding and random decoder.

    Parameters
    ----------
    controls
        ``controls.h5ad``, or the rows of some of its perturbations.
    alignment
        ``vocabulary/<checkpoint>.tsv``.
    seed
        Of the random weights.

    Returns
    -------
    Predicted cells, float32 [rows of ``controls`` x genes], and what made them, for ``uns["method"]``. Where cells are
    not kept, one mean cell per perturbation, in the order of names.
    """
    weights = checkpoint.read(checkpoint_folder)
    generator = model.build(weights.arguments, weights.vocabulary)
    report = model.load(generator, weights, seed=seed)
    told = inference.conditions(controls.obs["perturbation"], alignment, weights.vocabulary)
    model.restrict_vocabulary(generator, inference.tokens_in_use(told, alignment))
    return _predict(generator, controls, alignment, told, calling, weights, report)


def finetuned(
    controls: anndata.AnnData,
    alignment: pd.DataFrame,
    checkpoint_folder: str | Path,
    model_folder: str | Path,
    report: Mapping[str, Any],
    calling: Calling = Calling(),
) -> tuple[np.ndarray, dict[str, Any]]:
    """The same call with the weights of a fine-tuned model; ``report`` is the one that fine-tuning wrote."""
    weights = checkpoint.read(checkpoint_folder, report["options"]["pretrained"])
    generator = finetuning.load(model_folder, weights)
    told = inference.conditions(controls.obs["perturbation"], alignment, weights.vocabulary)
    predicted, method = _predict(generator, controls, alignment, told, calling, weights, report["load_report"])
    return predicted, {**method, "finetuning": {key: value for key, value in report.items() if key != "load_report"}}


def prompted(
    controls: anndata.AnnData,
    alignment: pd.DataFrame,
    checkpoint_folder: str | Path,
    options: generation.Options,
    seed: int,
    activated: bool,
    keep_cells: bool = True,
    gpu: int = 0,
) -> tuple[np.ndarray, dict[str, Any]]:
    """The arms of the pretrained head: a cell prompted with the target set, against the same cell unchanged.

    The target is silenced; in a data set of activations (``activated``) it is raised (:func:`generation.raised_bins`),
    and targets that no drawn control cell is seen to express are listed. The difference is added to the control cell.
    The predicted cells of a perturbation are anchored, as those of every method that shifts control cells
    (:func:`predictions.anchored_cells`). A perturbation with a target outside the vocabulary cannot be prompted: it is
    predicted as no change, and listed. One whose targets have their prompted values in all drawn control cells already
    (silenced, and no cell expresses them) is prompted twice alike: the answer is no change, and it is listed too.
    """
    network, weights = masked_model.load(checkpoint_folder)
    device = inference.device_of(gpu)
    prompter = generation.Prompter.of(network.to(device), weights, alignment["token_id"].to_numpy())
    told = inference.conditions(controls.obs["perturbation"], alignment, weights.vocabulary)
    unprompted, unexpressed, already = inference.without_token(told, alignment), [], []
    rows_of = controls.obs.groupby(controls.obs["perturbation"].astype(str)).indices
    cell_weights, control_means = controls.obs["weight"].to_numpy(), control_means_of(controls)
    predicted = np.empty((len(controls) if keep_cells else len(rows_of), controls.n_vars), dtype=np.float32)
    for number, (name, rows) in enumerate(tqdm(sorted(rows_of.items()), unit="perturbation", mininterval=2)):
        condition, cells = told[name], controls.X[rows].toarray()
        columns = list(condition.columns)
        effect = np.zeros_like(cells)
        if name not in unprompted:
            bins, edges = bin_cells(cells, prompter.n_bins)
            tokens = [*alignment["token_id"].iloc[columns], *condition.added]
            effect, asked = generation.effects(prompter, bins, edges, tokens, options, seed, name, activated)
            if not asked:
                already.append(name)
            if activated and (condition.added or not bins[:, columns].any(axis=0).all()):
                unexpressed.append(name)
        control_mean = control_means.loc[name].to_numpy()
        own, mean_effect = cell_weights[rows], effect.mean(axis=0)
        moved = anchored_cells(cells, own, control_mean, mean_effect) + (effect - mean_effect)
        predicted[rows if keep_cells else number] = moved if keep_cells else mean_cell(moved, own)
    loaded = {name: tensor for name, tensor in weights.tensors.items() if name in network.state_dict()}
    report = checkpoint.load_report(weights, loaded, {}, seed)
    zeros_seen = weights.arguments.get("include_zero_genes") is True  # upstream's pretraining has no such option
    if not zeros_seen:
        log.warning("prompts have genes of value 0, which this checkpoint has not seen: pretrained on expressed genes")
    raised = f"raised to quantile {options.target_quantile} of their bins in the control cells that express them"
    method = {
        **_statement(weights, report, told, alignment, device, torch.float32),  # nothing here runs in autocast
        "options": dataclasses.asdict(options),
        "targets": raised if activated else "silenced",
        "zeros_in_pretraining": zeros_seen,
        "raised_without_expression": unexpressed,
        "predicted_as_no_change": unprompted,
        "targets_already_as_prompted": already,
    }
    return predicted, method


def gene_embeddings(cells: anndata.AnnData, checkpoint_folder: str | Path, alignment: pd.DataFrame) -> anndata.AnnData:
    """The checkpoint's embeddings [genes x width] of the measured genes and of targets that were not measured.

    Genes outside the vocabulary are left out: the vector of ``<pad>`` says nothing about them.

    Parameters
    ----------
    alignment
        The measured genes: ``vocabulary/<checkpoint>.tsv``.
    """
    weights = checkpoint.read(checkpoint_folder, ["encoder"])
    targets = {gene for name in cells.obs["perturbation"].unique() if name != CONTROL for gene in genes_of(name)}
    not_measured = vocabulary.align(sorted(targets - set(cells.var_names)), weights.vocabulary)
    known = pd.concat([alignment, not_measured])
    known = known[known["status"] != "padded"]
    tokens = known["token_id"].to_numpy(dtype=np.int64)  # a table without rows has no type: every target is measured
    vectors = weights.tensors["encoder.embedding.weight"][tokens].numpy()
    embeddings = anndata.AnnData(vectors, obs=pd.DataFrame(index=known["gene"].to_numpy(dtype=str)))
    embeddings.uns["checkpoint"] = weights.folder.name
    embeddings.uns["checkpoint_sha256"] = sha256(checkpoint.weights_file(weights.folder))
    embeddings.uns["checkpoint_pretrained"] = weights.pretrained
    return embeddings


def _predict(generator, controls, alignment, told, calling, weights, report) -> tuple[np.ndarray, dict[str, Any]]:
    perturbations = controls.obs["perturbation"].astype(str).to_numpy()
    token_ids = alignment["token_id"].to_numpy()
    device = inference.device_of(calling.gpu)
    batches = inference.predict(
        generator.to(device), controls.X, perturbations, told, token_ids, calling.genes_fed, calling.batch_size
    )
    if calling.keep_cells:
        predicted = np.empty(controls.shape, dtype=np.float32)
        for rows, values in batches:
            predicted[rows] = values
    else:
        means = inference.running_means(batches, perturbations, controls.obs["weight"].to_numpy())
        predicted = means.to_numpy(dtype=np.float32)
    statement = _statement(weights, report, told, alignment, device, inference.number_type(device))
    return predicted, {**statement, "genes_fed": calling.genes_fed}


def _statement(weights, report, told, alignment, device, number_type) -> dict[str, Any]:
    return {
        "scgpt_bench": __version__,
        "checkpoint_sha256": sha256(checkpoint.weights_file(weights.folder)),
        "load_report": dict(report),
        "attention": transformer.backend_name(device, number_type),
        "device": inference.device_name(device),
        "versions": transformer.versions(),
        "targets_not_measured": sorted(name for name in told if told[name].added),
        "targets_outside_vocabulary": sorted(name for name in told if told[name].untold),
        "genes_padded": int((alignment["status"] == "padded").sum()),
        "genes_renamed": int((alignment["status"] == "renamed").sum()),
    }
