"""The start page of the report: the verdict in words, and what limits it, from the run's own tables and method records.

Every number stands in ``scores.tsv``, ``verdicts.tsv``, ``scores_by_class.tsv``, a data card or a method
record; what a prediction without noise is expected to score is the square root of the ceiling, and
how many test perturbations share genes is counted here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import CONTEXT, Condition, conditions_of, labels_of, noun_of
from scgpt_bench.data.names import ALL_SPLITS
from scgpt_bench.evaluation.classes import CLASS, CLASS_COLUMNS, COLUMNS
from scgpt_bench.evaluation.scores import at_smallest_p_value
from scgpt_bench.method_record import MethodRecord
from scgpt_bench.methods.registry import BENCHMARK_CONTROL, CEILING, FLOOR, KINDS, SCGPT, group_of
from scgpt_bench.report.page import template

HEADLINE = "pearson_delta"
BESIDE = ("mse", "mae")  # metrics whose verdicts stand beside the headline's
FEW = 10  # test perturbations below which a warning says so
CONTROL_NOISE = 0.05  # of a Pearson delta, beyond which a warning says so: smaller differences are rarely found
NAMED = 8  # names in a warning, beyond which their number must do
COMPARED = ("better", "worse", "indistinguishable")
NOT_ASKED = "not asked"  # about any test perturbation


@dataclass(frozen=True)
class Prediction:
    """What made one prediction, and of which data set and split it is."""

    dataset: str
    split: str
    method: str
    record: MethodRecord


@dataclass(frozen=True)
class Run:
    """What the start page is made from.

    Attributes
    ----------
    scores, verdicts
        The tables of the run.
    kinds
        The kind of every method.
    checkpoints
        ``source`` of every checkpoint.
    generated
        Data sets that were generated here.
    predictions
        Of all methods, the first seed.
    published
        Options of the published fine-tuning recipe with their values.
    cards
        ``card.json`` of each data set.
    scores_by_class
        ``scores_by_class.tsv``.
    classes
        The class of every test condition (:func:`scgpt_bench.evaluation.classes.gather_classes`).
    """

    scores: pd.DataFrame
    verdicts: pd.DataFrame
    kinds: Mapping[str, str]
    checkpoints: Mapping[str, str]
    generated: Sequence[str]
    predictions: Sequence[Prediction]
    published: Mapping[str, Any]
    cards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    scores_by_class: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=COLUMNS))
    classes: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=CLASS_COLUMNS))

    @cached_property
    def places(self) -> list[dict[str, Any]]:
        """What :func:`places` says of this run."""
        return places(self)


def page(run: Run) -> str:
    """HTML of the start page; names and numbers are escaped."""
    context = {"places": run.places, "warnings": warnings(run), "metric": HEADLINE, "beside": BESIDE}
    return template("summary.html").render(**context, interval=interval)


def places(run: Run) -> list[dict[str, Any]]:
    """For each data set: its split (``all`` where there are several), the answer in one sentence, a row per method.

    Answer and rows are over all contexts; ``contexts`` of a row are the verdicts within each, where there are several.
    ``first`` are sentences that belong before the answer, since they may explain it.

    A measured mean is the true one with noise. Two of them correlate by the share ``R`` of the first in their variance,
    the true one with either by its square root (attenuation, Spearman 1904). ``noise_free`` is the root of the mean of
    ``R`` over conditions and of the ends of its interval: an estimate, which a score of these very cells may exceed.
    """
    found = []
    for dataset, scores in run.scores.groupby("dataset", sort=False):
        splits = list(scores["split"].unique())
        split = ALL_SPLITS if ALL_SPLITS in splits else splits[0]
        here = scores[(scores["split"] == split) & (scores["context"] == CONTEXT)]
        n = int(here.loc[here["metric"] == HEADLINE, "n_conditions"].max())
        unasked = _unasked(run, dataset)
        rows = _rows(run, here, dataset, split, [name for name, names in unasked.items() if len(names) >= n])
        ceiling, *ceiling_interval = _score_of_kind(run, here, CEILING)
        found.append(
            {
                "dataset": dataset,
                "split": split,
                "splits": [name for name in splits if name != ALL_SPLITS],
                "contexts": [name for name in scores["context"].unique() if name != CONTEXT],
                "noun": noun_of(scores),
                "n_conditions": n,
                "rows": rows,
                "first": _said_first(run, dataset, rows),
                "answer": _answer(run, rows, n, {name: n - len(names) for name, names in unasked.items()}),
                "ceiling": ceiling,
                "noise_free": None if ceiling is None else _roots(ceiling, *ceiling_interval),
                "floor": _score_of_kind(run, here, FLOOR)[0],
            }
        )
    return found


def _unasked(run: Run, dataset: str) -> dict[str, set[Condition]]:
    """The test conditions that a method could not be asked about, by method."""
    found: dict[str, set[Condition]] = {}
    for made in run.predictions:
        if made.dataset == dataset:
            found.setdefault(made.method, set()).update(entry.condition for entry in made.record.fallbacks)
    return found


def _rows(run: Run, scores: pd.DataFrame, dataset: str, split: str, unasked: Sequence[str]) -> list[dict[str, Any]]:
    judged = run.verdicts[(run.verdicts["dataset"] == dataset) & (run.verdicts["split"] == split)]
    within = judged[(judged["metric"] == HEADLINE) & (judged["context"] != CONTEXT)].set_index(["method", "context"])
    here = run.scores[(run.scores["dataset"] == dataset) & (run.scores["split"] == split)]
    silent = here[(here["metric"] == HEADLINE) & (here["n_asked"] == 0)].set_index(["method", "context"]).index
    within.loc[within.index.isin(silent) & within["verdict"].isin(COMPARED), "verdict"] = NOT_ASKED
    verdicts = judged[judged["context"] == CONTEXT]
    verdicts = verdicts.assign(p_is_at_most=at_smallest_p_value(verdicts))
    verdicts.loc[verdicts["method"].isin(unasked) & verdicts["verdict"].isin(COMPARED), "verdict"] = NOT_ASKED
    verdict_of = verdicts.set_index(["method", "metric"])["verdict"].to_dict()
    score_of = scores[scores["metric"] == HEADLINE].set_index("method")
    contexts = within.index.unique("context")
    headline = verdicts[verdicts["metric"] == HEADLINE].sort_values("difference", ascending=False, kind="stable")
    return [
        {
            **row,
            "mean": score_of.loc[row["method"], "mean"],
            "fraction": score_of.loc[row["method"], "fraction_of_ceiling"],
            "beside": [verdict_of.get((row["method"], metric), "not judged") for metric in BESIDE],
            "contexts": {context: within.loc[(row["method"], context), "verdict"] for context in contexts},
        }
        for row in headline.to_dict("records")
    ]


def _said_first(run: Run, dataset: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What may explain verdicts by itself: noise of the control mean, or responses that are mostly noise."""
    said = []
    noise = _control_noise(run, dataset)
    explained = [
        row["method"] for row in rows if row["verdict"] in ("better", "worse") and abs(row["difference"]) <= noise
    ]
    mostly_noise = noise > 0 and noise > run.cards[dataset]["shared_control_noise"]["same_controls"] / 2
    if noise > CONTROL_NOISE and (explained or mostly_noise):
        of_verdicts = (
            f" Differences of up to {noise:.2f} may be nothing else: {_listed(explained, NAMED)} "
            f"differ{'s' if len(explained) == 1 else ''} by no more from the best baseline."
        )
        said.append(
            f"Noise may explain what follows. {_of_noise(run.cards[dataset])}" + (of_verdicts if explained else "")
        )
    tested, poor = _unreliable(run, dataset)
    if len(poor) > len(tested) / 2:
        noun = noun_of(pd.DataFrame(run.cards[dataset]["conditions"]))
        said.append(
            f"Most responses are noise: those of {len(poor)} of the {len(tested)} test {noun}s "
            f"({_listed(poor, NAMED)}) are not repeated by two halves of their own cells."
        )
    return said


