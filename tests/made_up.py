"""A made-up run: every file that a report shows, for any number of data sets, methods and perturbations."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

from scgpt_bench.data.conditions import Condition, table_of
from scgpt_bench.data.halves import deal_halves
from scgpt_bench.evaluation import pseudobulk
from scgpt_bench.figures.cost import cost_bars, cost_table
from scgpt_bench.figures.model import training_history, vocabulary_coverage
from scgpt_bench.figures.responses import delta_heatmap
from scgpt_bench.figures.rule_graph import rule_graph
from scgpt_bench.figures.scores import method_scores, paired_differences, perturbation_heatmap, skill_heatmap
from scgpt_bench.figures.style import save
from scgpt_bench.files import write_json, write_table
from scgpt_bench.method_record import FinetuningReport, LoadReport, MethodRecord, Scgpt, record_of
from scgpt_bench.methods import registry
from scgpt_bench.report import page, summary
from scgpt_bench.report import perturbations as perturbation_view
from scgpt_bench.report import rules as rules_of_run
from scgpt_bench.report.run import RecordedPrediction, Run

METHODS = {
    name: name
    for name in [
        *["control-mean", "train-mean", "additive", "ridge", "knn", "target-only"],
        *["scgpt-zero-shot", "scgpt-knockout", "scgpt-embedding-ridge", "scgpt-finetuned"],
        *["shuffled", "technical-duplicate"],
    ]
}
JUDGING = ["effect_pearson", "specific_pearson", "discrimination", "mse_unbiased"]
METRICS = [*JUDGING, "pearson_delta", "pearson"]
MORE_METRICS = [
    *("effect_covariance", "found_among_20", "sign_agreement"),
    *(
        f"{metric}_top{number}"
        for metric in ("pearson", "mse", "mae", "pearson_delta", "sign_agreement")
        for number in (20, 50, 100)
    ),
]
SPLIT = "fold0"
DEVIATIONS = {"pair_within": "within its own", "unmeasured targets": "enter as tokens"}


@dataclass(frozen=True)
class MadeUp:
    """A folder of results as a run leaves them, and what the report shows of them."""

    folder: Path
    items: list[page.Item]
    start: str
    methods: Mapping[str, str]

    def write(self, path: Path) -> Path:
        page.write(self.items, self.start, path, kinds=self.methods)
        return path


def make(
    folder: Path,
    datasets: Sequence[str] = ("planted",),
    perturbations: Sequence[str] = tuple(f"GENE{i}" for i in range(12)),
    genes: Sequence[str] = tuple(f"CXCL{i}" for i in range(300)),
    methods: Mapping[str, str] = METHODS,
    caption: str = "<p>What is shown, how to read it, what it does not show.</p>",
) -> MadeUp:
    """Figures are drawn for the first data set and copied for the others, whose numbers differ in the tables only."""
    items: list[page.Item] = []

    def add(path: str, category: str, dataset: str | None = None, **labels: str) -> Path:
        items.append(page.Item(folder / path, category, dataset, labels, caption))
        return folder / path

    metrics = pd.concat([_metrics(dataset, perturbations, methods) for dataset in datasets], ignore_index=True)
    scores, verdicts = _scores(metrics, methods), _verdicts(metrics, methods)
    for metric in JUDGING:
        figure = paired_differences(verdicts, metric, methods)
        save(figure, add(f"figures/differences_{metric}.svg", "Verdict", figure="difference", metric=metric))
    write_table(verdicts, add("verdicts.tsv", "Verdict", table="every method against the best simple method"))
    for number, dataset in enumerate(datasets):
        _of_dataset(number, dataset, scores, verdicts, metrics, perturbations, genes, methods, add)
    write_table(scores, add("scores.tsv", "Scores", table="scores"))
    write_table(
        pd.DataFrame({"metric": METRICS, "reference": "control"}),
        add("metric_definitions.tsv", "Trust", table="metric definitions"),
    )
    jobs = pd.DataFrame({"rule": "finetune", "method": [*methods] * len(datasets)})
    cost = cost_table(jobs.assign(seconds=100.0, memory_mib=900.0), {"finetune": 1})
    save(cost_bars(cost, "Cost"), add("figures/cost_by_method.svg", "Cost", figure="time and memory of each method"))
    rules = {
        "split": {"stage": "preprocess", "needs": [], "script": "split.py", "environment": "data"},
        "finetune": {"stage": "train", "needs": ["split"], "script": "finetune.py", "environment": "scgpt"},
    }
    save(rule_graph(rules, cost, "Rules"), add("figures/rule_graph.svg", "Cost", figure="rules and what they need"))
    scripts = Path(page.__file__).parents[3] / "scripts"
    text = rules_of_run.piece(rules, {"scgpt": ["python=3.11"], "data": []}, cost, scripts)
    add("rules.html", "Cost", figure="rules, code and environments").write_text(text)
    write_table(cost, add("cost.tsv", "Cost", table="cost"))
    write_json({"inputs": [], "versions": {"scgpt": "0.2.4"}}, add("provenance.json", "Provenance", table="provenance"))
    start = summary.page(_run(scores, verdicts, datasets, len(genes), methods))
    return MadeUp(folder, items, start, methods)


def _of_dataset(number, dataset, scores, verdicts, metrics, perturbations, genes, methods, add) -> None:
    """The figures and the table of one data set; any but the first takes copies of the first's figures."""

    def draw(name: str, category: str, make_figure, **labels: str) -> None:
        path = add(f"dataset{number}/{name}.svg", category, dataset, **labels)
        if number:
            path.parent.mkdir(exist_ok=True)
            shutil.copy(path.parents[1] / "dataset0" / path.name, path)
        else:
            save(make_figure(), path)

    n, here = len(perturbations), metrics[metrics["dataset"] == dataset]
    generator = np.random.default_rng(1)
    true = generator.normal(0, 0.2, (n, 5)) @ generator.normal(0, 1, (5, len(genes)))
    place = f"{dataset}, {SPLIT}"
    of_dataset = (table[table["dataset"] == dataset] for table in (scores, verdicts))
    draw(
        "skill",
        "Scores",
        lambda: skill_heatmap(*of_dataset, methods, place),
        figure="skill by every metric",
        split=SPLIT,
    )
    for metric in METRICS:
        draw(
            f"scores_{metric}",
            "Scores",
            lambda m=metric: method_scores(scores[scores["dataset"] == dataset], m, methods),
            figure="methods",
            metric=metric,
            split=SPLIT,
        )
    values = here[here["metric"] == "effect_pearson"]
    cells = pd.Series(np.arange(n) + 20, index=list(perturbations), name="measured cells")
    draw(
        "perturbations",
        "Perturbations",
        lambda: perturbation_heatmap(values, "effect_pearson", cells, methods, place),
        figure="every perturbation",
        split=SPLIT,
    )
    table = values.pivot_table(index="perturbation", columns="method", values="value")
    write_table(
        table.reindex(columns=list(methods)).reset_index(),
        add(f"dataset{number}/perturbations.tsv", "Perturbations", dataset, table="index", split=SPLIT),
    )
    view = add(
        f"dataset{number}/perturbations.json.gz", "Perturbations", dataset, figure="one perturbation", split=SPLIT
    )
    if number:
        shutil.copy(view.parents[1] / "dataset0" / view.name, view)
    else:
        perturbation_view.write(view_of(true, perturbations, genes, methods, values, generator), view)
    draw(
        "responses",
        "Data",
        lambda: delta_heatmap(true, perturbations, genes, dataset),
        figure="measured responses",
    )
    status = np.where(np.arange(len(genes)) % 50, "in_vocabulary", "padded")
    vocabulary = pd.DataFrame({"gene": genes, "status": status, "matched_as": genes})
    coverage = vocabulary_coverage({"human": vocabulary}, np.ones(len(genes)))
    table = "genes that the vocabulary knows"
    write_table(coverage, add(f"dataset{number}/vocabulary_coverage.tsv", "Model", dataset, table=table))
    epochs = pd.DataFrame({"epoch": np.arange(1, 16), "loss": 1 / np.arange(1, 16)})
    histories = {f"fold{fold}, seed 0": epochs * (1 + fold / 9) for fold in range(5)}
    draw(
        "training_history",
        "Model",
        lambda: training_history(histories, f"scgpt-finetuned on {dataset}"),
        figure="training history",
    )


