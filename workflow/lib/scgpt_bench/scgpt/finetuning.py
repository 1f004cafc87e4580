"""Fine-tuning scGPT on perturbations: upstream's recipe (Tutorial_Perturbation), its faults repaired and declared.

A pair is a random control cell as input and a real cell of a training perturbation as output; the perturbed genes
carry a flag. Loss: squared error over all measured genes. :data:`DEVIATIONS` lists where the defaults leave the
published recipe, and with which option it comes back, if with any; :func:`deviations` those of a run.
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

from scgpt_bench import files, sources
from scgpt_bench.data.controls import matched_control_mean, type_weights
from scgpt_bench.data.means import cells_of, mean_cell
from scgpt_bench.data.names import CONTROL
from scgpt_bench.data.splits import perturbations_of
from scgpt_bench.errors import InputError
from scgpt_bench.scgpt import checkpoint, inference, model, torch_files, training, transformer
from scgpt_bench.scgpt.inference import Condition
from scgpt_bench.seeding import random_generator

if TYPE_CHECKING:
    from scgpt.model import TransformerGenerator

UNUSED = ("cls_decoder",)  # upstream's model has it, the perturbation path never calls it
MODEL = "model.pt"

DEVIATIONS = {
    "keep_targets": "perturbed genes are always among the sampled genes; false: dropped at random, as published",
    "select": "weights are selected by validation Pearson delta; 'pearson': as published",
    "pair_within": "the control cell is of the same batch and cell type, where there is one; []: any, as published",
    "redraw_controls": "the control cell of a pair is drawn anew in every epoch; false: drawn once, as published",
    "control_pairs": "every pair has a perturbed cell; true: each control cell is paired with itself too, as published",
    "precision": "bf16 without loss scaling on GPUs that have it, fp32 elsewhere; published: fp16 with loss scaling",
    "perturbations without a token": "are left out of training and validation; published: trained as flagged <pad>",
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
    control_pairs: bool = False
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
        "control_pairs": options.control_pairs,
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

    Attributes
    ----------
    paired_within
        Number of pairs by what their cells share: ``batch, cell_type``, where no control cell does ``cell_type``, else
        ``any``; other names for another ``pair_within``. Control pairs are ``itself``.

    Raises
    ------
    InputError
        If there is no control cell, or there are fewer training cells than pairs in a batch. Control pairs do not make
        up for them: so every epoch has flags.
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
        self.token_ids, self.pad_id, self.told = token_ids, pad_id, {**told, CONTROL: Condition((), (), ())}
        self.perturbation = cells.obs["perturbation"].astype(str).to_numpy()
        self.rows = np.flatnonzero(pd.Series(self.perturbation).isin(perturbations))
        if len(self.rows) < options.batch_size:
            raise InputError(
                "configuration", "batch_size", str(options.batch_size), f"at most {len(self.rows)}, the training cells"
            )
        self.pools, self.paired_within = _control_pools(cells, self.rows, options.pair_within)
        if options.control_pairs:
            controls = np.flatnonzero(self.perturbation == CONTROL)
            self.rows = np.sort(np.concatenate([self.rows, controls]))
            self.pools |= {row: np.array([row]) for row in controls}
            self.paired_within["itself"] = len(controls)
        self._last_order: tuple[int, np.ndarray] | None = None

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
        rows = self._rows(epoch, index)
        columns = self._columns(epoch, index, rows)
        size = len(rows) * len(columns)
        rows = rows[training.share_of(rank, world_size, len(rows))]
        controls = [self._control(epoch, row) for row in rows]
        told = [self.told[self.perturbation[row]] for row in rows]
        inputs = model_inputs(self.values[controls].toarray(), told, self.token_ids, self.pad_id, columns)
        truth = torch.from_numpy(self.values[rows].toarray()[:, columns])
        return inputs | {"truth": truth, "weight": torch.tensor(world_size / size)}

    def flag_share(self, epoch: int) -> float:
        """Share of an epoch's pairs in which every flag reaches the model, among those with flags: no control pairs."""
        reached = flagged = 0
        for index in range(self.batches):
            rows = self._rows(epoch, index)
            sampled = set(self._columns(epoch, index, rows).tolist())
            told = [self.told[name] for name in self.perturbation[rows] if name != CONTROL]
            reached += sum(sampled.issuperset(condition.columns) for condition in told)
            flagged += len(told)
        return reached / flagged

    def _rows(self, epoch: int, index: int) -> np.ndarray:
        if self._last_order is None or self._last_order[0] != epoch:  # kept for the epoch: it orders all pairs
            generator = random_generator(self.seed, "fine-tuning", "order", epoch)
            self._last_order = epoch, generator.permutation(self.rows)
        return self._last_order[1][index * self.options.batch_size : (index + 1) * self.options.batch_size]

    def _columns(self, epoch: int, index: int, rows: np.ndarray) -> np.ndarray:
        """Columns of the sampled genes, ascending: all, or a random subset drawn for the batch, which is ``rows``."""
        n_genes, most = len(self.token_ids), self.options.max_seq_len
        if n_genes <= most:
            return np.arange(n_genes)
        order = random_generator(self.seed, "fine-tuning", "genes", epoch, index).permutation(n_genes)
        if self.options.keep_targets:
            flagged = {column for row in rows for column in self.told[self.perturbation[row]].columns}
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
        ``cells.h5ad``, which may be on disk: each process reads control cells and those of the training and validation
        perturbations that it uses.
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
        is larger than the data or has fewer pairs than there are devices.
    training.TrainingFailed
        See :func:`scgpt_bench.scgpt.training.train`.
    """
    machine = machine or training.Machine()
    weights = checkpoint.read(checkpoint_folder, options.pretrained)
    told = inference.conditions(split["perturbation"], vocabulary, weights.vocabulary)
    without_token = inference.without_token(told, vocabulary)
    trained, validated = (_usable(split, role, without_token) for role in ("train", "validation"))
    cells = cells_of(cells, [CONTROL, *trained, *validated])
    token_ids, pad_id = vocabulary["token_id"].to_numpy(), weights.vocabulary["<pad>"]
    pairs = Pairs(cells, trained, token_ids, pad_id, told, options, seed)
    fabric = machine.fabric()
    if options.batch_size < fabric.world_size:
        expected = f"at least {fabric.world_size}, a pair for each device"
        raise InputError("configuration", "batch_size", str(options.batch_size), expected)
    tokens_in_use = inference.tokens_in_use(told, vocabulary)
    generator, load_report = start(weights, tokens_in_use, options, seed)
    model.check_tokens(generator, [pad_id, *tokens_in_use])
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
        validate=_validation(cells, validated, token_ids, pad_id, told, options, seed),
        select=options.select,
    )
    folder = Path(folder)
    code = {"torch": torch.__version__, **sources.content_hashes(__file__)}
    contents = _contents(cells, vocabulary, weights)
    identity = json.dumps([asdict(options), seed, trained, validated, tokens_in_use, contents, code])
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
        "versions": transformer.versions(),
        "load_report": load_report,
        "training_pairs": len(pairs.rows),
        "paired_within": pairs.paired_within,
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
    """The fine-tuned model of a folder, in evaluation mode; ``weights`` gives its sizes and vocabulary.

    Raises
    ------
    InputError
        If its file is damaged.
    """
    tensors = torch_files.read(Path(folder) / MODEL, "the weights of a fine-tuned model")
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


def _control_pools(
    cells: anndata.AnnData, rows: np.ndarray, within: Sequence[str]
) -> tuple[dict[int, np.ndarray], dict[str, int]]:
    """Control cells that each row of ``rows`` may be paired with, and the number of rows by what they share with these.

    That is ``within``; where no control cell shares it, the cell type, if ``within`` asks for it; or else ``any``.
    """
    controls = np.flatnonzero((cells.obs["perturbation"] == CONTROL).to_numpy())
    if not len(controls):
        raise InputError("cells.h5ad", "obs['perturbation']", "no control cell", f"cells named {CONTROL!r}")
    pools: dict[int, np.ndarray] = {}
    n_rows: dict[str, int] = {}
    for columns in dict.fromkeys([tuple(within), tuple(column for column in within if column == "cell_type"), ()]):
        group = np.zeros(cells.n_obs, dtype=int)
        if columns:
            group = cells.obs.groupby(list(columns), observed=True).ngroup().to_numpy()
        pool_of_group = {key: controls[group[controls] == key] for key in np.unique(group[controls])}
        paired = np.isin(group[rows], list(pool_of_group))
        pools |= {row: pool_of_group[group[row]] for row in rows[paired]}
        n_rows[", ".join(columns) or "any"] = int(paired.sum())
        rows = rows[~paired]
    return pools, n_rows


def loss(generator: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """This rank's share of the mean squared error of a batch of :class:`Pairs`, over the sampled genes."""
    error = _predict(generator, batch)[:, : batch["truth"].shape[1]] - batch["truth"]
    return error.square().sum() * batch["weight"]


