"""Fine-tuning scGPT on perturbations: upstream's recipe (Tutorial_Perturbation), its faults repaired and declared.

A pair is a random control cell as input and a real cell of a training perturbation as output; the perturbed genes
carry a flag. Loss: squared error over all measured genes. :data:`DEVIATIONS` lists where the defaults leave the
published recipe, and with which option it comes back; :func:`deviations` those of a run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from scgpt_bench import files
from scgpt_bench.data.controls import matched_control_mean
from scgpt_bench.data.names import CONTROL
from scgpt_bench.errors import InputError
from scgpt_bench.methods.predictions import perturbations_of
from scgpt_bench.scgpt import checkpoint, inference, model, training
from scgpt_bench.scgpt.inference import Condition
from scgpt_bench.seeding import random_generator

if TYPE_CHECKING:
    from scgpt.model import TransformerGenerator

UNUSED = ("cls_decoder",)  # upstream's model has it, the perturbation path never calls it
MODEL = "model.pt"

DEVIATIONS = {
    "keep_targets": "perturbed genes are always among the sampled genes; false: dropped at random, as published",
    "select": "weights are selected by validation Pearson delta; 'pearson': as published",
    "pair_within": "the control cell is of the same batch and cell type; []: any control cell, as published",
    "redraw_controls": "the control cell of a pair is drawn anew in every epoch; false: drawn once, as published",
    "precision": "bf16 without loss scaling on GPUs that have it, fp32 elsewhere; published: fp16 with loss scaling",
    "unmeasured targets": "enter as tokens with value 0 and the flag, outside the loss; published: IndexError",
}


@dataclass(frozen=True)
class Options:
    """The published values, but for the deviations listed above."""

    learning_rate: float = 1e-4
    gamma: float = 0.9
    clip_norm: float = 1.0
    batch_size: int = 64
    epochs: int = 15
    patience: int | None = 10
    dropout: float = 0.0
    max_seq_len: int = 1536
    keep_targets: bool = True
    select: str = "pearson_delta"
    pair_within: tuple[str, ...] = ("batch", "cell_type")
    redraw_controls: bool = True
    pretrained: tuple[str, ...] = checkpoint.PRETRAINED_PREFIXES  # () starts from random weights
    freeze: tuple[str, ...] = ()
    genes_in_use_only: bool = True
    validation_cells: int = 64


def deviations(options: Options) -> dict[str, str]:
    """Those of :data:`DEVIATIONS` that are in force with these options."""
    published = {
        "keep_targets": not options.keep_targets,
        "select": options.select == "pearson",
        "pair_within": not options.pair_within,
        "redraw_controls": not options.redraw_controls,
    }
    return {name: text for name, text in DEVIATIONS.items() if not published.get(name)}


class Pairs:
    """Training pairs as batches of tensors, each a function of (seed, epoch, index).

    Parameters
    ----------
    cells
        ``cells.h5ad``.
    perturbations
        Training perturbations whose genes all have a token.
    token_ids
        (n_genes,) ids of the genes of ``cells``.
    told
        How each perturbation is told: :func:`scgpt_bench.scgpt.inference.conditions`.
    """

    def __init__(
        self,
        cells: anndata.AnnData,
        perturbations: Sequence[str],
        token_ids: np.ndarray,
        pad_id: int,
        told: Mapping[str, Condition],
        options: Options,
        seed: int,
    ):
        self.options, self.seed = options, seed
        self.values, self.names = cells.X, cells.obs_names
        self.token_ids, self.pad_id, self.told = token_ids, pad_id, told
        self.perturbation = cells.obs["perturbation"].astype(str).to_numpy()
        self.rows = np.flatnonzero(np.isin(self.perturbation, perturbations))
        if len(self.rows) < options.batch_size:
            raise InputError(
                "configuration", "batch_size", str(options.batch_size), f"at most {len(self.rows)}, the training cells"
            )
        self.pools = _control_pools(cells, self.rows, options.pair_within)

    @property
    def batches(self) -> int:
        return len(self.rows) // self.options.batch_size

    def batch(self, epoch: int, index: int, rank: int = 0, world_size: int = 1) -> dict[str, Tensor]:
        """One rank's share of a batch of pairs.

        Returns
        -------
        ``genes``, ``values``, ``flags``, ``padding`` (pairs, n_sampled + n_unmeasured) and ``truth``
        (pairs, n_sampled); ``weight`` makes the sum of squared errors a mean over the whole batch.
        """
        rows, columns = self._rows(epoch, index), self._columns(epoch, index)
        size = len(rows) * len(columns)
        rows = rows[training.share_of(rank, world_size, len(rows))]
        controls = [self._control(epoch, row) for row in rows]
        told = [self.told[self.perturbation[row]] for row in rows]
        inputs = model_inputs(self.values[controls].toarray(), told, self.token_ids, self.pad_id, columns)
        truth = torch.from_numpy(self.values[rows].toarray()[:, columns])
        return inputs | {"truth": truth, "weight": torch.tensor(world_size / size)}

    def flag_share(self, epoch: int) -> float:
        """Share of the pairs of an epoch in which every flag reaches the model."""
        reached = 0
        for index in range(self.batches):
            sampled = set(self._columns(epoch, index).tolist())
            reached += sum(
                sampled.issuperset(self.told[self.perturbation[row]].columns) for row in self._rows(epoch, index)
            )
        return reached / (self.batches * self.options.batch_size)

    def _rows(self, epoch: int, index: int) -> np.ndarray:
        order = random_generator(self.seed, "fine-tuning", "order", epoch).permutation(self.rows)
        return order[index * self.options.batch_size : (index + 1) * self.options.batch_size]

    def _columns(self, epoch: int, index: int) -> np.ndarray:
        """Columns of the sampled genes, ascending: all, or a random subset drawn for the batch."""
        n_genes, most = len(self.token_ids), self.options.max_seq_len
        if n_genes <= most:
            return np.arange(n_genes)
        order = random_generator(self.seed, "fine-tuning", "genes", epoch, index).permutation(n_genes)
        if self.options.keep_targets:
            flagged = {
                column for row in self._rows(epoch, index) for column in self.told[self.perturbation[row]].columns
            }
            order = np.concatenate([sorted(flagged), order[~np.isin(order, list(flagged))]]).astype(int)
        return np.sort(order[:most])

    def _control(self, epoch: int, row: int) -> int:
        draw = epoch if self.options.redraw_controls else "once"
        pool = self.pools[row]
        return int(
            pool[random_generator(self.seed, "fine-tuning", "control", draw, self.names[row]).integers(len(pool))]
        )


def model_inputs(
    values: np.ndarray, told: Sequence[Condition], token_ids: np.ndarray, pad_id: int, columns: np.ndarray
) -> dict[str, Tensor]:
    """Tensors of cells in the layout of ``TransformerGenerator``: sampled genes, then unmeasured targets.

    Parameters
    ----------
    values
        (n_cells, n_genes) control cells.
    told
        The perturbation of each cell.
    columns
        The sampled genes.

    Returns
    -------
    ``genes``, ``values``, ``flags`` and ``padding`` (n_cells, n_columns + most unmeasured targets of a cell).
    """
    n_cells, n_genes = values.shape
    flags = np.zeros((n_cells, n_genes), dtype=np.int64)
    n_extra = max(len(condition.added) for condition in told)
    extra = np.full((n_cells, n_extra), pad_id, dtype=np.int64)
    for row, condition in enumerate(told):
        flags[row, list(condition.columns)] = model.PERTURBED
        extra[row, : len(condition.added)] = condition.added
    absent = extra == pad_id
    extra_flags = np.where(absent, model.NOT_PERTURBED, model.PERTURBED)
    tensors = {
        "genes": np.hstack([np.broadcast_to(token_ids[columns], (n_cells, len(columns))), extra]),
        "values": np.hstack([values[:, columns], np.zeros(extra.shape)]).astype(np.float32),
        "flags": np.hstack([flags[:, columns], extra_flags]),
        "padding": np.hstack([np.zeros((n_cells, len(columns)), dtype=bool), absent]),
    }
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in tensors.items()}


def finetune(
    cells: anndata.AnnData,
    split: pd.DataFrame,
    vocabulary: pd.DataFrame,
    checkpoint_folder: str | Path,
    options: Options,
    seed: int,
    folder: str | Path,
    machine: training.Machine | None = None,
) -> dict[str, Any]:
    """Fine-tune (or, with ``pretrained=()``, train from random weights) and write a model folder.

    The folder gets model.pt (a state dict, see :func:`load`), report.json and history.tsv. The training state stands
    there while it runs; the same call resumes.

    Parameters
    ----------
    cells
        ``cells.h5ad``.
    split
        ``split.tsv``.
    vocabulary
        ``vocabulary/<checkpoint>.tsv``: gene, token_id, status.
    checkpoint_folder
        Also read for random weights: its sizes and its vocabulary.

    Returns
    -------
    The report.

    Raises
    ------
    InputError
        If no training perturbation, or no validation perturbation, has all its genes in the vocabulary, or the batch
        is larger than the data.
    training.TrainingFailed
        See :func:`scgpt_bench.scgpt.training.train`.
    """
    machine = machine or training.Machine()
    weights = checkpoint.read(checkpoint_folder, options.pretrained)
    told = inference.conditions(split["perturbation"], vocabulary, weights.vocabulary)
    without_token = inference.without_token(told, vocabulary)
    trained, validated = (_usable(split, role, without_token) for role in ("train", "validation"))
    token_ids, pad_id = vocabulary["token_id"].to_numpy(), weights.vocabulary["<pad>"]
    pairs = Pairs(cells, trained, token_ids, pad_id, told, options, seed)
    fabric = machine.fabric()
    generator, load_report = start(weights, inference.tokens_in_use(told, vocabulary), options, seed)
    task = training.Task(
        model=generator,
        optimizer=torch.optim.Adam(
            (p for p in generator.parameters() if p.requires_grad), lr=options.learning_rate, fused=True
        ),
        epochs=options.epochs,
        batches=pairs.batches,
        batch=pairs.batch,
        loss=_loss,
        learning_rate=training.step_decay(options.learning_rate, options.gamma),
        validate=_validation(cells, validated, token_ids, pad_id, told, options, seed),
        select=options.select,
    )
    folder = Path(folder)
    identity = json.dumps([asdict(options), seed, trained, validated, _contents(cells, vocabulary, weights)])
    position = training.train(
        task,
        fabric,
        folder,
        identity,
        seed=seed,
        clip_norm=options.clip_norm,
        patience=options.patience,
        save_minutes=machine.save_minutes,
        log_seconds=machine.log_seconds,
    )
    report = {
        "seed": seed,
        "options": asdict(options),
        "deviations": deviations(options),
        "precision": fabric.strategy.precision.precision,
        "device": inference.device_name(fabric.device),
        "processes": fabric.world_size,
        "load_report": load_report,
        "training_pairs": len(pairs.rows),
        "flag_share": pairs.flag_share(0),
        "perturbations_without_token": without_token,
        "training_perturbations": {"used": len(trained), "of": len(perturbations_of(split, "train"))},
        "validation_perturbations": {"used": len(validated), "of": len(perturbations_of(split, "validation"))},
        "selected_epoch": position.best_epoch + 1,
        options.select: position.best,
    }
    if fabric.is_global_zero:
        save(generator.cpu(), folder)
        files.write_json(report, folder / "report.json")
        for name in (training.STATE, training.BEST):
            (folder / name).unlink(missing_ok=True)
    return report


def start(
    weights: checkpoint.Checkpoint, tokens_in_use: Sequence[int], options: Options, seed: int
) -> tuple[TransformerGenerator, dict[str, Any]]:
    """The model before its first step, frozen modules without gradient, and its load report."""
    generator = model.build(weights.arguments, weights.vocabulary, options.dropout)
    report = model.load(generator, weights, options.pretrained, seed)
    if options.genes_in_use_only:
        model.restrict_vocabulary(generator, tokens_in_use)
    for name, parameter in generator.named_parameters():
        parameter.requires_grad_(not checkpoint.below(name, (*UNUSED, *options.freeze)))
    return generator, report | {"frozen": list(options.freeze), "not_called": list(UNUSED)}


def save(generator: TransformerGenerator, folder: Path) -> None:
    """Write model.pt: the state dict, with the ids of the embedding rows as ``token_ids`` where they are a subset."""
    tensors = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    if isinstance(generator.encoder.embedding, model.GenesInUse):
        tensors["token_ids"] = generator.encoder.embedding.token_ids.clone()
    with files.whole(folder / MODEL) as partial:
        torch.save(tensors, partial)


def load(folder: str | Path, weights: checkpoint.Checkpoint) -> TransformerGenerator:
    """The fine-tuned model of a folder, in evaluation mode; ``weights`` gives its sizes and vocabulary."""
    tensors = torch.load(Path(folder) / MODEL, map_location="cpu", weights_only=True)
    generator = model.build(weights.arguments, weights.vocabulary)
    if "token_ids" in tensors:
        model.restrict_vocabulary(generator, tensors.pop("token_ids").tolist())
    generator.load_state_dict(tensors)
    return generator.eval()


def _contents(cells: anndata.AnnData, vocabulary: pd.DataFrame, weights: checkpoint.Checkpoint) -> dict[str, Any]:
    """Checksums of what a training reads: its state must not be resumed on other data, wherever both are."""
    return {
        "values": files.matrix_sha256(cells.X),
        "obs": _sha256_of(cells.obs[["perturbation", "batch", "cell_type"]]),
        "vocabulary": _sha256_of(vocabulary),
        "weights": files.sha256(checkpoint.weights_file(weights.folder)),
        "arguments": weights.arguments,
    }


def _sha256_of(table: pd.DataFrame) -> str:
    return hashlib.sha256(table.to_csv().encode()).hexdigest()


def _usable(split: pd.DataFrame, role: str, without_token: Sequence[str]) -> list[str]:
    usable = [name for name in perturbations_of(split, role) if name not in without_token]
    if not usable:
        found = f"{(split['role'] == role).sum()} perturbations, none with all its genes in the vocabulary"
        raise InputError("split.tsv", f"role {role!r}", found, "at least one whose genes scGPT has tokens for")
    return usable


def _control_pools(cells: anndata.AnnData, rows: np.ndarray, within: Sequence[str]) -> dict[int, np.ndarray]:
    """Control cells that each row of ``rows`` may be paired with: of its own group, or all if the group has none."""
    controls = np.flatnonzero((cells.obs["perturbation"] == CONTROL).to_numpy())
    if not len(controls):
        raise InputError("cells.h5ad", "obs['perturbation']", "no control cell", f"cells named {CONTROL!r}")
    known = [column for column in within if column in cells.obs]
    keys = cells.obs[known].astype(str).agg("\t".join, axis=1).to_numpy() if known else np.full(cells.n_obs, "")
    groups = {key: controls[keys[controls] == key] for key in np.unique(keys[controls])}
    return {row: groups.get(keys[row], controls) for row in rows}


def _loss(generator: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    error = _predict(generator, batch)[:, : batch["truth"].shape[1]] - batch["truth"]
    return error.square().sum() * batch["weight"]


def _predict(generator: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    output = generator(inputs["genes"], inputs["values"], inputs["flags"], src_key_padding_mask=inputs["padding"])
    return output["mlm_output"].float()


def _validation(cells, perturbations, token_ids, pad_id, told, options, seed):
    """The function that scores a model on the validation perturbations, by means over drawn control cells.

    As in the evaluation, a perturbation is compared with the control cells of its own cell types.
    """
    perturbation = cells.obs["perturbation"].astype(str).to_numpy()
    controls = {name: _matched_controls(cells.obs, name, options.validation_cells, seed) for name in perturbations}
    control_means = dict(zip(perturbations, matched_control_mean(cells, perturbations), strict=True))
    truth = {name: np.asarray(cells.X[perturbation == name].mean(axis=0)).ravel() for name in perturbations}
    columns = np.arange(len(token_ids))

    def validate(generator: TransformerGenerator) -> dict[str, float]:
        device = next(generator.parameters()).device
        scores = []
        for name in perturbations:
            values, control_mean = cells.X[controls[name]].toarray(), control_means[name]
            predicted = []
            for start in range(0, len(values), options.batch_size):
                part = values[start : start + options.batch_size]
                inputs = model_inputs(part, [told[name]] * len(part), token_ids, pad_id, columns)
                inputs = {key: tensor.to(device) for key, tensor in inputs.items()}
                predicted.append(_predict(generator, inputs)[:, : len(columns)].cpu())
            mean = torch.cat(predicted).double().mean(dim=0).numpy()
            scores.append(
                {
                    "pearson": _pearson(mean, truth[name]),
                    "pearson_delta": _pearson(mean - control_mean, truth[name] - control_mean),
                    "validation_mse": float(np.square(mean - truth[name]).mean()),
                }
            )
        return pd.DataFrame(scores).mean().to_dict()

    return validate


def _matched_controls(obs: pd.DataFrame, name: str, number: int, seed: int) -> np.ndarray:
    """Rows of ``number`` control cells (or all) of a perturbation's cell types, in its proportions; ascending."""
    perturbation, cell_type = (obs[column].astype(str).to_numpy() for column in ("perturbation", "cell_type"))
    shares = pd.Series(cell_type[perturbation == name]).value_counts(normalize=True)
    rows = np.flatnonzero((perturbation == CONTROL) & np.isin(cell_type, shares.index))
    rows = random_generator(seed, "fine-tuning", "validation", name).permutation(rows)
    types = pd.Series(cell_type[rows])
    turn = (types.groupby(types).cumcount() + 0.5) / types.map(shares)  # who comes when (Sainte-Laguë)
    return np.sort(rows[np.argsort(turn, kind="stable")[:number]])


def _pearson(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson correlation; 0 where one side has no variance."""
    if one.std() == 0 or other.std() == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])
