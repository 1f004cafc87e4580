"""What made a prediction: ``method.json`` beside every ``predictions.h5ad``.

Evaluation and report read it here and nowhere else; what it does not know it refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

from scgpt_bench import __version__
from scgpt_bench.data.conditions import Condition
from scgpt_bench.errors import InputError
from scgpt_bench.files import first_line, write_json


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Asked(_Part):
    """A condition that the method had what it needs for: a token, a vector, a measured single, of every target."""

    perturbation: str
    context: str

    @property
    def condition(self) -> Condition:
        """Return the same, as tables name it."""
        return Condition(self.perturbation, self.context)


class Fallback(Asked):
    """A condition that it could not be asked about: what it lacked (``reason``) and what it predicted instead."""

    reason: str
    prediction: str


class LoadReport(_Part):
    """Where the weights of a model come from, in parameters by tensor: :func:`scgpt.checkpoint.load_report`."""

    checkpoint: str
    checkpoint_pretrained: bool
    checkpoint_fine_tuned: bool
    stored_as: tuple[str, ...]
    seed: int
    pretrained: dict[str, int]
    random: dict[str, int]
    unused: dict[str, int]
    n_pretrained: int
    n_random: int
    n_unused: int
    frozen: tuple[str, ...] = ()
    not_called: tuple[str, ...] = ()


class Scgpt(_Part):
    """How scGPT was asked, and what computed its answers."""

    load_report: LoadReport
    checkpoint_sha256: str
    attention: str
    precision: str  # fp32, tf32, bf16 or fp16
    device: str
    versions: dict[str, str]
    targets_not_measured: tuple[str, ...]
    genes_padded: int
    genes_renamed: int


class Prompts(_Part):
    """How targets were set in prompts, and the conditions whose targets were raised though no control has them."""

    targets: tuple[str, ...]
    zeros_in_pretraining: bool
    raised_without_expression: tuple[str, ...]


class FinetuningReport(_Part):
    """The report of a fine-tuning (``model/report.json``) without its load report."""

    seed: int
    options: dict[str, Any]
    deviations: dict[str, str]
    attention: str = ""  # what computed it; an earlier report does not say
    precision: str
    device: str
    processes: int
    deterministic: bool = True
    micro_batch: int | None = None
    versions: dict[str, str]
    training_pairs: int
    paired_within: dict[str, int]
    flag_share: float
    perturbations_without_token: tuple[str, ...]
    training_directions: dict[str, int]
    training_perturbations: dict[str, int]
    validation_perturbations: dict[str, int]
    selected_epoch: int
    pearson_delta: float | None = None  # of the validation perturbations: the one of the two that selected the epoch
    pearson: float | None = None


class Embeddings(_Part):
    """The gene vectors that a method took: of a checkpoint, a file (its own or public), or another data set."""

    source: Literal["checkpoint", "file", "catalogue", "dataset"]
    name: str  # of the checkpoint, or of the entry in ``vectors``
    sha256: str
    dimensions: int
    genes_without_vector: int  # of those measured; perturbed genes without one are fallbacks
    checkpoint_pretrained: bool | None = None

    @property
    def checkpoint(self) -> str:
        """Name the checkpoint, where it is one."""
        return self.name


class Gears(_Part):
    """The graph of genes that GEARS had, what it could not learn from, and what computed its answers."""

    graph: str  # key of ``vectors``
    graph_sha256: str
    graph_genes: int
    graph_edges: int
    perturbations_left_out: tuple[str, ...]  # to learn from, of genes outside the graph
    device: str
    versions: dict[str, str]


class Training(_Part):
    """What a simple method, or GEARS, had to learn from."""

    perturbations: int
    cells: int


class Candidate(_Part):
    """Options that were tried, and their score: mean correlation over the perturbations held out."""

    method: str
    options: dict[str, Any]
    score: float


class Chosen(_Part):
    """What a simple method left open and chose by cross-validation over the conditions that it learned from.

    Attributes
    ----------
    left_out
        What was left out and predicted: perturbations of the context; other contexts, where it has too few; or nothing,
        where there are too few of these, so that the first candidates were taken and nothing was scaled.
    options
        Of each method that makes the prediction.
    candidates
        All that were tried.
    weights
        Of the mean change, and of what the methods predict beside it; empty where a prediction stays as it is.
    """

    left_out: Literal["perturbations", "contexts", "nothing"]
    options: dict[str, dict[str, Any]]
    candidates: tuple[Candidate, ...]
    weights: dict[str, float]


class Imported(_Part):
    """A file that another program made, and what was filled in or left out of it."""

    file: str
    sha256: str
    made_by: str | None
    perturbations_given_as_cells: int
    perturbations_given_as_pseudobulk: int
    genes_taken_as_unchanged: tuple[str, ...]
    perturbations_left_out: tuple[str, ...]
    control_rows_left_out: int


class MethodRecord(_Part):
    """What made the predictions of one method and seed.

    Attributes
    ----------
    kind, options, seed
        As configured; ``options`` with every default.
    scgpt_bench
        The version of this package.
    n_genes
        Genes that are predicted.
    asked, fallbacks
        The conditions that the method was asked about, and those where it fell back on a rule. Each is in one of them.
    halved
        Whether one half of the measured cells is the prediction, to be scored against the other.
    shuffles
        Over how many ways to deal out responses the metrics are means; 0 where the prediction is what is scored.
    scgpt, prompts, finetuning, embeddings, training, imported, gears
        What there is to say of methods that use these.
    chosen
        What a simple method chose, by context; apart for perturbations that are trained on in no other context, where
        a context asks of both.
    """

    kind: str
    options: dict[str, Any]
    seed: int
    scgpt_bench: str = __version__
    n_genes: int
    asked: tuple[Asked, ...]
    fallbacks: tuple[Fallback, ...]
    halved: bool = False
    shuffles: int = 0
    scgpt: Scgpt | None = None
    prompts: Prompts | None = None
    finetuning: FinetuningReport | None = None
    embeddings: Embeddings | None = None
    training: Training | None = None
    chosen: dict[str, Chosen] = {}
    imported: Imported | None = None
    gears: Gears | None = None

    @property
    def weights(self) -> LoadReport | Embeddings | None:
        """Return what is known about the checkpoint of its weights or gene vectors; None if it has none."""
        if self.scgpt:
            return self.scgpt.load_report
        return self.embeddings if self.embeddings and self.embeddings.source == "checkpoint" else None

    @property
    def random_decoder(self) -> bool:
        """Return whether a decoder of random weights, which nobody trained, gives the answers."""
        if self.scgpt is None or self.finetuning:
            return False
        return any(name.startswith("decoder.") for name in self.scgpt.load_report.random)

    @property
    def untrained(self) -> bool:
        """Return whether random weights give the answers: of the decoder, or of a checkpoint without training."""
        return self.random_decoder or bool(
            self.weights and not self.finetuning and not self.weights.checkpoint_pretrained
        )


def record_of(
    conditions: Iterable[Condition], fallbacks: Mapping[Condition, tuple[str, str]] | None = None, **entries: Any
) -> MethodRecord:
    """Make the record of a prediction.

    Parameters
    ----------
    conditions
        Those that are predicted.
    fallbacks
        Reason and prediction for each of them that the method could not be asked about.
    entries
        The other entries of :class:`MethodRecord`.
    """
    fallbacks = fallbacks or {}
    asked = (Asked(**condition._asdict()) for condition in sorted(conditions) if condition not in fallbacks)
    fallen_back = (
        Fallback(**condition._asdict(), reason=reason, prediction=prediction)
        for condition, (reason, prediction) in sorted(fallbacks.items())
    )
    return MethodRecord(asked=tuple(asked), fallbacks=tuple(fallen_back), **entries)


def joined(shards: Sequence[MethodRecord]) -> MethodRecord:
    """Make the record of a prediction from those of its shards, which differ in their conditions only."""
    first = shards[0]
    together: dict[str, Any] = {}
    for key in ("asked", "fallbacks"):
        by_condition = {entry.condition: entry for shard in shards for entry in getattr(shard, key)}
        together[key] = tuple(by_condition[condition] for condition in sorted(by_condition))
    lists = {"scgpt": ("targets_not_measured",), "prompts": ("targets", "raised_without_expression")}
    for part, keys in lists.items():
        parts = [getattr(shard, part) for shard in shards]
        if parts[0] is not None:
            names = {key: tuple(sorted({name for each in parts for name in getattr(each, key)})) for key in keys}
            together[part] = parts[0].model_copy(update=names)
    return first.model_copy(update=together)


def write_record(record: MethodRecord, path: str | Path) -> None:
    """Write ``method.json``, completely or not at all."""
    write_json(record.model_dump(mode="json"), path)


def read_record(path: str | Path) -> MethodRecord:
    """Read ``method.json``.

    Raises
    ------
    InputError
        For a file that is absent or not JSON, an unknown or missing key, or a value of another type.
    """
    try:
        record = MethodRecord.model_validate_json(Path(path).read_text(encoding="utf-8"), strict=True)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        if first["type"] == "missing":
            raise InputError(path, where, "no such key", "the record of a method, complete") from None
        if first["type"] == "extra_forbidden":
            raise InputError(path, where, "an unknown key", "the record of a method by this version") from None
        if first["type"] == "json_invalid":
            raise InputError(path, "file", first["msg"], "JSON: the record of a method") from None
        raise InputError(path, where, repr(first["input"]), first["msg"]) from None
    except (OSError, ValueError) as error:
        raise InputError(path, "file", first_line(error), "JSON: the record of a method") from None
    for key in MethodRecord.model_fields:
        if key not in record.model_fields_set:
            raise InputError(path, key, "no such key", "the record of a method, complete")
    return record