def _control_noise(run: Run, dataset: str) -> float:
    """How much noise of the control mean adds to the score of a response that all share; 0 where it is unknown."""
    noise = run.cards.get(dataset, {}).get("shared_control_noise", {})
    same, disjoint = noise.get("same_controls"), noise.get("disjoint_controls")
    return 0.0 if same is None or disjoint is None else same - disjoint  # a single perturbation has no others


def _of_noise(card: Mapping[str, Any]) -> str:
    same, disjoint = (card["shared_control_noise"][key] for key in ("same_controls", "disjoint_controls"))
    return (
        f"The mean response of all other perturbations scores {same:.2f} here in {HEADLINE}, and would score "
        f"{disjoint:.2f} if it had other control cells: the rest is noise of the one control mean that every response "
        "subtracts."
    )


def _unreliable(run: Run, dataset: str) -> tuple[list[str], list[str]]:
    """The test conditions of a data set (all of its card, where splits are unknown), and those of poor response."""
    listed = _labelled(run.cards[dataset]) if dataset in run.cards else {}
    tested = set(labels_of(run.classes[run.classes["dataset"] == dataset]))
    here = {label: entry for label, entry in listed.items() if not tested or label in tested}
    return list(here), [label for label, entry in here.items() if entry["reliable"] is False]  # None is unknown