def view_of(true, perturbations, genes, methods, values, generator) -> dict[str, Any]:
    """What was measured, and half of it with noise as the prediction of every method; four cells of each condition."""
    obs = table_of([*map(Condition, perturbations)]).assign(n_cells=np.arange(len(perturbations)) + 20)
    var = pd.DataFrame(index=[*genes])
    truth = measured_without_noise(anndata.AnnData(true, obs, var, layers={"reference_input": 0 * true}))
    truth.layers["half_b"] = true + 0.02
    rows = np.repeat(np.arange(len(obs)), 4)
    of_cells = obs.iloc[rows].reset_index(drop=True).rename(index=str)
    cells = anndata.AnnData(true[rows] + generator.normal(0, 0.3, (len(rows), len(genes))), of_cells, var)
    mse = values.assign(metric="mse", value=0.01)
    predicted = {}
    for name, kind in methods.items():
        means = anndata.AnnData(0.5 * true + generator.normal(0, 0.1, true.shape), obs, var)
        metrics = pd.concat([table[table["method"] == name] for table in (values, mse)])
        halved = kind == "technical-duplicate"
        predicted[name] = perturbation_view.Predicted(kind, halved, metrics, partial(lambda same: same, means))
    reliability = pd.Series(0.8, obs.index)
    return perturbation_view.view(truth, predicted, cells, cells, reliability)


