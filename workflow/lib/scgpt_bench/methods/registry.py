"""What every method is: the one registry that rules, scores, figures, configuration and documents ask.

A method of a configuration has one of these kinds. A new kind is one entry here and the function or script that its
rule runs. Snakemake reads this module at every start, and no prediction depends on it: it imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pydantic

from scgpt_bench.options import (
    Coexpression,
    ControlValues,
    Files,
    Finetuning,
    Flagged,
    Foreign,
    Forest,
    FromCheckpoint,
    GearsTraining,
    Graph,
    Method,
    Neighbours,
    Options,
    Prompt,
    RandomStart,
    Ridge,
    Rounds,
    Scaled,
    Script,
    Search,
    SeveralSeeds,
    Start,
    Vectors,
    Weighting,
)


@dataclass(frozen=True, kw_only=True)
class Group:
    """What kinds of methods have in common.

    Attributes
    ----------
    name
        As legends have it.
    judges, is_judged
        Whether others are compared with its methods, and whether they are compared. Benchmark controls do neither.
    colour, marker, line
        Its look in legends and figures.
    spare_colours
        For kinds that have no colour of their own.
    """

    name: str
    judges: bool = False
    is_judged: bool = False
    colour: str
    marker: str
    line: str = "-"
    spare_colours: tuple[str, ...] = ()


# Colours after Okabe and Ito (2008), varied in lightness within a group, so that groups differ in hue and in marker.
SIMPLE = Group(
    name="simple method",
    judges=True,
    colour="#0072b2",
    marker="o",
)
SCGPT = Group(
    name="scGPT",
    is_judged=True,
    colour="#d55e00",
    marker="D",
)
BENCHMARK_CONTROL = Group(
    name="benchmark control",
    colour="#000000",
    marker="s",
    line="--",
)
OTHER_MODEL = Group(
    name="other model",
    is_judged=True,
    colour="#882255",
    marker="^",
    spare_colours=("#cc79a7", "#882255", "#332288", "#7a5195", "#a05195"),
)
GROUPS = (SIMPLE, SCGPT, BENCHMARK_CONTROL, OTHER_MODEL)


@dataclass(frozen=True, kw_only=True)
class MethodKind:
    """A kind of methods.

    Attributes
    ----------
    name
        What the configuration calls it.
    description
        For config/README.md.
    group
        What it shares with others.
    rules
        The rules that make its predictions, in their order.
    environment
        The file in ``envs/`` for these rules. Those of scGPT and GEARS have a variant for jobs without a GPU.
    function
        What the rule's script calls to predict, where it knows several.
    options
        What it takes beside the options of every method, in this order.
    colour
        Of its methods.
    expected
        On which data a run without it says so, since it is hard to beat: ``any``, those with ``combinations``, those of
        several ``cell types`` in a context, or those split by ``contexts``.
    depends_on_seed
        Whether another seed gives another prediction; assumed of what was made elsewhere.
    changes_other_genes
        Whether it predicts that genes change other than the perturbed one.
    """

    name: str
    description: str
    group: Group
    rules: tuple[str, ...]
    environment: str
    function: str = ""
    options: tuple[type[Options], ...] = ()
    colour: str = ""
    expected: str = ""
    depends_on_seed: bool = False
    changes_other_genes: bool = True

    @property
    def is_trained(self) -> bool:
        """Return whether scGPT's weights are trained on perturbed cells."""
        return "finetune" in self.rules

    @cached_property
    def option_class(self) -> type[Options]:
        """Join all that it takes."""
        return pydantic.create_model(self.name, __base__=(*reversed(self.options), Method))


FLOOR, CEILING, ORACLE = "shuffled", "technical-duplicate", "oracle"
FINETUNED, SCRATCH = "scgpt-finetuned", "scgpt-scratch"  # as published, which a configuration may deviate from

_simple = partial(MethodKind, group=SIMPLE, rules=("predict_baseline",), environment="evaluation")
_on_embeddings = partial(MethodKind, group=SCGPT, rules=("predict_baseline",), environment="evaluation")
_scgpt = partial(MethodKind, group=SCGPT, rules=("predict_scgpt",), environment="scgpt", depends_on_seed=True)
_trained_scgpt = partial(_scgpt, rules=("finetune", "predict_scgpt"))
_control = partial(MethodKind, group=BENCHMARK_CONTROL, rules=("predict_benchmark_control",), environment="evaluation")
_other = partial(MethodKind, group=OTHER_MODEL, depends_on_seed=True)
_foreign = partial(_other, environment="evaluation")

