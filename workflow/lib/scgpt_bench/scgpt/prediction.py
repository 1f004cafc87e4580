"""Predict with scGPT, zero-shot or fine-tuned: from drawn control cells to predicted cells and a record of the method.

Every function writes predicted cells as they are computed, a batch or a condition at a time, conditions sorted. Where
cells are not kept, it writes one mean cell per condition. The record has the origin of the weights, what computed the
attention, and the targets that the model cannot be asked about.
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

from scgpt_bench.data.conditions import conditions_of, rows_of
from scgpt_bench.data.controls import control_means_of
from scgpt_bench.data.means import mean_cell
from scgpt_bench.data.on_disk import dense_rows
from scgpt_bench.files import read_json, sha256
from scgpt_bench.method_record import FinetuningReport, LoadReport, Prompts, Scgpt
from scgpt_bench.options import Precision, ValueInput
from scgpt_bench.predictions import Write, anchored_cells, mean_cell_obs, shifted_controls
from scgpt_bench.scgpt import (
    attention,
    checkpoint,
    devices,
    finetuned_model,
    generation,
    inference,
    masked_model,
    model,
    transformer,
)
from scgpt_bench.scgpt.binning import bin_cells
from scgpt_bench.scgpt.encoding import Encoding, flags_of
from scgpt_bench.scgpt.engine import GenesFed

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PredictionOptions:
    """How any of these methods predicts.

    Attributes
    ----------
    genes_fed, batch_size
        As in :func:`inference.predict`; prompts have their own.
    value_input
        What the value encoder of a flagged call is given; a fine-tuned model gets what it was trained on.
    keep_cells
        False keeps the mean predicted cell of each condition and no other, as batches are computed.
    gpu
        GPUs that the job asked for; one is used.
    precision
        What products are computed in; None leaves it to the device (:func:`devices.number_type`). Prompts are never in
        16 bits, which hide small differences between them, but in TF32 on a GPU unless fp32 is asked for.
    """

    genes_fed: GenesFed = "all"
    value_input: ValueInput = "log1p"
    batch_size: int | None = None
    keep_cells: bool = True
    gpu: int = 0
    precision: Precision | None = None


def zero_shot(
    controls: anndata.AnnData,
    alignment: pd.DataFrame,
    checkpoint_folder: str | Path,
    seed: int,
    options: PredictionOptions = PredictionOptions(),
    *,
    write: Write,
) -> dict[str, Any]:
    """Predict with flagged targets, pretrained encoders, a random perturbation embedding and a random decoder.

    Parameters
    ----------
    controls
        ``controls.h5ad``, whose X may stay on disk.
    alignment
        ``vocabulary/<checkpoint>.tsv``.
    seed
        Of the random weights.
    write
        Is given the predicted cells.

    Returns
    -------
    Entries of the method record.
    """
    weights = checkpoint.read(checkpoint_folder)
    generator = model.build(weights.arguments, weights.vocabulary)
    report = model.load(generator, weights, seed=seed)
    n_bins = weights.bins_of(options.value_input)
    encoding = Encoding.of(controls.obs["perturbation"], alignment, weights.vocabulary, n_bins)
    model.restrict_vocabulary(generator, encoding.tokens_in_use)
    return _predict(generator, controls, alignment, encoding, weights, report, options, write)


def finetuned(
    controls: anndata.AnnData,
    alignment: pd.DataFrame,
    checkpoint_folder: str | Path,
    model_folder: str | Path,
    options: PredictionOptions = PredictionOptions(),
    *,
    write: Write,
) -> dict[str, Any]:
    """Predict as :func:`zero_shot` does, with the weights of the fine-tuned model of a folder.

    A condition of a direction that no training condition has is listed, where directions have flags of their own: its
    flag was not trained. Where there was nothing to train on, all are predicted as no change, and listed.
    """
    report = read_json(Path(model_folder, finetuned_model.REPORT), "a report")
    if untrained := report.get("nothing_to_train_on"):
        _no_change(controls, options, write)
        return {"fallbacks": dict.fromkeys(rows_of(controls.obs), (untrained, "no change"))}
    weights = checkpoint.read(checkpoint_folder, report["options"]["pretrained"])
    generator = finetuned_model.load(model_folder, weights)
    n_bins = weights.bins_of(report["options"]["value_input"])
    encoding = Encoding.of(controls.obs["perturbation"], alignment, weights.vocabulary, n_bins)
    load_report = report.pop("load_report")
    by_direction = report["options"]["flag_direction"]
    flags = flags_of(controls.obs, by_direction)
    record = _predict(generator, controls, alignment, encoding, weights, load_report, options, write, flags)
    if by_direction:
        direction = controls.obs["direction"].astype(str).to_numpy()
        for condition, rows in rows_of(controls.obs).items():
            if (own := direction[rows[0]]) not in report["training_directions"]:
                untrained = (f"no training perturbation goes {own}", "a flag with random weights")
                record["fallbacks"].setdefault(condition, untrained)
    return {**record, "finetuning": FinetuningReport(**report)}


def prompted(
    controls: anndata.AnnData,
    alignment: pd.DataFrame,
    checkpoint_folder: str | Path,
    prompts: generation.PromptOptions,
    seed: int,
    options: PredictionOptions = PredictionOptions(),
    *,
    write: Write,
) -> dict[str, Any]:
    """Predict with the pretrained head: a cell prompted with the target set, against the same cell unchanged.

    The target is silenced where the ``direction`` of the condition is ``down``; where it is ``up``, it is raised
    (:func:`generation.raised_bins`), and targets that no drawn control cell is seen to express are listed. The
    difference is added to the control cell. The predicted cells of a condition are anchored, as those of every method
    that shifts control cells (:func:`predictions.anchored_cells`). A condition with a target outside the vocabulary
    cannot be prompted: it is predicted as no change, and listed. One whose targets have their prompted values in all
    drawn control cells already (silenced, and no cell expresses them) is prompted twice alike: the answer is no change,
    and it is listed too.
    """
    network, weights = masked_model.load(checkpoint_folder)
    device = devices.device_of(options.gpu)
    precision: Precision = "fp32" if options.precision == "fp32" else "tf32"
    encoding = Encoding.of(controls.obs["perturbation"], alignment, weights.vocabulary)
    prompter = generation.Prompter.of(network.to(device), weights, encoding.token_ids)
    without_token, own_rows = encoding.without_token, rows_of(controls.obs)
    fallbacks, unexpressed, directions = {}, [], set()
    control_means = control_means_of(controls)
    for condition, rows in tqdm(own_rows.items(), unit="condition", mininterval=2):
        targets, cells, obs = (
            encoding.targets[condition.perturbation],
            dense_rows(controls.X, rows),
            controls.obs.iloc[rows],
        )
        columns, direction = list(targets.columns), obs["direction"].iloc[0]
        effect, activated = np.zeros_like(cells), direction == "up"
        directions.add(direction)
        if condition.perturbation in without_token:
            fallbacks[condition] = ("no token", "no change")
        else:
            bins, edges = bin_cells(cells, prompter.n_bins)
            tokens = [*encoding.token_ids[columns], *targets.added]
            with devices.products_in(device, precision):
                effect, asked = generation.effects(
                    prompter, bins, edges, tokens, prompts, seed, condition.drawn_for, activated
                )
            if not asked:
                fallbacks[condition] = ("control cells have the prompted value already", "no change")
            if activated and (targets.added or not bins[:, columns].any(axis=0).all()):
                unexpressed.append(condition.label)
        cell_weights, mean_effect = obs["weight"].to_numpy(), effect.mean(axis=0)
        moved = anchored_cells(cells, cell_weights, control_means[condition], mean_effect) + (effect - mean_effect)
        if options.keep_cells:
            write(moved, obs)
        else:
            write(mean_cell(moved, cell_weights)[None], mean_cell_obs(obs))
    loaded = {name: tensor for name, tensor in weights.tensors.items() if name in network.state_dict()}
    report = checkpoint.load_report(weights, loaded, {}, seed)
    zeros_seen = weights.arguments.get("include_zero_genes") is True  # upstream's pretraining has no such option
    if not zeros_seen:
        log.warning("prompts have genes of value 0, which this checkpoint has not seen: pretrained on expressed genes")
    raised = f"raised to quantile {prompts.target_quantile} of their bins in the control cells that express them"
    lowered = "left out" if prompts.silenced_targets == "left_out" else "silenced"
    prompted_as = Prompts(
        targets=tuple(sorted({"down": lowered, "up": raised}[direction] for direction in sorted(directions))),
        zeros_in_pretraining=zeros_seen,
        raised_without_expression=tuple(unexpressed),
    )
    scgpt = _scgpt(weights, report, encoding, alignment, device, torch.float32, precision)
    return {"scgpt": scgpt, "prompts": prompted_as, "fallbacks": fallbacks}


def _no_change(controls: anndata.AnnData, options: PredictionOptions, write: Write) -> None:
    of_conditions = control_means_of(controls)
    means = np.stack([of_conditions[condition] for condition in rows_of(controls.obs)])
    if options.keep_cells:
        shifted_controls(controls, [*rows_of(controls.obs)], means, np.zeros_like(means), write=write)
    else:
        write(means, mean_cell_obs(controls.obs))


def _predict(generator, controls, alignment, encoding, weights, report, options, write, flags=None) -> dict[str, Any]:
    device = devices.device_of(options.gpu)
    batches = inference.predict(
        generator.to(device), controls.X, controls.obs, encoding, options.genes_fed, options.batch_size, flags,
        precision=options.precision,
    )  # fmt: skip
    with devices.products_in(device, options.precision):
        if options.keep_cells:
            for rows, values in batches:
                write(values, controls.obs.iloc[rows])
        else:
            means = inference.running_means(batches, controls.obs, controls.obs["weight"].to_numpy())
            write(means, mean_cell_obs(controls.obs))
    computed_in = devices.number_type(device, options.precision)
    scgpt = _scgpt(weights, report, encoding, alignment, device, computed_in, options.precision)
    without_token = set(encoding.without_token)
    flagged = {
        condition: (
            ("neither measured nor in the vocabulary", "not told what was perturbed")
            if encoding.targets[condition.perturbation].unknown
            else ("not in the vocabulary", "flagged as a padded gene")
        )
        for condition in conditions_of(controls.obs)
        if condition.perturbation in without_token
    }
    return {"scgpt": scgpt, "fallbacks": flagged}


def _scgpt(weights, report: Mapping[str, Any], encoding, alignment, device, number_type, precision) -> Scgpt:
    arguments = weights.arguments
    return Scgpt(
        load_report=LoadReport(**report),
        checkpoint_sha256=sha256(checkpoint.weights_file(weights.folder)),
        attention=attention.kernel_name(device, number_type, arguments["embsize"] // arguments["nheads"]),
        precision=devices.precision_name(device, number_type, precision),
        device=devices.device_name(device),
        versions=transformer.versions(),
        targets_not_measured=tuple(sorted(name for name, targets in encoding.targets.items() if targets.added)),
        genes_padded=int((alignment["status"] == "padded").sum()),
        genes_renamed=int((alignment["status"] == "renamed").sum()),
    )
