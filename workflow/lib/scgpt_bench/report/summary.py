"""The start page of the report: the verdict in words, and what limits it, from the run's own tables and statements.

Every number stands in ``scores.tsv``, ``verdicts.tsv``, ``scores_by_class.tsv``, a data card or the statement of a
method (``uns["method"]``); what a prediction without noise is expected to score is the square root of the ceiling, and
how many test perturbations share genes is counted here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from scgpt_bench.data.names import ALL_SPLITS, genes_of
from scgpt_bench.evaluation.classes import CLASS, CLASS_COLUMNS, COLUMNS
from scgpt_bench.evaluation.scores import at_smallest_p_value
from scgpt_bench.report.page import template

HEADLINE = "pearson_delta"
BESIDE = ("mse", "mae")  # metrics whose verdicts stand beside the headline's
SIMPLE = ("train-mean", "ridge")  # kinds of baselines that published comparisons found hard to beat
FEW = 10  # test perturbations below which a warning says so
CEILING, FLOOR = "technical-duplicate", "shuffled"
CONTROL_NOISE = 0.05  # of a Pearson delta, beyond which a warning says so: smaller differences are rarely found
NAMED = 8  # names in a warning, beyond which their number must do


@dataclass(frozen=True)
class Statement:
    """What a method says of one prediction (``uns["method"]``), and of which data set, split and number of genes."""

    dataset: str
    split: str
    method: str
    n_genes: int
    says: Mapping[str, Any]


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
    statements
        Of all methods, the first seed.
    published
        Options of the published fine-tuning recipe with their values.
    cards
        ``card.json`` of each data set.
    scores_by_class
        ``scores_by_class.tsv``.
    classes
        The class of every test perturbation (:func:`scgpt_bench.evaluation.classes.gather_classes`).
    """

    scores: pd.DataFrame
    verdicts: pd.DataFrame
    kinds: Mapping[str, str]
    checkpoints: Mapping[str, str]
    generated: Sequence[str]
    statements: Sequence[Statement]
    published: Mapping[str, Any]
    cards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    scores_by_class: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=COLUMNS))
    classes: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=CLASS_COLUMNS))


def page(run: Run) -> str:
    """HTML of the start page; names and numbers are escaped."""
    context = {"places": places(run), "warnings": warnings(run), "metric": HEADLINE, "beside": BESIDE}
    return template("summary.html").render(**context, interval=interval)


def places(run: Run) -> list[dict[str, Any]]:
    """For each data set: its split (``all`` where there are several), the answer in one sentence, a row per method.

    A measured mean is the true one with noise. Two of them correlate by the share ``R`` of the first in their variance,
    the true one with either by its square root (attenuation, Spearman 1904). ``noise_free`` is the root of the mean of
    ``R`` over perturbations and of the ends of its interval: an estimate, which a score of these very cells may exceed.
    """
    found = []
    for dataset, scores in run.scores.groupby("dataset", sort=False):
        splits = list(scores["split"].unique())
        split = ALL_SPLITS if ALL_SPLITS in splits else splits[0]
        here = scores[scores["split"] == split]
        n = int(here.loc[here["metric"] == HEADLINE, "n_perturbations"].max())
        rows = _rows(run, here, dataset, split)
        ceiling, *ceiling_interval = _score_of_kind(run, here, CEILING)
        found.append(
            {
                "dataset": dataset,
                "split": split,
                "splits": [name for name in splits if name != ALL_SPLITS],
                "n_perturbations": n,
                "rows": rows,
                "answer": _answer(run, rows),
                "ceiling": ceiling,
                "noise_free": None if ceiling is None else _roots(ceiling, *ceiling_interval),
                "floor": _score_of_kind(run, here, FLOOR)[0],
            }
        )
    return found