_REGISTERED = (
    _simple(
        name="control-mean",
        description="Nothing changes.",
        function="control_mean",
        colour="#999999",
        changes_other_genes=False,
    ),
    _simple(
        name="train-mean",
        description="The mean shift of the training perturbations of the context. If the context has fewer than "
        "three, as a held-out one has, the mean over all contexts; so do the other simple methods.",
        function="train_mean",
        options=(Weighting, Scaled),
        colour="#555555",
        expected="any",
    ),
    _simple(
        name="type-mean",
        description="The mean shift of each cell type over all training cells, mixed in the shares that the "
        "perturbation's own cells have.",
        function="type_mean",
        colour="#2f6f73",
        expected="cell types",
    ),
    _simple(
        name="context-mean",
        description="The average shift of each context's training perturbations, averaged over contexts with equal "
        "weights.",
        function="context_mean",
        options=(Scaled,),
        colour="#777799",
    ),
    _simple(
        name="same-perturbation",
        description="The mean change of the same perturbation, in the same direction, in the other contexts. If "
        "training has it in none, the mean shift, with a note.",
        function="same_perturbation",
        options=(Scaled,),
        colour="#56b4e9",
        expected="contexts",
    ),
    _simple(
        name="same-perturbation-and-context",
        description="The same perturbation's difference from the mean shift in each other context, averaged and added "
        "to the mean shift of the context itself. If the context has fewer than three training "
        "perturbations, added to the mean shift of the others.",
        function="same_perturbation_and_context",
        options=(Scaled,),
        colour="#1f78b4",
        expected="contexts",
    ),
    _simple(
        name="additive",
        description="For combinations: the sum of the shifts of the single perturbations. A single that training "
        "lacks counts as the mean shift of the training perturbations, with a note.",
        function="additive",
        options=(Scaled,),
        colour="#7cbde8",
        expected="combinations",
    ),
    _simple(
        name="ridge",
        description="The bilinear model of Ahlmann-Eltze, Huber and Anders (2025) on principal components of the "
        "training pseudo-bulks. With `vectors`, these describe the perturbed genes.",
        function="ridge",
        options=(Ridge, Vectors, Scaled),
        colour="#2f8fd0",
        expected="any",
    ),
    _simple(
        name="knn",
        description="The mean shift of the training perturbations whose genes are most similar, by co-expression among "
        "control cells or by `vectors`.",
        function="knn",
        options=(Neighbours, Coexpression, Vectors, Scaled),
        colour="#0072b2",
    ),
    _simple(
        name="forest",
        description="A random forest that predicts principal components of the changes, by co-expression among control "
        "cells or by `vectors`.",
        function="forest",
        options=(Forest, Vectors, Scaled),
        colour="#3f5fa8",
        depends_on_seed=True,
    ),
    _simple(
        name="tuned-simple",
        description="A weighted sum of what ridge, knn and, for combinations, additive predict in addition to the "
        "mean shift. With `vectors`, also ridge and knn on those; for perturbations known from other "
        "contexts, also same-perturbation and same-perturbation-and-context. Options and weights are "
        "chosen by cross-validation.",
        function="tuned_simple",
        options=(Vectors,),
        colour="#00497a",
        expected="any",
    ),
    _simple(
        name="target-only",
        description="Only the targeted gene changes, by the mean efficacy seen in training.",
        function="target_only",
        colour="#0b3c6f",
        changes_other_genes=False,
    ),
    _control(
        name=FLOOR,
        description="Floor: the measured change of another test perturbation, averaged over up to 20 reassignments.",
        function="shuffled",
        colour="#000000",
    ),
    _control(
        name=CEILING,
        description="Ceiling: half of a perturbation's own cells predict the other half. Corrected for the halved "
        "depth.",
        function="technical_duplicate",
        colour="#009e73",
    ),
    _control(
        name=ORACLE,
        description="The planted mean, for generated data only.",
        function="oracle",
        colour="#005c43",
    ),
    _on_embeddings(
        name="scgpt-embedding-ridge",
        description="A linear head, trained on the training perturbations, on the frozen gene embeddings of the "
        "checkpoint.",
        function="ridge",
        options=(FromCheckpoint, Ridge, Scaled),
        colour="#5c3d00",
    ),
    _on_embeddings(
        name="scgpt-embedding-knn",
        description="The mean shift of the training perturbations whose genes are most similar in the gene embedding "
        "of the checkpoint.",
        function="knn",
        options=(FromCheckpoint, Neighbours, Scaled),
        colour="#7a5c1e",
    ),
    _scgpt(
        name="scgpt-zero-shot",
        description="The call with a perturbation flag, as commonly run: pretrained encoders, random perturbation "
        "embedding and random decoder.",
        function="zero_shot",
        options=(FromCheckpoint, Flagged, ControlValues),
        colour="#f2b134",
    ),
    _trained_scgpt(
        name=FINETUNED,
        description="Fine-tuned on the training perturbations. Encoders and transformer start from the checkpoint, "
        "perturbation embedding and decoder from random weights.",
        function="finetuned",
        options=(FromCheckpoint, SeveralSeeds, Search, Finetuning, Flagged, ControlValues, Start),
        colour="#d55e00",
    ),
    _trained_scgpt(
        name=SCRATCH,
        description="The same training with all weights random at the start. The checkpoint gives only sizes and "
        "vocabulary.",
        function="finetuned",
        options=(FromCheckpoint, SeveralSeeds, Search, Finetuning, Flagged, ControlValues, RandomStart),
        colour="#f0835a",
    ),
    _scgpt(
        name="scgpt-knockout",
        description="The pretrained head predicts unknown genes of a cell twice: with the target silenced (raised, in "
        "activation screens), and unchanged. The difference is added to the cell. One masked forward pass "
        "each.",
        function="prompted",
        options=(FromCheckpoint, Prompt),
        colour="#cf8f00",
    ),
    _scgpt(
        name="scgpt-generate",
        description="The same question, answered by iterative generation: each round makes the most confident unknown "
        "genes known.",
        function="prompted",
        options=(FromCheckpoint, Prompt, Rounds),
        colour="#9a6a00",
    ),
    _other(
        name="gears",
        description="GEARS (Roohani, Huang and Leskovec 2023), the package cell-gears, trained on the cells of the "
        "training perturbations with a graph of similar genes. Each context has its own model. Not asked, "
        "and predicted as the mean shift of the training perturbations: genes outside the graph, and "
        "contexts with fewer than three training perturbations, such as a held-out one.",
        rules=("predict_gears",),
        environment="gears",
        options=(SeveralSeeds, Graph, GearsTraining),
        colour="#aa4499",
    ),
    _foreign(
        name="imported",
        description="Predictions of another program, from a file.",
        rules=("import_predictions",),
        options=(Foreign, Files),
    ),
    _foreign(
        name="script",
        description="A script of your own that the workflow runs. docs/adding_a_method.md has the rules.",
        rules=("predict_by_script", "import_predictions"),
        options=(Foreign, Script),
    ),
)
KINDS = {kind.name: kind for kind in _REGISTERED}
# Options in which twins may differ: what they start from, and which of it stays as it is.
_OF_TWINS = ("kind", "checkpoint", "seeds", "pretrained", "freeze")
VALUES = {"value_input": "log1p", "silenced_targets": "zero"}  # what scGPT is given of a cell: options and defaults