def _metrics(dataset: str, perturbations: Sequence[str], methods: Mapping[str, str]) -> pd.DataFrame:
    generator = np.random.default_rng(len(dataset))
    level = np.linspace(0.1, 0.8, len(methods))
    index = pd.MultiIndex.from_product([[*METRICS, *MORE_METRICS], methods, perturbations])
    table = index.to_frame(index=False, name=["metric", "method", "perturbation"])
    table["value"] = table["method"].map(dict(zip(methods, level, strict=True))) + generator.normal(0, 0.1, len(table))
    return table.assign(dataset=dataset, split=SPLIT, context="all", reason="")


def _scores(metrics: pd.DataFrame, methods: Mapping[str, str]) -> pd.DataFrame:
    keys = ["dataset", "split", "context", "method", "metric"]
    table = metrics.groupby(keys, sort=False)["value"].agg(["mean", "size"]).reset_index()
    table = table.assign(ci_low=table["mean"] - 0.05, ci_high=table["mean"] + 0.05, n_seeds=1)
    return table.assign(skill=table["mean"] / 0.8, reason="", n_conditions=table.pop("size"), n_asked=pd.NA)


def _verdicts(metrics: pd.DataFrame, methods: Mapping[str, str]) -> pd.DataFrame:
    table = _scores(metrics, methods)
    judged = table["method"].map(methods).str.startswith("scgpt") & table["metric"].isin(JUDGING)
    table = table[judged].reset_index(drop=True)
    difference = table["mean"] - 0.5
    return pd.DataFrame(
        {
            **{key: table[key] for key in ("dataset", "split", "context", "method", "metric")},
            "opponent": "ridge",
            "difference": difference,
            "ci_low": difference - 0.05,
            "ci_high": difference + 0.05,
            "p_value": 0.01,
            "smallest_detectable": 0.07,
            "verdict": np.select([difference > 0.05, difference < -0.05], ["better", "worse"], "inconclusive"),
            "reason": "",
        }
    )


def run(
    datasets: Sequence[str],
    methods: Mapping[str, str] = METHODS,
    perturbations: Sequence[str] = tuple(f"GENE{i}" for i in range(12)),
    n_genes: int = 300,
) -> Run:
    """What the start page of a made-up run is written from."""
    metrics = pd.concat([_metrics(dataset, perturbations, methods) for dataset in datasets], ignore_index=True)
    return _run(_scores(metrics, methods), _verdicts(metrics, methods), datasets, n_genes, methods)