def _labelled(card: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The conditions of a data card by their labels."""
    return {Condition(entry["perturbation"], entry["context"]).label: entry for entry in card["conditions"]}


def _answer(run: Run, rows: Sequence[Mapping[str, Any]], n: int, asked: Mapping[str, int]) -> str:
    scgpt = [row for row in rows if group_of(run.kinds[row["method"]]) == SCGPT]
    if not scgpt:
        return "No scGPT method was run on these data."
    verdicts = {row["verdict"] for row in scgpt}
    if "too few perturbations" in verdicts:
        return (
            f"Too few test perturbations for a verdict on {len(rows)} method{'s' if len(rows) > 1 else ''}: no "
            "difference, however large, could be told from chance."
        )
    if "data cannot tell" in verdicts:
        return (
            "These data cannot tell: not even a second sample of the same cells was shown to predict the responses "
            "better than the responses of other perturbations do."
        )
    without = _without_pretraining(run.predictions)
    pretrained = [row for row in scgpt if row["method"] not in without]
    judged = [row for row in pretrained if row["verdict"] != NOT_ASKED]
    silent = [row["method"] for row in pretrained if row["verdict"] == NOT_ASKED]
    if judged:
        answer = _answer_of(judged, n, asked)
        answer += f" {_listed(silent)} could be asked about none of the {n} test perturbations." if silent else ""
    elif silent:
        answer = (
            f"These data cannot be asked: the pretrained scGPT methods ({_listed(silent)}) know none of the {n} test "
            "perturbations."
        )
    else:
        answer = "No pretrained scGPT model was run on these data."
    untrained = [row["method"] for row in scgpt if row["method"] in without and row["verdict"] == "better"]
    if untrained:
        answer += f" Better than the best baseline without any pretraining: {_listed(untrained)}."
    return answer


def _answer_of(rows: Sequence[Mapping[str, Any]], n: int, asked: Mapping[str, int]) -> str:
    # The best method that is better; else the best that is not shown to be worse; else the best of all.
    verdicts = {row["verdict"] for row in rows}
    told = next((verdict for verdict in ("better", "indistinguishable") if verdict in verdicts), "worse")
    named = [row for row in rows if row["verdict"] == told]
    first, others = named[0], [row["method"] for row in named[1:]]
    against = f"the best baseline, {first['best_baseline']}"
    effect = f"{HEADLINE} {first['difference']:+.3f}, 95 % interval {interval(first['ci_low'], first['ci_high'])}"
    n_asked = asked.get(first["method"], n)
    effect += f"; asked about {n_asked} of {n} test perturbations" if n_asked < n else ""
    otherwise = {"better": "worse", "worse": "better"}.get(told)
    by = [metric for metric, verdict in zip(BESIDE, first["beside"], strict=True) if verdict == otherwise]
    but = f" But by {' and '.join(by)} {first['method']} is {otherwise}." if by else ""
    if told == "better":
        also = f" So {'does' if len(others) == 1 else 'do'} {_listed(others)}." if others else ""
        return f"Yes: {first['method']} predicts the responses better than {against} ({effect}).{but}{also}"
    if told == "worse":
        every = "every pretrained scGPT method" if len(rows) > 1 else first["method"]
        closest = f"; the closest is {first['method']}" if len(rows) > 1 else ""
        return f"No: {every} is worse than {against}{closest} ({effect}).{but}"
    return (
        f"No pretrained scGPT method was shown to be better than {against}; {first['method']} cannot be told from it "
        f"({effect}). That does not mean that they are equal."
    )


def _score_of_kind(run: Run, scores: pd.DataFrame, kind: str) -> tuple[float | None, float, float]:
    """The mean of the only method of a kind, None without one, and its interval."""
    rows = scores[(scores["metric"] == HEADLINE) & (scores["method"].map(run.kinds) == kind)]
    if rows.empty:
        return None, float("nan"), float("nan")
    mean, low, high = map(float, rows.iloc[0][["mean", "ci_low", "ci_high"]])
    return mean, low, high


def _roots(mean: float, low: float, high: float) -> str | None:
    """``0.894 (0.843 to 0.943)``: the square roots of a mean and of its interval; None where the mean is below 0."""
    if mean < 0:
        return None
    between = "" if pd.isna(low) or pd.isna(high) else f" ({max(low, 0) ** 0.5:.3f} to {max(high, 0) ** 0.5:.3f})"
    return f"{mean**0.5:.3f}{between}"


def warnings(run: Run) -> list[tuple[str, str]]:
    """What limits the verdicts, as (what, why it matters), the most important first."""
    found = [*_of_source(run), *_of_weights(run.predictions), *_of_baselines(run), *_of_copies(run), *_of_data(run)]
    found += [*_of_few_cells(run), *_of_composition(run)]
    found += [*_of_control_noise(run), *_of_batches(run), *_of_classes(run), *_of_shared_genes(run)]
    found += [*_of_genes(run.predictions), *_of_gaps(run), *_of_recipe(run.published, run.predictions)]
    return list(dict.fromkeys(found))


def _by_reason(pairs: Iterable[tuple[Any, str]]) -> dict[str, list[Any]]:
    """Whom each reason concerns: each once, in order."""
    found: dict[str, dict[Any, None]] = {}
    for whom, why in pairs:
        found.setdefault(why, {})[whom] = None
    return {why: list(everyone) for why, everyone in found.items()}


def _of_source(run: Run) -> Iterable[tuple[str, str]]:
    for dataset in run.generated:
        yield (
            f"Generated data: {dataset}",
            "These cells were simulated here, with a known truth. They test the workflow; they say nothing of biology.",
        )
    if run.checkpoints and "catalogue" not in run.checkpoints.values():
        own = [name for name, source in run.checkpoints.items() if source == "folder"]
        yield (
            "No published checkpoint",
            f"Every scGPT model of this run {f'came from a folder ({_listed(own)}), ' if own else ''}was pretrained "
            "here or has random weights. "
            + ("Nothing here says what a folder holds. " if own else "")
            + "The verdicts are about those models, not about the published scGPT.",
        )


def _without_pretraining(predictions: Sequence[Prediction]) -> set[str]:
    """Methods that use scGPT with random weights, or trained from random weights."""
    found = set()
    for made in predictions:
        report, scgpt = made.record.weights, made.record.scgpt
        if report and not (report.checkpoint_pretrained and (scgpt is None or scgpt.load_report.n_pretrained)):
            found.add(made.method)
    return found


def _of_weights(predictions: Sequence[Prediction]) -> Iterable[tuple[str, str]]:
    random_decoder, untrained = [], {}
    for made in predictions:
        tuned, report = made.record.finetuning, made.record.weights
        loaded = made.record.scgpt and made.record.scgpt.load_report
        if not report or (tuned and loaded and not loaded.n_pretrained):  # scgpt-scratch takes no weights
            continue
        if not report.checkpoint_pretrained:
            untrained[made.method] = report.checkpoint
        elif loaded and not tuned and any(name.startswith("decoder.") for name in loaded.random):
            percent = 100 * loaded.n_random / (loaded.n_random + loaded.n_pretrained)
            random_decoder.append((made.method, f"{percent:.1f} %"))
    for share, methods in _by_reason(random_decoder).items():
        yield (
            f"Random decoder: {_listed(methods)}",
            f"{share} of the parameters, the whole decoder among them, are random numbers that were never "
            "trained: the checkpoint has no weights for them. The score says what this common call does, not what the "
            "checkpoint knows.",
        )
    if untrained:
        yield (
            f"Untrained: {_listed(list(untrained))}",
            f"Random weights ({_listed(list(dict.fromkeys(untrained.values())))}), as a control: these scores owe "
            "nothing to pretraining.",
        )


def _of_baselines(run: Run) -> Iterable[tuple[str, str]]:
    combined = any("+" in entry["perturbation"] for card in run.cards.values() for entry in card["conditions"])
    data = ("any", "combinations") if combined else ("any",)
    missing = [kind.name for kind in KINDS.values() if kind.expected in data and kind.name not in run.kinds.values()]
    if missing and any(group_of(kind) == SCGPT for kind in run.kinds.values()):
        yield (
            f"Baselines not run: {', '.join(missing)}",
            "The best baseline is the best of those that were run. To be better than a weak one says little.",
        )


def _copies(run: Run, place: Mapping[str, Any]) -> list[list[str]]:
    """Groups of methods that no metric tells apart on a data set; benchmark controls are left out."""
    here = run.scores[(run.scores["dataset"] == place["dataset"]) & (run.scores["split"] == place["split"])]
    here = here[here["context"] == CONTEXT]
    table = here.pivot_table(index="metric", columns="method", values="mean", sort=False)
    left = [name for name in here["method"].unique() if group_of(run.kinds[name]) != BENCHMARK_CONTROL]
    groups = []
    while left:
        first, *left = left
        equal = np.isclose(table[left].T, table[first], rtol=1e-6, atol=1e-9, equal_nan=True).all(axis=1)
        groups.append([first, *(name for name, is_equal in zip(left, equal, strict=True) if is_equal)])
        left = [name for name, is_equal in zip(left, equal, strict=True) if not is_equal]
    return [group for group in groups if len(group) > 1]


def _of_copies(run: Run) -> Iterable[tuple[str, str]]:
    for place in run.places:
        for names in _copies(run, place):
            additive = "additive" in map(run.kinds.get, names)
            yield (
                f"The same prediction: {_listed(names)} on {place['dataset']}",
                "They are equal in every metric: count them as one."
                + (" Without combinations, additive is the mean of training." if additive else ""),
            )


def _of_data(run: Run) -> Iterable[tuple[str, str]]:
    for place in run.places:
        if place["ceiling"] is None:
            yield (
                f"No ceiling: {place['dataset']}",
                "technical-duplicate was not run, so that nothing says how good a score could be on these data.",
            )
        if place["n_conditions"] < FEW:
            yield (
                f"Few {place['noun']}s: {place['dataset']}",
                f"The verdict rests on {place['n_conditions']} test {place['noun']}s. Few can show large differences "
                "only.",
            )
    for dataset in run.cards:
        tested, poor = _unreliable(run, dataset)
        if 0 < len(poor) <= len(tested) / 2:  # more are said before the verdict
            yield (
                f"Unreliable perturbations: {dataset}",
                f"{len(poor)} of {len(tested)} have a response that two halves of their own cells do not agree on "
                f"({_listed(poor, NAMED)}): their scores are mostly noise.",
            )


def _of_few_cells(run: Run) -> Iterable[tuple[str, str]]:
    """What a data card leaves unknown for want of cells or controls; it is no number that a warning could name."""
    for dataset, card in run.cards.items():
        why = {label: entry["unknown"].get("reliability") for label, entry in _labelled(card).items()}
        unknown = {name: reason for name, reason in why.items() if reason}
        if unknown:
            reasons, noun = "; ".join(dict.fromkeys(unknown.values())), noun_of(pd.DataFrame(card["conditions"]))
            yield (
                f"Unknown reliability: {dataset}",
                f"Nothing says whether the responses of {len(unknown)} of {len(why)} {noun}s "
                f"({_listed(list(unknown), NAMED)}) are more than noise: {reasons}.",
            )


def _of_composition(run: Run) -> Iterable[tuple[str, str]]:
    for dataset, card in run.cards.items():
        shares = [
            f"{gene['gene']} has {100 * gene['share']:.0f} % of all counts" for gene in card["dominant_genes"] or ()
        ]
        differ = [
            f"{label} x {entry['counts_ratio']:.2f}"
            for label, entry in _labelled(card).items()
            if entry["counts_differ"]
        ]
        if differ:
            shares.append(f"counts per cell differ from the controls' ({_listed(differ, NAMED)})")
        if shares:
            yield (
                f"Composition: {dataset}",
                f"{'; '.join(shares)}. Expression is a share of a cell's counts: where these change, other genes seem "
                "to change the other way.",
            )


def _of_control_noise(run: Run) -> Iterable[tuple[str, str]]:
    said_first = {place["dataset"]: " ".join(place["first"]) for place in run.places}
    for dataset, card in run.cards.items():
        if _control_noise(run, dataset) > CONTROL_NOISE:
            noise = _of_noise(card)
            yield (
                f"Noise of the control mean: {dataset}",
                ("" if noise in said_first.get(dataset, "") else f"{noise} ")
                + "Baselines and fine-tuned models learn it from the training perturbations, prompted methods cannot: "
                "verdicts on the latter are tilted against them.",
            )


def _of_batches(run: Run) -> Iterable[tuple[str, str]]:
    for dataset, card in run.cards.items():
        listed = _labelled(card)
        names = [label for label, entry in listed.items() if entry["confounded"]]
        if names:
            largest = max(listed[label]["batch_shift"] for label in names)
            yield (
                f"Batches count as response: {dataset}",
                f"{len(names)} of {len(listed)} ({_listed(names, NAMED)}) are spread over other batches than the "
                "controls, which are matched by cell type only: a difference between batches makes up to "
                f"{100 * largest:.0f} % of the length of their response. Where perturbations share it, it is learned "
                "from those that are for training, and the right prediction without it scores less.",
            )


def _of_classes(run: Run) -> Iterable[tuple[str, str]]:
    """Where a class of test perturbations shows a difference that the verdict over all of them does not.

    The last row of a class is that over all splits, or of the only one that tests the class.
    """
    by_class = run.scores_by_class
    by_class = by_class[(by_class["metric"] == HEADLINE) & (by_class["context"] == CONTEXT)]
    for place in run.places:
        here = by_class[by_class["dataset"] == place["dataset"]]
        here = here.drop_duplicates([*CLASS, "method"], keep="last")
        for row in place["rows"]:
            classes = here[here["method"] == row["method"]]
            shown = set(classes["verdict"]) & {"better", "worse"}
            if row["verdict"] == NOT_ASKED:
                continue
            if group_of(run.kinds[row["method"]]) == SCGPT and shown - {row["verdict"]}:
                listed = [
                    f"{found.verdict} with {found.n_genes_seen} of {found.n_genes} ({found.difference:+.3f}, "
                    f"{found.n_conditions} {place['noun']}{'s' if found.n_conditions > 1 else ''})"
                    for found in classes.itertuples()
                ]
                yield (
                    f"Unlike verdicts by class: {row['method']} on {place['dataset']}",
                    f"Over all test {place['noun']}s {row['verdict']}; by how many of their genes were seen in "
                    f"training: {', '.join(listed)}. A verdict over all depends on how many there are of each.",
                )


def _of_shared_genes(run: Run) -> Iterable[tuple[str, str]]:
    for place in run.places:
        here = (run.classes["dataset"] == place["dataset"]) & run.classes["split"].isin(place["splits"])
        tested = conditions_of(run.classes[here])
        targeting = Counter(gene for condition in tested for gene in condition.genes)
        sharing = [condition for condition in tested if any(targeting[gene] > 1 for gene in condition.genes)]
        if sharing:
            copies = len(tested) > len({condition.perturbation for condition in tested})
            included = ", the same perturbation in another context included" if copies else ""
            yield (
                f"Test {place['noun']}s share genes: {place['dataset']}",
                f"{len(sharing)} of the {len(tested)} target a gene that another one targets as well{included}. "
                f"P-values and intervals take {place['noun']}s as independent, so that they are too confident here: a "
                "verdict is wrong more often than they say (docs/evaluation.md says by how much).",
            )


def _of_genes(predictions: Sequence[Prediction]) -> Iterable[tuple[str, str]]:
    found: dict[tuple[str, str], tuple[int, int, int]] = {}  # by data set and checkpoint: padded, renamed, all
    for made in predictions:
        weights, source = made.record.weights, made.record.scgpt or made.record.embeddings
        if weights and source and source.genes_padded:
            place = (made.dataset, weights.checkpoint)
            renamed = made.record.scgpt.genes_renamed if made.record.scgpt else found.get(place, (0, 0, 0))[1]
            found[place] = (source.genes_padded, renamed, made.record.n_genes)
    numbers: dict[tuple[str, int, int, int], list[str]] = {}
    for (dataset, checkpoint), counted in found.items():
        numbers.setdefault((dataset, *counted), []).append(checkpoint)
    for (dataset, padded, renamed, n_genes), names in numbers.items():
        yield (
            f"Padded genes: {dataset}",
            f"{padded:,} of {n_genes:,} measured genes ({100 * padded / n_genes:.1f} %) are not in the vocabulary "
            f"of {_listed(names)}. scGPT cannot tell them apart, and has no vector of theirs."
            + (f" {renamed:,} others are in it under another name, by which they are found." if renamed else ""),
        )


def _of_gaps(run: Run) -> Iterable[tuple[str, str]]:
    """What methods could not learn from, or what they predict without having been asked, over all splits of a data set.

    Methods with the same gap are named together.
    """
    unlearnt = _gathered(run, _unlearnt)
    for (dataset, names), methods in unlearnt.items():
        yield (
            f"Learns from fewer perturbations: {_listed(methods)} on {dataset}",
            f"scGPT has no token for {len(names)} of the perturbations ({_listed(names, NAMED)}): it is neither "
            "trained nor selected on them, while baselines learn from those that are for training.",
        )
    for (dataset, notes), methods in _gathered(run, _controls_from_elsewhere).items():
        yield (f"Trained on controls from elsewhere: {_listed(methods)} on {dataset}", f"{'; '.join(notes)}.")
    yield from _of_fallbacks(run)
    prompted = list(dict.fromkeys(made.method for made in run.predictions if made.record.prompts))
    if prompted:
        yield (
            f"Targeted genes are not predicted: {_listed(prompted)}",
            "The prompt sets them, and the prediction leaves them as they are in control cells. "
            f"{HEADLINE} counts them like any gene; {HEADLINE}_no_target leaves them out.",
        )
    for (dataset, names), methods in _gathered(run, _not_in_file).items():
        yield (
            f"Genes taken as unchanged: {_listed(methods)} on {dataset}",
            f"The file predicts nothing for {len(names):,} genes ({_listed(names, NAMED)}).",
        )


def _of_fallbacks(run: Run) -> Iterable[tuple[str, str]]:
    """One entry a data set: for which test perturbations which methods fell back on a rule, and on which."""
    for place in run.places:
        copies = {name for group in _copies(run, place) for name in group if run.kinds[name] == "additive"}
        reasons: dict[tuple[str, str], dict[str, None]] = {}  # the perturbations, by method and reason
        for made in run.predictions:
            if made.dataset != place["dataset"] or made.method in copies:  # said by :func:`_of_copies`
                continue
            for entry in made.record.fallbacks:
                why = f"{entry.reason}: {entry.prediction}"
                reasons.setdefault((made.method, why), {})[entry.condition.label] = None
        groups: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        for pair, of_pair in reasons.items():
            groups.setdefault(tuple(sorted(of_pair)), []).append(pair)
        told = []
        for names, pairs in groups.items():
            parts = [f"{_listed(methods)} ({why})" for why, methods in _by_reason(pairs).items()]
            told.append(f"{_listed(names, 3)} ({len(names)} of {place['n_conditions']}): {'; '.join(parts)}.")
        if told:
            more = f" And {len(told) - 4} more groups." if len(told) > 4 else ""
            yield (
                f"Not asked about every test perturbation: {place['dataset']}",
                f"These methods fell back on a rule. {' '.join(told[:4])}{more}",
            )


def _unlearnt(record: MethodRecord) -> Iterable[str]:
    return record.finetuning.perturbations_without_token if record.finetuning else ()


def _not_in_file(record: MethodRecord) -> Iterable[str]:
    return record.imported.genes_taken_as_unchanged if record.imported else ()


def _controls_from_elsewhere(record: MethodRecord) -> Iterable[str]:
    """In how many training pairs the control cell does not share what ``pair_within`` asks for, since none does."""
    asked, *fallbacks = record.finetuning.paired_within.items() if record.finetuning else [("any", 0)]
    for shared, n_pairs in fallbacks:
        if n_pairs and shared != "itself":
            instead = "any control cell" if shared == "any" else f"one that shares {shared} alone"
            yield f"no control cell shares {asked[0]} in {n_pairs:,} training pairs, which have {instead}"


def _gathered(
    run: Run, names_of: Callable[[MethodRecord], Iterable[str]]
) -> dict[tuple[str, tuple[str, ...]], list[str]]:
    """Methods by data set and by what their records name there, each name once; nothing where there is none."""
    named: dict[tuple[str, str], dict[str, None]] = {}
    for made in run.predictions:
        if names := dict.fromkeys(names_of(made.record)):
            named.setdefault((made.dataset, made.method), {}).update(names)
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (dataset, method), names in named.items():
        found.setdefault((dataset, tuple(names)), []).append(method)
    return found


def _of_recipe(published: Mapping[str, Any], predictions: Sequence[Prediction]) -> Iterable[tuple[str, str]]:
    recipes = []
    for made in predictions:
        if made.record.finetuning is None:
            continue
        used, deviations = made.record.finetuning.options, made.record.finetuning.deviations
        changed = [
            f"{name} {_shown(used[name])} (published {_shown(value)})"
            for name, value in published.items()
            if name in used and name not in deviations and used[name] != value
        ]
        chosen = f" Chosen in the configuration: {'; '.join(changed)}." if changed else ""
        different = [f"{name} {_shown(used[name])}" if name in used else name for name in deviations]
        why = (
            f"Different here: {'; '.join(different)}. config/README.md says how those with a value come back; the "
            f"others have no option.{chosen}"
        )
        recipes.append((made.method, why))
    for why, methods in _by_reason(recipes).items():
        yield f"Not the published recipe to the letter: {_listed(methods)}", why


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def interval(low: float, high: float) -> str:
    """``-0.031 to 0.120``; words where a single perturbation gives none."""
    return "unknown" if pd.isna(low) or pd.isna(high) else f"{low:+.3f} to {high:+.3f}"


def _listed(names: Sequence[str], most: int = 20) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