def _rows(run: Run, scores: pd.DataFrame, dataset: str, split: str) -> list[dict[str, Any]]:
    verdicts = run.verdicts[(run.verdicts["dataset"] == dataset) & (run.verdicts["split"] == split)]
    verdicts = verdicts.assign(p_is_at_most=at_smallest_p_value(verdicts))
    verdict_of = verdicts.set_index(["method", "metric"])["verdict"].to_dict()
    score_of = scores[scores["metric"] == HEADLINE].set_index("method")
    headline = verdicts[verdicts["metric"] == HEADLINE].sort_values("difference", ascending=False, kind="stable")
    return [
        {
            **row,
            "mean": score_of.loc[row["method"], "mean"],
            "fraction": score_of.loc[row["method"], "fraction_of_ceiling"],
            "beside": [verdict_of.get((row["method"], metric), "not judged") for metric in BESIDE],
        }
        for row in headline.to_dict("records")
    ]


def _answer(run: Run, rows: Sequence[Mapping[str, Any]]) -> str:
    scgpt = [row for row in rows if run.kinds[row["method"]].startswith("scgpt")]
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
    without = _without_pretraining(run.statements)
    pretrained = [row for row in scgpt if row["method"] not in without]
    answer = _answer_of(pretrained) if pretrained else "No pretrained scGPT model was run on these data."
    untrained = [row["method"] for row in scgpt if row["method"] in without and row["verdict"] == "better"]
    if untrained:
        answer += f" Better than the best baseline without any pretraining: {_listed(untrained)}."
    return answer


def _answer_of(rows: Sequence[Mapping[str, Any]]) -> str:
    # The best method that is better; else the best that is not shown to be worse; else the best of all.
    verdicts = {row["verdict"] for row in rows}
    told = next((verdict for verdict in ("better", "indistinguishable") if verdict in verdicts), "worse")
    named = [row for row in rows if row["verdict"] == told]
    first, others = named[0], [row["method"] for row in named[1:]]
    against = f"the best baseline, {first['best_baseline']}"
    effect = f"{HEADLINE} {first['difference']:+.3f}, 95 % interval {interval(first['ci_low'], first['ci_high'])}"
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
    """``0.89 (0.84 to 0.93)``: the square roots of a mean and of its interval; None where the mean is below 0."""
    if mean < 0:
        return None
    between = "" if pd.isna(low) or pd.isna(high) else f" ({max(low, 0) ** 0.5:.2f} to {max(high, 0) ** 0.5:.2f})"
    return f"{mean**0.5:.2f}{between}"


def warnings(run: Run) -> list[tuple[str, str]]:
    """What limits the verdicts, as (what, why it matters), the most important first."""
    of_scgpt = [statement for statement in run.statements if "load_report" in statement.says]
    found = [*_of_source(run), *_of_weights(run.statements), *_of_baselines(run), *_of_data(run)]
    found += [*_of_control_noise(run), *_of_batches(run), *_of_classes(run), *_of_shared_genes(run)]
    found += [*_of_genes(of_scgpt), *_of_gaps(run), *_of_recipe(run.published, of_scgpt)]
    return list(dict.fromkeys(found))


def _of_source(run: Run) -> Iterable[tuple[str, str]]:
    for dataset in run.generated:
        yield (
            f"Generated data: {dataset}",
            "These cells were simulated here, with a known truth. They test the workflow; they say nothing of biology.",
        )
    published = [name for name, source in run.checkpoints.items() if source in ("catalogue", "folder")]
    if run.checkpoints and not published:
        yield (
            "No published checkpoint",
            "Every scGPT model of this run was pretrained here or has random weights. The verdicts are about those "
            "models, not about the published scGPT.",
        )


def _weights(statement: Statement) -> Mapping[str, Any] | None:
    """What a method says of scGPT's weights, or of the gene vectors that it takes from them; None if it uses none."""
    return statement.says.get("load_report") or statement.says.get("embeddings")