def group_of(kind: str) -> Group:
    """Give the group of a kind; what is not registered was made by another program."""
    return KINDS[kind].group if kind in KINDS else OTHER_MODEL


def untrained(methods: Mapping[str, Mapping[str, Any]], random_checkpoints: Collection[str]) -> list[str]:
    """List the methods, by name, whose answers are those of random weights.

    Parameters
    ----------
    methods
        ``methods`` of the configuration, defaults filled in.
    random_checkpoints
        Its checkpoints with ``source: random``.
    """
    return [
        name
        for name, options in methods.items()
        if options.get("checkpoint") in random_checkpoints and not KINDS[options["kind"]].is_trained
    ]


def without_pretraining(methods: Mapping[str, Mapping[str, Any]], random_checkpoints: Collection[str]) -> list[str]:
    """List the methods whose weights are random, or trained from random ones.

    Parameters are those of :func:`untrained`.
    """
    return [
        name
        for name, options in methods.items()
        if options.get("checkpoint") in random_checkpoints or options.get("pretrained") == []
    ]


def contrasts(methods: Mapping[str, Mapping[str, Any]], random_checkpoints: Collection[str]) -> list[tuple[str, str]]:
    """Pair methods that are compared as a question of its own, in the order of ``methods``.

    - What does pretraining add: fine-tuned and from scratch, and a method and its untrained twin: with the same options
      but those of the weights that they start from.
    - What do the values add that scGPT is given (``VALUES``): methods of one kind that differ in one of these options
      alone, the one that deviates from the default first.

    Parameters are those of :func:`untrained`.
    """
    twins = untrained(methods, random_checkpoints)
    found = []
    for name, options in methods.items():
        if options["kind"] == FINETUNED:
            scratch = [other for other, its in methods.items() if its["kind"] == SCRATCH]
            found += [(name, other) for other in scratch if _others(methods[other]) == _others(options)]
        if "checkpoint" in options and not KINDS[options["kind"]].is_trained and name not in twins:
            own = [twin for twin in twins if methods[twin]["kind"] == options["kind"]]
            found += [(name, twin) for twin in own if _others(methods[twin]) == _others(options)]
        for key, default in VALUES.items():
            if options.get(key, default) != default:
                seeds = {"seeds": options["seeds"]}
                as_published = {**options, key: default}
                found += [(name, other) for other, its in methods.items() if {**its, **seeds} == as_published]
    return found


def _others(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in _OF_TWINS}
