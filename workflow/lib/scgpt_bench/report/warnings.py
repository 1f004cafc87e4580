"""Which warnings apply to a run: their names, which are those of macros in ``sentences.html``, and their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from scgpt_bench.data import split_names
from scgpt_bench.data.conditions import ALL_CONTEXTS, noun_of
from scgpt_bench.evaluation.classes import CLASS
from scgpt_bench.evaluation.metrics import HEADLINE
from scgpt_bench.evaluation.scores import LEAK
from scgpt_bench.evaluation.verdicts import ONE_SEED, ONE_TRAINING
from scgpt_bench.method_record import MethodRecord
from scgpt_bench.methods.registry import KINDS, SCGPT, SIMPLE
from scgpt_bench.report.run import Run, Sentence, grouped, labelled, methods_by_names, without_token

FEW = 10  # test conditions, below which there is a warning

# The lines of the start page under which warnings are folded, by the question that they are about.
GROUPS = {
    "The comparison": (
        "possible_leak",
        "simple_methods_not_run",
        "simple_methods_not_tuned",
        "same_prediction",
        "several_cell_types",
        "unlike_classes",
        "one_seed",
    ),
    "The data": (
        *("generated_data", "few_conditions", "unreliable_responses", "unknown_reliability"),
        *("composition", "batches"),
    ),
    "The models": ("no_published_checkpoint", "random_decoder", "untrained", "recipe", "pretraining_recipe"),
    "What was learned from": ("fewer_perturbations", "other_controls"),
    "What was not predicted": (
        *("padded_genes", "not_asked", "targets_not_predicted", "zeros_in_prompts", "unchanged_genes"),
    ),
}

Places = Sequence[Mapping[str, Any]]


def warnings(run: Run, places: Places) -> list[Sentence]:
    """List what limits the answers in ``places`` (:func:`scgpt_bench.report.summary.places`), most important first."""
    checks = [_of_source, _of_leaks, _of_weights, _of_simple_methods, _of_copies, _of_data, _of_few_cells]
    checks += [
        _of_composition,
        _of_batches,
        _of_cell_types,
        _of_classes,
        _of_seeds,
        _of_genes,
        _of_training,
        _of_fallbacks,
    ]
    checks += [_of_prompts, _of_files, _of_recipe]
    return [warning for check in checks for warning in check(run, places)]


def _of_source(run: Run, places: Places) -> Iterable[Sentence]:
    for dataset in run.generated:
        yield Sentence("generated_data", {"dataset": dataset})
    if run.checkpoints and "catalogue" not in run.checkpoints.values():
        folders = [name for name, source in run.checkpoints.items() if source == "folder"]
        yield Sentence("no_published_checkpoint", {"folders": folders})


def _of_leaks(run: Run, places: Places) -> Iterable[Sentence]:
    flagged = run.scores[run.scores["reason"].astype(str).str.contains(LEAK, regex=False)]
    for dataset, methods in grouped(zip(flagged["dataset"], flagged["method"], strict=True)).items():
        yield Sentence("possible_leak", {"dataset": dataset, "methods": methods})


def _of_weights(run: Run, places: Places) -> Iterable[Sentence]:
    random_decoder, untrained = [], {}
    for made in run.predictions:
        tuned, weights = made.record.finetuning, made.record.weights
        loaded = made.record.scgpt and made.record.scgpt.load_report
        if not weights or (tuned and loaded and not loaded.n_pretrained):  # scgpt-scratch takes no weights
            continue
        if not weights.checkpoint_pretrained:
            untrained[made.method] = weights.checkpoint
        elif loaded and made.record.random_decoder:
            share = 100 * loaded.n_random / (loaded.n_random + loaded.n_pretrained)
            random_decoder.append((round(share, 1), made.method))
    for share, methods in grouped(random_decoder).items():
        yield Sentence("random_decoder", {"methods": methods, "percent": share})
    if untrained:
        yield Sentence(
            "untrained", {"methods": list(untrained), "checkpoints": list(dict.fromkeys(untrained.values()))}
        )


def _of_simple_methods(run: Run, places: Places) -> Iterable[Sentence]:
    combined = any("+" in entry["perturbation"] for card in run.cards.values() for entry in card["conditions"])
    by_context = run.scores["split"].astype(str).str.startswith(f"{split_names.HELD_OUT_CONTEXT}-").any()
    of_types = any(_types_in_a_context(card) for card in run.cards.values())
    has = {"any": True, "combinations": combined, "contexts": by_context, "cell types": of_types}
    data = [name for name, is_so in has.items() if is_so]
    missing = [kind.name for kind in KINDS.values() if kind.expected in data and kind.name not in run.kinds.values()]
    if places and missing and any(run.group(method).is_judged for method in run.kinds):
        yield Sentence("simple_methods_not_run", {"kinds": missing})
    fixed: dict[str, list[str]] = {}
    for made in run.predictions:
        if run.group(made.method) == SIMPLE:
            fields, given = KINDS[made.record.kind].option_class.model_fields, made.record.options
            fixed[made.method] = [
                name for name in given if isinstance(fields[name].default, list) and not isinstance(given[name], list)
            ]
    if fixed := {method: names for method, names in fixed.items() if names and places}:
        yield Sentence("simple_methods_not_tuned", {"methods": fixed})


def _of_copies(run: Run, places: Places) -> Iterable[Sentence]:
    for place in places:
        for methods in run.copies(place["dataset"], place["split"]):
            additive = "additive" in map(run.kinds.get, methods)
            yield Sentence("same_prediction", {"dataset": place["name"], "methods": methods, "additive": additive})


def _of_data(run: Run, places: Places) -> Iterable[Sentence]:
    for place in places:
        if place["n_conditions"] < FEW or place["no_interval"]:
            values = {key: place[key] for key in ("noun", "n_conditions")} | {"reason": place["no_interval"]}
            yield Sentence("few_conditions", {"dataset": place["name"], **values})
    for dataset in run.cards:
        tested, poor = run.unreliable(dataset)
        if 0 < len(poor) <= len(tested) / 2:  # where there are more, a sentence before the answer names them
            yield Sentence("unreliable_responses", {"dataset": dataset, "labels": poor, "n": len(tested)})


def _of_few_cells(run: Run, places: Places) -> Iterable[Sentence]:
    """Conditions whose reliability a data card leaves unknown, for want of cells or controls."""
    for dataset, card in run.cards.items():
        why = {label: entry["unknown"].get("reliability") for label, entry in labelled(card).items()}
        unknown = {label: reason for label, reason in why.items() if reason}
        if unknown:
            values = {
                "reasons": list(dict.fromkeys(unknown.values())),
                "noun": noun_of(pd.DataFrame(card["conditions"])),
            }
            yield Sentence(
                "unknown_reliability", {"dataset": dataset, "labels": list(unknown), "n": len(why), **values}
            )


def _of_composition(run: Run, places: Places) -> Iterable[Sentence]:
    for dataset, card in run.cards.items():
        ratios = {label: entry["counts_ratio"] for label, entry in labelled(card).items() if entry["counts_differ"]}
        dominant = card["dominant_genes"] or []
        if dominant or ratios:
            yield Sentence("composition", {"dataset": dataset, "dominant_genes": dominant, "ratios": ratios})


def _of_batches(run: Run, places: Places) -> Iterable[Sentence]:
    for dataset, card in run.cards.items():
        shifts = {label: entry["batch_shift"] for label, entry in labelled(card).items() if entry["confounded"]}
        if shifts:
            values = {"labels": list(shifts), "n": len(card["conditions"]), "percent": 100 * max(shifts.values())}
            yield Sentence("batches", {"dataset": dataset, **values})


def _of_cell_types(run: Run, places: Places) -> Iterable[Sentence]:
    """More cell types than contexts: some context has several, which methods do not know alike."""
    for dataset in dict.fromkeys(place["dataset"] for place in places):
        card = run.cards.get(dataset, {})
        if _types_in_a_context(card):
            yield Sentence("several_cell_types", {"dataset": dataset, "number": card["n_cell_types"]})


def _types_in_a_context(card: Mapping[str, Any]) -> bool:
    """Return whether there are more cell types than contexts."""
    return card.get("n_cell_types", 0) > card.get("n_contexts", 1)


def _of_classes(run: Run, places: Places) -> Iterable[Sentence]:
    """Methods that are better or worse in a class of test conditions, but not over all of them.

    The last row of a class is that over all folds, or of the only one that tests the class.
    """
    by_class = run.scores_by_class
    by_class = by_class[(by_class["metric"] == HEADLINE) & (by_class["context"] == ALL_CONTEXTS)]
    for place in places:
        here = by_class["split"].isin([place["split"], *place["splits"]]) & (by_class["dataset"] == place["dataset"])
        last = by_class[here].drop_duplicates([*CLASS, "method"], keep="last")
        for row in place["rows"]:
            classes = last[last["method"] == row["method"]]
            shown = set(classes["verdict"]) & {"better", "worse"}
            if row["verdict"] != "not asked" and run.group(row["method"]) == SCGPT and shown - {row["verdict"]}:
                values = {"classes": classes.to_dict("records"), "verdict": row["verdict"]}
                where = {"method": row["method"], "dataset": place["name"], "noun": place["noun"]}
                yield Sentence("unlike_classes", values | where)


def _of_seeds(run: Run, places: Places) -> Iterable[Sentence]:
    judged = run.verdicts[run.verdicts["metric"] == HEADLINE]
    once = judged.loc[judged["reason"].astype(str).str.contains(f"{ONE_TRAINING}|{ONE_SEED}"), "method"]
    if len(once):
        yield Sentence("one_seed", {"methods": list(once.unique())})


def _of_genes(run: Run, places: Places) -> Iterable[Sentence]:
    found: dict[tuple[str, str], tuple[int, int, int]] = {}  # padded, renamed and all, by data set and checkpoint
    for made in run.predictions:
        weights, scgpt, vectors = made.record.weights, made.record.scgpt, made.record.embeddings
        padded = scgpt.genes_padded if scgpt else vectors.genes_without_vector if vectors else 0
        if weights and padded:
            key = (made.dataset, weights.checkpoint)
            found[key] = (padded, scgpt.genes_renamed if scgpt else found.get(key, (0, 0, 0))[1], made.record.n_genes)
    alike = grouped(((dataset, *numbers), checkpoint) for (dataset, checkpoint), numbers in found.items())
    for (dataset, padded, renamed, n_genes), checkpoints in alike.items():
        values = {"padded": padded, "renamed": renamed, "n_genes": n_genes, "checkpoints": checkpoints}
        yield Sentence("padded_genes", {"dataset": dataset, **values})


def _of_training(run: Run, places: Places) -> Iterable[Sentence]:
    """Training data that differ from those of other methods; methods with the same gap are named together."""
    for (dataset, labels), methods in methods_by_names(run, without_token).items():
        yield Sentence("fewer_perturbations", {"dataset": dataset, "methods": methods, "labels": labels})
    for (dataset, pairs), methods in methods_by_names(run, _other_controls).items():
        yield Sentence("other_controls", {"dataset": dataset, "methods": methods, "pairs": pairs})


def _other_controls(record: MethodRecord) -> Iterable[tuple[str, str, int]]:
    """List what pairs should share, what they share instead (``any``: nothing), and in how many training pairs."""
    asked, *fallbacks = record.finetuning.paired_within.items() if record.finetuning else [("any", 0)]
    return ((asked[0], shared, n_pairs) for shared, n_pairs in fallbacks if n_pairs and shared != "itself")


def _of_fallbacks(run: Run, places: Places) -> Iterable[Sentence]:
    """One sentence a data set: the test conditions for which methods fell back on a rule, and the rule."""
    for place in places:
        of_copies = run.copies(place["dataset"], place["split"])  # another warning says why these equal others
        copies = {name for names in of_copies for name in names if run.kinds[name] == "additive"}
        conditions = grouped(
            ((made.method, entry.reason, entry.prediction), entry.condition.label)
            for made in run.predictions
            if made.dataset == place["dataset"] and made.split in place["splits"] and made.method not in copies
            for entry in made.record.fallbacks
        )
        groups: dict[tuple[str, ...], list[tuple[tuple[str, str], str]]] = {}
        for (method, *why), labels in conditions.items():
            groups.setdefault(tuple(sorted(labels)), []).append((tuple(why), method))
        if groups:
            by_rule = [(labels, grouped(pairs)) for labels, pairs in groups.items()]
            values = {"groups": by_rule, "n_conditions": place["n_conditions"]}
            yield Sentence("not_asked", {"dataset": place["name"], **values})


def _of_prompts(run: Run, places: Places) -> Iterable[Sentence]:
    prompted = list(dict.fromkeys(made.method for made in run.predictions if made.record.prompts))
    if prompted:
        yield Sentence("targets_not_predicted", {"methods": prompted, "metric": HEADLINE})
    unseen = (
        made.method
        for made in run.predictions
        if made.record.prompts and not made.record.prompts.zeros_in_pretraining and _is_pretrained(made.record)
    )
    if methods := list(dict.fromkeys(unseen)):
        yield Sentence("zeros_in_prompts", {"methods": methods})


def _is_pretrained(record: MethodRecord) -> bool:
    return bool(record.weights and record.weights.checkpoint_pretrained)


def _of_files(run: Run, places: Places) -> Iterable[Sentence]:
    def unchanged(record: MethodRecord) -> Iterable[str]:
        return record.imported.genes_taken_as_unchanged if record.imported else ()

    for (dataset, genes), methods in methods_by_names(run, unchanged).items():
        yield Sentence("unchanged_genes", {"dataset": dataset, "methods": methods, "genes": genes})


def _of_recipe(run: Run, places: Places) -> Iterable[Sentence]:
    for recipe in _recipes(run):
        options = {option: values for of_methods in recipe["changed"].values() for option, *values in of_methods}
        values = {"methods": recipe["methods"], "n_fixed": len(recipe["different"]), "options": options}
        yield Sentence("recipe", values)
    if made_here := [name for name, source in run.checkpoints.items() if source in ("pretrain", "census")]:
        yield Sentence("pretraining_recipe", {"checkpoints": made_here})


def recipes(run: Run) -> list[Sentence]:
    """List where fine-tuning differs from the published recipe, a sentence for methods that share it."""
    return [Sentence("recipe_in_full", recipe) for recipe in _recipes(run)]


def _recipes(run: Run) -> list[dict[str, Any]]:
    """Gather the points in which methods differ from the published recipe, and the options that they change.

    ``changed`` has (option, value, published value), by the names of the methods in words.
    """

    def shown(value: Any) -> str:
        return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)

    found = []
    for made in run.predictions:
        if made.record.finetuning:
            used, deviations = made.record.finetuning.options, made.record.finetuning.deviations
            changed = [
                (name, shown(used[name]), shown(value))
                for name, value in run.published.items()
                if name in used and name not in deviations and used[name] != value
            ]
            different = tuple(
                (name, shown(used[name]) if name in used else "", text) for name, text in deviations.items()
            )
            found.append((different, (made.method, tuple(changed))))
    listed = []
    for different, pairs in grouped(found).items():
        of_method = dict(pairs)
        shared = [one for one in next(iter(of_method.values())) if all(one in own for own in of_method.values())]
        own = grouped((tuple(one for one in changed if one not in shared), name) for name, changed in of_method.items())
        by_methods = {"all": shared} | {", ".join(names): [*options] for options, names in own.items()}
        chosen = {names: options for names, options in by_methods.items() if options}
        listed.append({"methods": [*of_method], "different": different, "changed": chosen})
    return listed