def _without_pretraining(statements: Sequence[Statement]) -> set[str]:
    """Methods that use scGPT with random weights, or trained from random weights."""
    return {
        statement.method
        for statement in statements
        if (report := _weights(statement))
        and not (report["checkpoint_pretrained"] and report.get("n_pretrained", 1))  # gene vectors are not counted
    }


def _of_weights(statements: Sequence[Statement]) -> Iterable[tuple[str, str]]:
    random_decoder, untrained = {}, {}
    for statement in statements:
        tuned, report = "finetuning" in statement.says, _weights(statement)
        if not report or (tuned and not report["n_pretrained"]):  # scgpt-scratch takes no weights
            continue
        if not report["checkpoint_pretrained"]:
            untrained[statement.method] = report["checkpoint"]
        elif not tuned and any(name.startswith("decoder.") for name in report.get("random", ())):
            random_decoder[statement.method] = report["n_random"] / (report["n_random"] + report["n_pretrained"])
    for method, share in random_decoder.items():
        yield (
            f"Random decoder: {method}",
            f"{100 * share:.1f} % of its parameters, the whole decoder among them, are random numbers that were never "
            "trained: the checkpoint has no weights for them. Its score says what this common call does, not what the "
            "checkpoint knows.",
        )
    for method, checkpoint in untrained.items():
        yield (
            f"Untrained model: {method}",
            f"Its checkpoint {checkpoint} holds random weights: what it scores owes nothing to pretraining.",
        )


def _of_baselines(run: Run) -> Iterable[tuple[str, str]]:
    missing = [kind for kind in SIMPLE if kind not in run.kinds.values()]
    combined = any("+" in entry["perturbation"] for card in run.cards.values() for entry in card["perturbations"])
    if combined and "additive" not in run.kinds.values():
        missing.append("additive")
    if missing and any(kind.startswith("scgpt") for kind in run.kinds.values()):
        yield (
            f"Baselines not run: {', '.join(missing)}",
            "The best baseline is the best of those that were run. To be better than a weak one says little.",
        )


def _of_data(run: Run) -> Iterable[tuple[str, str]]:
    for place in places(run):
        if place["ceiling"] is None:
            yield (
                f"No ceiling: {place['dataset']}",
                "technical-duplicate was not run, so that nothing says how good a score could be on these data.",
            )
        if place["n_perturbations"] < FEW:
            yield (
                f"Few perturbations: {place['dataset']}",
                f"The verdict rests on {place['n_perturbations']} test perturbations. Few can show large differences "
                "only.",
            )
    for dataset, card in run.cards.items():
        listed = card["perturbations"]
        poor = [entry["perturbation"] for entry in listed if not entry["reliable"]]
        if poor:
            yield (
                f"Unreliable perturbations: {dataset}",
                f"{len(poor)} of {len(listed)} have a response that two halves of their own cells do not agree on "
                f"({_listed(poor, NAMED)}): their scores are mostly noise.",
            )


def _of_control_noise(run: Run) -> Iterable[tuple[str, str]]:
    for dataset, card in run.cards.items():
        same, disjoint = (card["shared_control_noise"][key] for key in ("same_controls", "disjoint_controls"))
        if same is not None and same - disjoint > CONTROL_NOISE:  # a single perturbation has no others
            yield (
                f"Noise of the control mean: {dataset}",
                f"The mean response of all other perturbations scores {same:.2f} here in {HEADLINE}, and would score "
                f"{disjoint:.2f} if it had other control cells. The difference is noise of the one control mean that "
                "every response subtracts. Baselines and fine-tuned models learn it from the training perturbations, "
                "prompted methods cannot: verdicts on the latter are tilted against them.",
            )


