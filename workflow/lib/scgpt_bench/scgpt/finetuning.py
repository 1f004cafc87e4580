"""Fine-tune scGPT on perturbations.

A pair is a random control cell as input and a real cell of a training perturbation as output; the perturbed genes
carry a flag. Loss: squared error over all measured genes. :mod:`recipe` has the options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from scgpt_bench import files
from scgpt_bench.data.conditions import conditions_of
from scgpt_bench.errors import InputError
from scgpt_bench.scgpt import checkpoint, finetuned_model, model, recipe_version, training, transformer
from scgpt_bench.scgpt.pairs import Pairs
from scgpt_bench.scgpt.recipe import Recipe, deviations
from scgpt_bench.scgpt.training_set import TrainingSet
from scgpt_bench.scgpt.validation import Validation

if TYPE_CHECKING:
    from scgpt.model import TransformerGenerator

UNUSED = ("cls_decoder",)  # upstream's model has it, the perturbation path never calls it


def finetune(
    cells: anndata.AnnData,
    split: pd.DataFrame,
    vocabulary: pd.DataFrame,
    checkpoint_folder: str | Path,
    options: Recipe,
    seed: int,
    folder: str | Path,
    machine: training.Machine | None = None,
    validates: bool = True,
) -> dict[str, Any]:
    """Fine-tune (or, with ``pretrained=()``, train from random weights) and write a model folder.

    The folder gets model.pt (:mod:`finetuned_model`), report.json and history.tsv. While it runs, the training state is
    there too; the same call resumes.

    Parameters
    ----------
    cells
        ``cells.h5ad``, which may be on disk: control cells and those of the training and validation perturbations are
        read once, and shared by all processes (:func:`training.shared_rows`).
    split
        ``split.tsv``.
    vocabulary
        ``vocabulary/<checkpoint>.tsv``: gene, token_id, status.
    checkpoint_folder
        Also read for random weights: its sizes and its vocabulary.
    validates
        Whether validation conditions choose the epoch whose weights are kept. Otherwise it is the last one.

    Returns
    -------
    The report.

    Raises
    ------
    NothingToTrainOn
        If no training perturbation, or no validation perturbation, has all its genes in the vocabulary.
    InputError
        If the batch is larger than the data or has fewer pairs than there are devices.
    training.TrainingFailed
        See :func:`scgpt_bench.scgpt.training.train`.
    """
    machine, folder = machine or training.Machine(), Path(folder)
    weights = checkpoint.read(checkpoint_folder, options.pretrained)
    fabric = machine.fabric()
    if options.batch_size < fabric.world_size:
        expected = f"at least {fabric.world_size}, a pair for each device"
        raise InputError("configuration", "batch_size", str(options.batch_size), expected)
    read = training.shared_rows(fabric, folder / "cells")
    training_set = TrainingSet.of(cells, split, vocabulary, weights, options.value_input, validates, read)
    pairs, encoding = Pairs(training_set, options, seed), training_set.encoding
    generator, load_report = start(weights, encoding.tokens_in_use, options, seed)
    model.check_tokens(generator, [encoding.pad_id, *encoding.tokens_in_use])
    task = training.Task(
        model=generator,
        optimizer=torch.optim.Adam(
            (p for p in generator.parameters() if p.requires_grad), lr=options.learning_rate, fused=True
        ),
        epochs=options.epochs,
        batches=pairs.batches,
        batch=pairs.batch,
        loss=loss,
        learning_rate=training.step_decay(options.learning_rate, options.gamma),
        validate=Validation(training_set, options, seed, machine.precision),
        select=options.select if validates else None,
        work=partial(work, generator),
    )
    made_on = machine.record(fabric, weights.arguments)
    identity = {
        "options": options.model_dump(),
        "precision": made_on["precision"],
        "seed": seed,
        "data": training_set.checksums(),
        "weights": files.sha256(checkpoint.weights_file(weights.folder)),
        "arguments": weights.arguments,
        "torch": torch.__version__,
        "recipe_version": recipe_version.FINETUNING,
    }
    position = training.train(
        task,
        fabric,
        folder,
        identity,
        seed=seed,
        clip_norm=options.clip_norm,
        patience=options.patience,
        machine=machine,
    )
    report = {
        "seed": seed,
        "options": options.model_dump(),
        "deviations": deviations(options),
        **made_on,
        "versions": transformer.versions(),
        "load_report": load_report,
        "training_pairs": len(pairs.rows),
        "paired_within": pairs.paired_within,
        "flag_share": pairs.flag_share(0),
        "perturbations_without_token": encoding.without_token,
        "training_directions": training_set.directions,
        "training_perturbations": {"used": len(training_set.training), "of": len(conditions_of(split, "train"))},
        "validation_perturbations": {
            "used": len(training_set.validation),
            "of": len(conditions_of(split, "validation")),
        },
        "selected_epoch": position.epoch,
    }
    if validates:
        report |= {"selected_epoch": position.best_epoch + 1, options.select: position.best}
    if fabric.is_global_zero:
        finetuned_model.save(generator.cpu(), folder)
        files.write_json(report, folder / finetuned_model.REPORT)
        for name in (training.STATE, training.BEST):
            (folder / name).unlink(missing_ok=True)
    return report


def finetune_unless(
    errors: Mapping[type[Exception], str], *, options: Recipe, folder: str | Path, **others: Any
) -> None:
    """Fine-tune as :func:`finetune` does; a training that ends with one of ``errors`` leaves a folder that says so.

    Its report.json has the options, and the message below the name that ``errors`` gives; model.pt is empty. All
    processes of a training end alike, and the first of them writes.

    Parameters
    ----------
    errors
        ``{TrainingFailed: "failed"}`` for a candidate of a search, which it ends, but not the search;
        ``{NothingToTrainOn: "nothing_to_train_on"}`` for a point of a learning curve.
    """
    try:
        finetune(options=options, folder=folder, **others)
    except tuple(errors) as error:
        if torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
            return
        folder = Path(folder)
        files.write_json(
            {"options": options.model_dump(), errors[type(error)]: str(error)}, folder / finetuned_model.REPORT
        )
        (folder / finetuned_model.MODEL).write_bytes(b"")
        if not (folder / training.HISTORY).exists():  # it failed in its first epoch
            files.write_table(pd.DataFrame(columns=["epoch", "seconds"]), folder / training.HISTORY)
        for name in (training.STATE, training.BEST):
            (folder / name).unlink(missing_ok=True)


def start(
    weights: checkpoint.Checkpoint, tokens_in_use: Sequence[int], options: Recipe, seed: int
) -> tuple[TransformerGenerator, dict[str, Any]]:
    """Build the model before its first step, frozen modules without gradient; also return its load report."""
    generator = model.build(weights.arguments, weights.vocabulary, options.dropout)
    report = model.load(generator, weights, options.pretrained, seed)
    if options.genes_in_use_only:
        model.restrict_vocabulary(generator, tokens_in_use)
    for name, parameter in generator.named_parameters():
        parameter.requires_grad_(not checkpoint.below(name, (*UNUSED, *options.freeze)))
    return generator, report | {"frozen": list(options.freeze), "not_called": list(UNUSED)}


def loss(generator: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return this rank's share of the mean squared error of a batch of :class:`Pairs`, over the sampled genes."""
    error = generator(batch)[:, : batch["truth"].shape[1]] - batch["truth"]
    return error.square().sum() * batch["weight"]


def work(generator: TransformerGenerator, batch: Mapping[str, Any]) -> training.Work:
    """Count what the step on a batch of :class:`Pairs` takes."""
    lengths, expressed = (np.array(batch[name].cells.lengths) for name in ("present", "expressed"))
    layers, decoder = generator.transformer_encoder.layers, generator.decoder
    of_layers, of_bias, of_coefficient = map(training.n_weights, (layers, decoder.bias_decoder, decoder.coeff_decoder))
    products = (of_layers + of_bias) * lengths.sum() + of_coefficient * expressed.sum()
    products += 2 * len(layers) * generator.d_model * np.square(lengths).sum()
    return training.Work(len(lengths), float(lengths.sum()), 6.0 * float(products))