def _predict(generator: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    output = generator(inputs["genes"], inputs["values"], inputs["flags"], src_key_padding_mask=inputs["padding"])
    return output["mlm_output"].float()


def _validation(cells, perturbations, token_ids, pad_id, told, options, seed):
    """The function that scores a model on the validation perturbations, by means over drawn control cells.

    As in the evaluation, a perturbation is compared with the control cells of its own cell types, and the mean of each
    type counts as that type does among its cells, however many control cells were drawn.
    """
    perturbation, cell_type = (cells.obs[column].astype(str).to_numpy() for column in ("perturbation", "cell_type"))
    controls = {
        name: _matched_controls(perturbation, cell_type, name, options.validation_cells, seed) for name in perturbations
    }
    control_means = dict(zip(perturbations, matched_control_mean(cells, perturbations), strict=True))
    truth = {name: np.asarray(cells.X[perturbation == name].mean(axis=0)).ravel() for name in perturbations}
    columns = np.arange(len(token_ids))

    def validate(generator: TransformerGenerator) -> dict[str, float]:
        device = next(generator.parameters()).device
        scores = []
        for name in perturbations:
            rows, shares = controls[name]
            values, control_mean = cells.X[rows].toarray(), control_means[name]
            batches = []
            for start in range(0, len(values), options.batch_size):
                part = values[start : start + options.batch_size]
                inputs = model_inputs(part, [told[name]] * len(part), token_ids, pad_id, columns)
                inputs = {key: tensor.to(device) for key, tensor in inputs.items()}
                batches.append(_predict(generator, inputs)[:, : len(columns)].cpu())
            mean = mean_cell(torch.cat(batches).numpy(), type_weights(cell_type[rows], shares))
            scores.append(
                {
                    "pearson": _pearson(mean, truth[name]),
                    "pearson_delta": _pearson(mean - control_mean, truth[name] - control_mean),
                    "validation_mse": float(np.square(mean - truth[name]).mean()),
                }
            )
        return pd.DataFrame(scores).mean().to_dict()

    return validate


def _matched_controls(
    perturbation: np.ndarray, cell_type: np.ndarray, name: str, number: int, seed: int
) -> tuple[np.ndarray, pd.Series]:
    """Rows of ``number`` control cells (or all) of a perturbation's cell types, ascending, and its share of each type.

    As near to these shares as the control cells allow, but at least one of every type.
    """
    shares = pd.Series(cell_type[perturbation == name]).value_counts(normalize=True)
    rows = np.flatnonzero((perturbation == CONTROL) & np.isin(cell_type, shares.index))
    rows = random_generator(seed, "fine-tuning", "validation", name).permutation(rows)
    types = pd.Series(cell_type[rows])
    turn = types.groupby(types).cumcount() / types.map(shares)  # who comes when (Adams: the first of each type first)
    return np.sort(rows[np.argsort(turn, kind="stable")[: max(number, len(shares))]]), shares


def _pearson(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson correlation; 0 where one side has no variance."""
    if one.std() == 0 or other.std() == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])