def _of_batches(run: Run) -> Iterable[tuple[str, str]]:
    for dataset, card in run.cards.items():
        listed = card["perturbations"]
        confounded = [entry for entry in listed if entry["confounded"]]
        if confounded:
            largest = max(entry["batch_shift"] for entry in confounded)
            names = [entry["perturbation"] for entry in confounded]
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
    by_class = run.scores_by_class[run.scores_by_class["metric"] == HEADLINE]
    for place in places(run):
        here = by_class[by_class["dataset"] == place["dataset"]]
        here = here.drop_duplicates([*CLASS, "method"], keep="last")
        for row in place["rows"]:
            classes = here[here["method"] == row["method"]]
            shown = set(classes["verdict"]) & {"better", "worse"}
            if run.kinds[row["method"]].startswith("scgpt") and shown - {row["verdict"]}:
                listed = [
                    f"{found.verdict} with {found.n_genes_seen} of {found.n_genes} ({found.difference:+.3f}, "
                    f"{found.n_perturbations} perturbation{'s' if found.n_perturbations > 1 else ''})"
                    for found in classes.itertuples()
                ]
                yield (
                    f"Unlike verdicts by class: {row['method']} on {place['dataset']}",
                    f"Over all test perturbations {row['verdict']}; by how many of their genes were seen in training: "
                    f"{', '.join(listed)}. A verdict over all depends on how many there are of each.",
                )


def _of_shared_genes(run: Run) -> Iterable[tuple[str, str]]:
    for place in places(run):
        here = (run.classes["dataset"] == place["dataset"]) & run.classes["split"].isin(place["splits"])
        tested = run.classes.loc[here, "perturbation"].unique()
        targeting = Counter(gene for name in tested for gene in genes_of(name))
        sharing = [name for name in tested if any(targeting[gene] > 1 for gene in genes_of(name))]
        if sharing:
            yield (
                f"Test perturbations share genes: {place['dataset']}",
                f"{len(sharing)} of the {len(tested)} target a gene that another one targets as well. P-values and "
                "intervals take perturbations as independent, so that they are too confident here: a verdict is wrong "
                "more often than they say (docs/evaluation.md says by how much).",
            )


def _of_genes(statements: Sequence[Statement]) -> Iterable[tuple[str, str]]:
    checkpoints: dict[tuple[str, int, int, int], dict[str, None]] = {}  # in order, each once
    for statement in statements:
        says = statement.says
        place = (statement.dataset, says["genes_padded"], says["genes_renamed"], statement.n_genes)
        checkpoints.setdefault(place, {})[statement.says["load_report"]["checkpoint"]] = None
    for (dataset, padded, renamed, n_genes), names in checkpoints.items():
        if padded:
            yield (
                f"Padded genes: {dataset}",
                f"{padded:,} of {n_genes:,} measured genes ({100 * padded / n_genes:.1f} %) are not in the vocabulary "
                f"of {_listed(list(names))}. scGPT cannot tell them apart."
                + (f" {renamed:,} others are in it under another name, by which they are found." if renamed else ""),
            )
    for statement in statements:
        untold = statement.says["targets_outside_vocabulary"]
        if untold:
            yield (
                f"Targets unknown to scGPT: {statement.dataset}",
                f"{_listed(untold, NAMED)}: neither measured nor in the vocabulary, so that scGPT is not told what was "
                "perturbed.",
            )