def _run(scores, verdicts, datasets, n_genes, methods) -> Run:
    predictions = [
        RecordedPrediction(dataset, SPLIT, method, method_record(methods[method], n_genes=n_genes))
        for dataset in datasets
        for method in methods
        if methods[method] in ("scgpt-zero-shot", "scgpt-knockout", "scgpt-finetuned")
    ]
    published = {"epochs": 15, "freeze": []}
    return Run(scores, verdicts, methods, {"human": "catalogue"}, {}, predictions, published)


def method_record(
    kind: str,
    fallbacks: Mapping[str, tuple[str, str]] | None = None,
    load_report: Mapping[str, Any] | None = None,
    finetuning: Mapping[str, Any] | None = None,
    genes_padded: int = 6,
    **entries: Any,
) -> MethodRecord:
    """The record of a method of this kind, asked about the perturbation A and those in ``fallbacks``."""
    made: dict[str, Any] = {"kind": kind, "options": {}, "seed": 0, "n_genes": 300, **entries}
    if "predict_scgpt" in registry.KINDS[kind].rules:
        random = {} if kind == "scgpt-knockout" else {"decoder.fc.weight": 3000, "pert_encoder.weight": 100}
        loaded = {"checkpoint": "human", "checkpoint_pretrained": True, "checkpoint_fine_tuned": False}
        loaded |= {"stored_as": ("float32",), "seed": 0, "pretrained": {}, "random": random, "unused": {}}
        loaded |= {"n_pretrained": 50_000, "n_random": sum(random.values()), "n_unused": 0, **(load_report or {})}
        made["scgpt"] = Scgpt(
            load_report=LoadReport(**loaded),
            checkpoint_sha256="0" * 64,
            attention="sdpa",
            precision="fp32",
            device="cpu",
            versions={"torch": "2.13.0"},
            targets_not_measured=(),
            genes_padded=genes_padded,
            genes_renamed=0,
        )
    if "finetune" in registry.KINDS[kind].rules:
        options = {"epochs": 7, "freeze": ["encoder"], "pair_within": ["batch", "cell_type"]}
        report = {"seed": 0, "options": options, "deviations": DEVIATIONS, "precision": "fp32", "device": "cpu"}
        report |= {"processes": 1, "versions": {"torch": "2.13.0"}, "training_pairs": 9, "paired_within": {"any": 9}}
        report |= {"flag_share": 1.0, "perturbations_without_token": (), "training_directions": {"down": 9}}
        report |= {"selected_epoch": 1, "pearson_delta": 0.5}
        shares = {f"{role}_perturbations": {"used": 1, "of": 1} for role in ("training", "validation")}
        made["finetuning"] = FinetuningReport(**{**report, **shares, **(finetuning or {})})
    fallen_back = {Condition(name): why for name, why in (fallbacks or {}).items()}
    return record_of([Condition("A"), *fallen_back], fallen_back, **made)


def halved(cells):
    """The same cells with their control cells dealt into halves, and one batch, context and cell type if not stated."""
    obs = cells.obs.copy()
    for column in ("context", "batch", "cell_type"):
        if column not in obs:
            obs[column] = "all"
    obs["half"] = deal_halves(obs)
    cells.obs = obs
    return cells


def measure(cells):
    """Measure every condition, with the control cells dealt into halves."""
    return pseudobulk.measured(halved(cells))


def measured_without_noise(truth):
    """Fill in what a hand-made ``truth.h5ad`` lacks: all tested, one reference, equal halves, no sampling noise."""
    if "n_cells" not in truth.obs:
        truth.obs["n_cells"] = 50
    if "tested" not in truth.obs:
        truth.obs["tested"] = True
    control, nothing = truth.layers["reference_input"], np.zeros(truth.shape)
    given = {f"reference_{part}": control for part in ("truth", "truth_a", "truth_b")}
    given |= {"variance_of_mean": nothing, "variance_of_reference": nothing}
    given |= {half: np.array(truth.X) for half in ("half_a", "half_b")}
    for name, layer in given.items():
        if name not in truth.layers:
            truth.layers[name] = layer
    return truth