def _of_gaps(run: Run) -> Iterable[tuple[str, str]]:
    """What a method could not learn from, or predicts by a rule of its own, over all splits of a data set."""
    unlearnt = _gathered(run, lambda says: says.get("finetuning", {}).get("perturbations_without_token", ()))
    for (method, dataset), names in unlearnt.items():
        yield (
            f"Learns from fewer perturbations: {method} on {dataset}",
            f"scGPT has no token for {len(names)} of the perturbations ({_listed(names, NAMED)}): {method} is neither "
            "trained nor selected on them, while baselines learn from those that are for training.",
        )
    for (method, dataset), notes in _gathered(run, _controls_from_elsewhere).items():
        yield (f"Trained on controls from elsewhere: {method} on {dataset}", f"{'; '.join(notes)}.")
    for (method, dataset), names in _gathered(run, lambda says: says.get("predicted_as_no_change", ())).items():
        yield (
            f"Predicted as no change: {method} on {dataset}",
            f"scGPT has no token for {_listed(names, NAMED)}, so that {method} cannot be asked.",
        )
    for (method, dataset), names in _gathered(run, lambda says: says.get("targets_already_as_prompted", ())).items():
        yield (
            f"Not asked anything: {method} on {dataset}",
            f"In all drawn control cells the targets of {_listed(names, NAMED)} have the values that they are set to "
            f"already (a silenced one is expressed in none), so that {method} predicts no change.",
        )
    prompted = list(dict.fromkeys(statement.method for statement in run.statements if "targets" in statement.says))
    if prompted:
        yield (
            f"Targeted genes are not predicted: {_listed(prompted)}",
            "The prompt sets them, and the prediction leaves them as they are in control cells. "
            f"{HEADLINE} counts them like any gene; {HEADLINE}_no_target leaves them out.",
        )
    for (method, dataset), names in _gathered(run, lambda says: says.get("genes_taken_as_unchanged", ())).items():
        yield (
            f"Genes taken as unchanged: {method} on {dataset}",
            f"The file predicts nothing for {len(names):,} genes ({_listed(names, NAMED)}).",
        )
    rules = _gathered(run, lambda says: [f"{name}: {note}" for name, note in says.get("notes", {}).items()])
    for (method, dataset), notes in rules.items():
        if run.kinds[method] != FLOOR:  # whose notes name the perturbation that each prediction is made of
            more = f"; and {len(notes) - 3:,} more" if len(notes) > 3 else ""
            yield (f"Predicted by a rule of its own: {method} on {dataset}", f"{'; '.join(notes[:3])}{more}.")


def _controls_from_elsewhere(says: Mapping[str, Any]) -> Iterable[str]:
    """In how many training pairs the control cell does not share what ``pair_within`` asks for, since none does."""
    asked, *fallbacks = says.get("finetuning", {}).get("paired_within", {"any": 0}).items()
    for shared, n_pairs in fallbacks:
        if n_pairs and shared != "itself":
            instead = "any control cell" if shared == "any" else f"one that shares {shared} alone"
            yield f"no control cell shares {asked[0]} in {n_pairs:,} training pairs, which have {instead}"


def _gathered(run: Run, names_of: Callable[[Mapping[str, Any]], Iterable[str]]) -> dict[tuple[str, str], list[str]]:
    """What statements name, by method and data set: each name once, in order; nothing where there is none."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for statement in run.statements:
        if names := dict.fromkeys(names_of(statement.says)):
            found.setdefault((statement.method, statement.dataset), {}).update(names)
    return {place: list(names) for place, names in found.items()}


def _of_recipe(published: Mapping[str, Any], statements: Sequence[Statement]) -> Iterable[tuple[str, str]]:
    for statement in statements:
        if "finetuning" not in statement.says:
            continue
        used, deviations = statement.says["finetuning"]["options"], statement.says["finetuning"]["deviations"]
        changed = [
            f"{name} {_shown(used[name])} (published {_shown(value)})"
            for name, value in published.items()
            if name in used and name not in deviations and used[name] != value
        ]
        chosen = f" Chosen in the configuration: {'; '.join(changed)}." if changed else ""
        different = [f"{name} {_shown(used[name])}" if name in used else name for name in deviations]
        yield (
            f"Not the published recipe to the letter: {statement.method}",
            f"Different here: {'; '.join(different)}. config/README.md says how those with a value come back; the "
            f"others have no option.{chosen}",
        )


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def interval(low: float, high: float) -> str:
    """``-0.031 to 0.120``; words where a single perturbation gives none."""
    return "unknown" if pd.isna(low) or pd.isna(high) else f"{low:+.3f} to {high:+.3f}"


def _listed(names: Sequence[str], most: int = 20) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
