"""Figures: the same bytes every time, one colour a method, names as they stand, nothing that hides anything."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import anndata
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.text import Text

from scgpt_bench.data.conditions import Condition
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.transfer import CHANGE, SPECIFIC, Changes
from scgpt_bench.figures import numbers
from scgpt_bench.figures.contexts import carried_over, scores_by_context, transfer_heatmap
from scgpt_bench.figures.cost import cost_bars, cost_table
from scgpt_bench.figures.data_card import knock_down
from scgpt_bench.figures.model import load_report, training_history, vocabulary_coverage
from scgpt_bench.figures.responses import (
    changes,
    delta_heatmap,
    left_over,
)
from scgpt_bench.figures.rule_graph import rule_graph
from scgpt_bench.figures.scores import (
    closest_pairs,
    method_scores,
    one_against_another,
    paired_differences,
    perturbation_heatmap,
    skill_heatmap,
    without_outliers,
)
from scgpt_bench.figures.style import hover, keep, literal, method_style, metric_label, save
from scgpt_bench.figures.trust import robustness_heatmap

METHODS = [
    *["control-mean", "train-mean", "additive", "ridge", "knn", "target-only"],
    *["scgpt-zero-shot", "scgpt-knockout", "scgpt-finetuned"],
    *["shuffled", "technical-duplicate", "imported"],
]
LONG = "<b>Ünïcode</b> & 'quotes' IN CAPITALS WITHOUT END " + 30 * "W"
ODD = ["$x_1$", "<script>alert(1)</script>", "Größenänderung", LONG, "_hidden", "a\\$b^2$"]
INTERFERON = ["IFNGR1", "IFNGR2", "JAK2", "STAT1"]


def score_table(methods=METHODS, dataset="planted") -> pd.DataFrame:
    mean = np.linspace(0.1, 0.7, len(methods))
    return pd.DataFrame(
        {
            "dataset": dataset,
            "split": "fold-0",
            "context": "all",
            "method": methods,
            "metric": "pearson_delta",
            "mean": mean,
            "ci_low": mean - 0.05,
            "ci_high": mean + 0.05,
            "n_conditions": 25,
            "n_seeds": 1,
            "skill": mean / 0.7,
        }
    )


SKILLED = [
    *("effect_pearson", "specific_pearson", "discrimination", "mse_unbiased", "effect_covariance", "mse", "mae"),
    *("pearson_delta", "pearson_delta_top20", "cell_eval2.de_wilcoxon_direction_fidelity_yield_raw"),
]


def skill_table(methods=METHODS) -> pd.DataFrame:
    skill = np.random.default_rng(3).uniform(-0.5, 1.2, (len(SKILLED), len(methods)))
    table = (
        pd.DataFrame(skill, SKILLED, methods)
        .rename_axis("metric")
        .melt(var_name="method", value_name="skill", ignore_index=False)
    )
    return table.reset_index().assign(context="all", ci_low=0.1)


def verdict_table(methods=METHODS, datasets=("planted",)) -> pd.DataFrame:
    difference = np.linspace(-0.2, 0.2, len(methods))
    table = pd.DataFrame(
        {
            "split": "fold-0",
            "context": "all",
            "method": methods,
            "metric": "pearson_delta",
            "opponent": "train-mean",
            "difference": difference,
            "ci_low": difference - 0.03,
            "ci_high": difference + 0.03,
            "p_value": 0.01,
            "verdict": np.where(difference > 0.03, "better", "inconclusive"),
        }
    )
    return pd.concat([table.assign(dataset=dataset) for dataset in datasets], ignore_index=True)


def names(n: int) -> list[str]:
    return [*INTERFERON, *(f"GENE{i}" if i % 2 else f"GENE{i}+STAT1" for i in range(n))][:n]


def metric_values(perturbations, methods=METHODS) -> pd.DataFrame:
    values = np.random.default_rng(0).uniform(-0.3, 0.9, (len(perturbations), len(methods)))
    return (
        pd.DataFrame(values, index=perturbations, columns=methods)
        .rename_axis("perturbation")
        .melt(var_name="method", ignore_index=False)
        .reset_index()
        .assign(context="all")
    )


def deltas(n: int, genes: int = 60) -> np.ndarray:
    """Responses of ``names(n)``: one that the interferon pathway shares, and one of its own for every other."""
    delta = np.random.default_rng(1).normal(0, 1, (n, genes))
    delta[:4] = delta[0] + np.random.default_rng(2).normal(0, 0.1, (min(n, 4), genes))
    return delta


def gene_names(genes: int = 60) -> list[str]:
    return [f"ENSG{i:05d}.1" if i % 5 == 0 else f"CXCL{i}" for i in range(genes)]


def history(epochs: int) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    return pd.DataFrame(
        {
            "epoch": epoch,
            "step": 100 * epoch,
            "loss": 1 / epoch,
            "held_out_loss": 1.1 / epoch,
            "pearson_delta": 1 - 1 / epoch,
            "learning_rate": 1e-4 * 0.9**epoch,
            "gradient_norm": 1.0,
            "seconds": 3.0,
            "peak_memory_mb": 900.0,
            "cells_per_second": 40.0,
            "tokens_per_second": 60_000.0 + epoch,
            "data_wait": 0.031,
            "peak_share": 0.21,
        }
    )


def loaded(methods) -> pd.DataFrame:
    counts = {"pretrained": 48_000_000, "random": 3_859_459, "unused": 300_000}
    return pd.DataFrame(
        [(m, s, n) for m in methods for s, n in counts.items()], columns=["method", "status", "n_parameters"]
    )


def costs(methods) -> pd.DataFrame:
    table = pd.DataFrame({"rule": "finetune", "method": list(methods), "memory_mib": 900.0})
    return cost_table(table.assign(seconds=np.geomspace(1, 5000, len(methods))), {"finetune": 1})


def named_rules(names) -> dict[str, dict]:
    """A chain of rules in three stages, the last of which no column has."""
    stages = ["fetch", "evaluate", "elsewhere"]
    return {
        name: {
            "stage": stages[3 * place // len(names)],
            "needs": [*names[:place]],
            "script": f"{place}.py",
            "environment": "data",
        }
        for place, name in enumerate(names)
    }


LINES = ["K562", "RPE1", LONG]
HELD_OUT = {"contexts": {f"context-{number}": line for number, line in enumerate(LINES)}}


def context_scores(methods) -> pd.DataFrame:
    splits = ["contexts", *HELD_OUT["contexts"]]
    return pd.concat([score_table(methods).assign(split=split) for split in splits], ignore_index=True)


def carried(perturbations) -> pd.DataFrame:
    """What carries over between three lines; in one of them nothing is reliable."""
    rows = [
        (name, *pair, what, 0.4, 0.8, 0.7, 0.55 if LONG not in pair else np.nan)
        for name in perturbations
        for pair in [("K562", "RPE1"), ("K562", LONG), ("RPE1", LONG)]
        for what in (CHANGE, SPECIFIC)
    ]
    sides = ["reliability", "other_reliability"]
    return pd.DataFrame(
        rows, columns=["perturbation", "context", "other_context", "what", "correlation", *sides, "corrected"]
    )


def measured_in_lines(perturbations) -> Changes:
    conditions = [Condition(name, line) for name in perturbations for line in LINES]
    whole = deltas(len(conditions))
    return Changes(conditions, whole, np.stack([whole, whole]), np.ones(whole.shape, bool), ["down"] * len(conditions))


def all_figures(perturbations: list[str], methods: list[str] = METHODS) -> dict[str, Figure]:
    n = len(perturbations)
    delta = deltas(n)
    reliability = pd.Series(np.linspace(0, 1, n), index=perturbations, name="split-half reliability")
    return {
        "method_scores": method_scores(score_table(methods), "pearson_delta"),
        "skill_heatmap": skill_heatmap(skill_table(methods), verdict_table(methods)),
        "paired_differences": paired_differences(verdict_table(methods), "pearson_delta"),
        "paired_differences_of_two": paired_differences(verdict_table(methods, ("a", LONG)), "pearson_delta"),
        "one_against_another": one_against_another(
            metric_values(perturbations, methods), "pearson_delta", [(methods[0], methods[1])], methods[0]
        ),
        "perturbation_heatmap": perturbation_heatmap(
            metric_values(perturbations, methods), "pearson_delta", reliability
        ),
        "delta_heatmap": delta_heatmap(delta, perturbations, gene_names(), "planted"),
        "training_history": training_history({name: history(15) for name in methods}, methods[0], {methods[0]: 7}),
        "load_report": load_report(loaded(methods), "planted"),
        "scores_by_context": scores_by_context(
            context_scores(methods), "pearson_delta", HELD_OUT, dict.fromkeys(methods, "knn")
        ),
        "transfer_heatmap": transfer_heatmap(carried(perturbations), "planted"),
        "carried_over": carried_over(
            measured_in_lines(perturbations), carried(perturbations), gene_names(), "planted", 6
        ),
        "cost_bars": cost_bars(costs(methods), "this run"),
        "rule_graph": rule_graph(named_rules(methods), costs(methods).assign(rule=[*methods]), "this run"),
    }


def svg_texts(path: Path) -> list[str]:
    """Every text that the SVG shows, in order."""
    return ["".join(e.itertext()).strip() for e in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def drawn_texts(figure: Figure, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], np.ndarray]:
    """The texts that a drawing of ``figure`` really puts on paper, and their boxes [texts, (x0, y0, x1, y1)]."""
    seen: dict[int, Text] = {}
    draw = Text.draw

    def recording(text, renderer):
        if text.get_visible() and text.get_text().strip():
            seen[id(text)] = text
        draw(text, renderer)

    with monkeypatch.context() as patch:
        patch.setattr(Text, "draw", recording)
        figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text).extents for text in seen.values()]
    return [text.get_text() for text in seen.values()], np.array(boxes)


def assert_readable(figure: Figure, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No text covers another, and none leaves the page."""
    texts, boxes = drawn_texts(figure, monkeypatch)
    assert len(texts) > 5, name
    outside = (boxes[:, :2] < -1).any(axis=1) | (boxes[:, 2:] > figure.bbox.extents[2:] + 1).any(axis=1)
    assert not outside.any(), (name, [texts[i] for i in np.flatnonzero(outside)])
    shared = np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(boxes[:, None, :2], boxes[:, :2])
    pairs = np.argwhere(np.triu((shared > 0.5).all(axis=2), 1))
    assert not len(pairs), (name, [(texts[i], texts[j]) for i, j in pairs])


def cells_of(figure: Figure) -> dict[tuple[str, str], str]:
    """What a heat map writes, by method and metric."""
    (axes,) = figure.axes
    methods, metrics = (
        [tick.get_text() for tick in ticks] for ticks in (axes.get_xticklabels(), axes.get_yticklabels())
    )
    places = {text.get_position(): text.get_text() for text in axes.texts}
    return {(methods[int(x)], metrics[int(y)]): text for (x, y), text in places.items()}


def test_the_heat_map_writes_skill_in_per_cent_with_the_verdicts_of_what_judges():
    table = skill_table(["ridge", "scgpt-finetuned"])
    table["skill"] = 0.5
    table.loc[(table["method"] == "ridge") & (table["metric"] == "effect_pearson"), "skill"] = 0.718
    table.loc[(table["method"] == "ridge") & (table["metric"] == "mse"), "skill"] = -11.0
    table.loc[(table["method"] == "ridge") & (table["metric"] == "mae"), "skill"] = 2.6
    table.loc[(table["method"] == "ridge") & (table["metric"] == "mse_unbiased"), "skill"] = np.nan
    verdicts = verdict_table(["scgpt-finetuned"]).assign(metric="effect_pearson", verdict="worse")
    elsewhere = verdicts.assign(context="K562", verdict="better")
    drawn = cells_of(skill_heatmap(table, pd.concat([verdicts, elsewhere])))
    assert drawn["ridge", "effect_pearson"] == "72"
    assert drawn["scgpt-finetuned", "effect_pearson"] == "50\N{BLACK DOWN-POINTING TRIANGLE}"
    assert (drawn["ridge", "mse"], drawn["ridge", "mae"]) == ("\N{MUCH LESS-THAN}", "\N{MUCH GREATER-THAN}")
    assert ("ridge", "mse_unbiased") not in drawn
    assert list(dict.fromkeys(method for method, _ in drawn)) == ["ridge", "scgpt-finetuned"], "the best first"


def test_one_method_that_is_far_off_does_not_squeeze_the_others():
    methods = ["ridge", "knn", "additive", "train-mean", "scgpt-zero-shot"]
    scores = score_table(methods).assign(mean=[0.1, 0.12, 0.15, 0.2, 9.0], metric="mse")
    scores = scores.assign(ci_low=scores["mean"] - 0.02, ci_high=scores["mean"] + 0.02)
    ladder = method_scores(scores, "mse").axes[0]
    assert ladder.get_xlim()[1] < 0.3
    edge = [line for line in ladder.lines if line.get_marker() == ">"]
    assert len(edge) == 1
    assert edge[0].get_xdata() == pytest.approx(ladder.get_xlim()[1], rel=0.03)
    verdicts = verdict_table(methods).assign(difference=[0.01, 0.02, -0.03, 0.0, -9.0])
    verdicts = verdicts.assign(ci_low=verdicts["difference"] - 0.02, ci_high=verdicts["difference"] + 0.02)
    axes = paired_differences(verdicts, "pearson_delta").axes[0]
    assert axes.get_xlim()[0] > -0.1
    assert [text.get_text() for text in axes.texts if text.get_text().startswith("-9.000: ")]


def test_values_within_reach_are_all_drawn():
    values = np.array([0.0, 0.1, 0.2, 0.5])
    assert without_outliers(values, values - 0.01, values + 0.01) is None
    assert without_outliers(np.zeros(4), np.zeros(4), np.zeros(4)) is None
    values = np.array([0.01, 0.02, 0.08])  # the interval of the last is wide, and there are but three
    assert without_outliers(values, values - 0.1 * values, values + 2.5 * values, beside=0.0) is None
    values = np.array([0.01, 0.02, 0.03, 5.0])
    assert without_outliers(values, values, values, beside=-0.1) == pytest.approx((-0.1065, 0.0365))
    unknown = np.full(5, np.nan)
    assert without_outliers(np.array([0, 0.1, 0.2, 0.3, 5.0]), unknown, unknown) == pytest.approx((-0.015, 0.315))


def test_a_copy_of_a_metric_is_not_drawn_twice_and_said():
    table = skill_table()
    copy = table[table["metric"] == "mse"].assign(metric="mse_high1000")
    figure = skill_heatmap(pd.concat([table, copy]), verdict_table().iloc[:0])
    assert "mse_high1000" not in [metric for _, metric in cells_of(figure)]
    assert "mse_high1000 (mse)" in figure.get_supxlabel().replace("\n", " ")
    assert len(cells_of(figure)) == len(SKILLED) * len(METHODS)


def test_without_any_skill_the_heat_map_says_so():
    figure = skill_heatmap(skill_table().assign(skill=np.nan), verdict_table())
    assert "No metric has a skill" in figure.get_supxlabel()


@pytest.mark.parametrize("n", [1, 3, 60, 300])
def test_no_text_covers_another_whatever_the_number_of_perturbations(n, monkeypatch):
    for name, figure in all_figures(names(n)).items():
        assert_readable(figure, name, monkeypatch)


@pytest.mark.parametrize("n", [6, 300])
def test_no_text_covers_another_with_odd_and_long_names(n, monkeypatch):
    for name, figure in all_figures([*ODD, *names(n)][:n], ODD).items():
        assert_readable(figure, name, monkeypatch)


def test_the_check_of_covered_text_finds_covered_text(monkeypatch):
    figure = method_scores(score_table(), "pearson_delta")
    figure.axes[0].text(0.5, 3.2, "over", fontsize=20)
    figure.axes[0].text(0.5, 3.0, "under", fontsize=20)
    with pytest.raises(AssertionError, match="over"):
        assert_readable(figure, "method_scores", monkeypatch)


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_same_figure_gives_the_same_bytes(tmp_path, suffix):
    for turn in ("first", "second"):
        figure = delta_heatmap(deltas(25), names(25), gene_names(), "planted")
        save(figure, tmp_path / f"{turn}.{suffix}")
        save(figure, tmp_path / f"{turn}.again.{suffix}")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_a_fresh_process_gives_the_same_bytes(tmp_path):
    here = Path(__file__).resolve()
    program = (
        f"import sys; sys.path[:0] = {[str(here.parent), *sys.path]!r}\n"
        "import test_figures as t\n"
        "for name, figure in t.all_figures(t.names(3)).items():\n"
        f"    t.save(figure, {str(tmp_path)!r} + f'/{{name}}.fresh.svg')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    for name, figure in all_figures(names(3)).items():
        save(figure, tmp_path / f"{name}.svg")
        assert (tmp_path / f"{name}.svg").read_bytes() == (tmp_path / f"{name}.fresh.svg").read_bytes(), name


def test_the_style_of_the_caller_changes_nothing(tmp_path):
    save(method_scores(score_table(), "pearson_delta"), tmp_path / "plain.svg")
    with mpl.rc_context({"font.size": 20, "svg.fonttype": "path", "axes.prop_cycle": mpl.cycler(color=["red"])}):
        save(method_scores(score_table(), "pearson_delta"), tmp_path / "loud.svg")
    assert (tmp_path / "plain.svg").read_bytes() == (tmp_path / "loud.svg").read_bytes()


def test_names_are_shown_as_they_stand(tmp_path):
    for figure_name, figure in all_figures(ODD, ODD).items():
        path = tmp_path / f"{figure_name}.svg"
        save(figure, path)
        assert not list(ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}script")), figure_name
        assert "<script>" not in path.read_text(), figure_name
    for figure_name, shown in {"method_scores": ODD, "delta_heatmap": ODD, "cost_bars": ODD}.items():
        together = "".join(svg_texts(tmp_path / f"{figure_name}.svg")).replace(" ", "")
        for name in shown:
            assert name.replace(" ", "") in together, (figure_name, name)


def test_a_character_that_xml_cannot_hold_is_replaced(tmp_path):
    save(method_scores(score_table(["a\x00b", "c\x1bd"]), "pearson_delta"), tmp_path / "figure.svg")
    assert {"a\N{REPLACEMENT CHARACTER}b", "c\N{REPLACEMENT CHARACTER}d"} <= set(svg_texts(tmp_path / "figure.svg"))


def test_text_stays_text_and_the_title_is_the_accessible_name(tmp_path):
    save(method_scores(score_table(), "pearson_delta"), tmp_path / "figure.svg")
    assert set(METHODS) - {"shuffled", "technical-duplicate"} <= set(svg_texts(tmp_path / "figure.svg"))
    title = ElementTree.parse(tmp_path / "figure.svg").find("{http://www.w3.org/2000/svg}title")
    assert title.text == "planted, fold-0: pearson_delta, 25 perturbations"


def test_marks_say_their_values_in_the_svg_and_the_figure_carries_its_numbers(tmp_path):
    figure = Figure()
    axes = figure.subplots()
    names = ["<script>", "a & b", 'line\n"two"']
    hover(axes.plot([1, 2, 3], [1, np.nan, 3], "o")[0], names[:2])
    hover(axes.scatter([1, 2, 3], [3, 2, 1]), names)
    hover(axes.plot([1, 2], [1, 1])[0], "one text")
    keep(figure, pd.DataFrame({"method": names, "mean": [0.1234567891, None, 1.0]}))
    save(figure, tmp_path / "figure.svg")
    root = ElementTree.parse(tmp_path / "figure.svg").getroot()
    titles = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles[1:] == [*names[:2], 'line "two"', *names[:2], "one text"]
    source = root.find(".//{http://purl.org/dc/elements/1.1/}source").text
    pd.testing.assert_frame_equal(
        pd.read_csv(io.StringIO(source), sep="\t"), pd.DataFrame({"method": names, "mean": [0.1234567891, None, 1.0]})
    )


def test_a_method_has_one_colour_in_every_figure():
    made = all_figures(names(25))
    for method in METHODS:
        colour = method_style(method).colour
        for name in ("method_scores", "paired_differences"):
            axes = made[name].axes[0]
            labels = [label.get_text().split(" (")[0] for label in axes.get_yticklabels()]
            row = labels.index(method)
            lines = [line for line in axes.lines if list(line.get_ydata()) == [row, row]]
            assert {to_hex(line.get_color()) for line in lines} == {colour}, (name, method)


def test_known_methods_differ_in_colour_and_groups_in_marker():
    known = [method_style(method) for method in METHODS if method != "imported"]
    assert len({style.colour for style in known}) == len(known)
    groups = {method: method_style(method).group for method in METHODS}
    assert groups["ridge"] == groups["control-mean"] == "simple method"
    assert len({(style.group, style.marker) for style in known}) == 3


@pytest.mark.parametrize(
    ("method", "kind", "group"),
    [
        ("ridge-10", "ridge", "simple method"),
        ("long", "scgpt-finetuned", "scGPT"),
        ("ridge", "oracle", "benchmark control"),
        ("scgpt-elsewhere", "imported", "other model"),
        ("gears", None, "other model"),
    ],
)
def test_a_method_has_the_group_of_its_kind_and_always_the_same_colour(method, kind, group):
    style = method_style(method, kind)
    assert style.group == group
    assert style == method_style(method, kind)


def test_the_ladder_is_sorted_by_what_is_better():
    scores = score_table(["train-mean", "ridge", "knn"])
    ladder = method_scores(scores, "pearson_delta").axes[0]
    assert [label.get_text() for label in ladder.get_yticklabels()] == ["knn", "ridge", "train-mean"]
    assert ladder.yaxis_inverted()
    ladder = method_scores(scores.assign(metric="mse"), "mse").axes[0]
    assert [label.get_text() for label in ladder.get_yticklabels()] == ["train-mean", "ridge", "knn"]


def test_floor_and_ceiling_are_drawn_where_they_score():
    scores = score_table()
    axes = method_scores(scores, "pearson_delta").axes[0]
    dashed = {line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"}
    assert dashed == set(scores.set_index("method").loc[["shuffled", "technical-duplicate"], "mean"])


def test_floor_and_ceiling_are_kinds_and_not_names():
    kinds = {"shuffled": "ridge", "ridge": "shuffled", "second-sample": "technical-duplicate"}
    scores = score_table(list(kinds))
    axes = method_scores(scores, "pearson_delta", kinds).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert set(labels) == {"shuffled", "ridge (floor)", "second-sample (ceiling)"}
    dashed = {line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"}
    assert dashed == set(scores.set_index("method").loc[["ridge", "second-sample"], "mean"])


def test_a_figure_says_what_it_shows(tmp_path):
    for name, figure in all_figures([*ODD, *names(6)]).items():
        save(figure, tmp_path / f"{name}.svg")
        root = ElementTree.parse(tmp_path / f"{name}.svg")
        (description,) = (found.text for found in root.iter("{http://purl.org/dc/elements/1.1/}description"))
        assert description.endswith((".", ").")), name
        assert len(description) > 30, name
    ladder = method_scores(score_table(), "pearson_delta").get_label()
    assert ladder == (
        "12 methods, from imported 0.700 (best) to control-mean 0.100. Best simple method: target-only 0.373. "
        "Best pretrained scGPT method: scgpt-finetuned 0.536. Ceiling: technical-duplicate 0.645. "
        "Floor: shuffled 0.591."
    )


PARTS = {"truth": 0.75, "truth_a": 0.5, "truth_b": 0.5}


@pytest.mark.parametrize("halved", [False, True])
def test_changes_are_those_that_are_scored(halved):
    """A technical duplicate is drawn against the half that it is scored against, and not against itself."""
    genes, names = pd.DataFrame(index=["A", "B", "C"]), ["P", "Q"]
    layers = {"reference_input": np.ones((2, 3)), "half_b": np.full((2, 3), 7.0)}
    layers |= {f"reference_{part}": np.full((2, 3), value) for part, value in PARTS.items()}
    truth = anndata.AnnData(np.array([[1.0, 2, 3], [4, 5, 6]]), pd.DataFrame(index=names), genes, layers=layers)
    pseudobulk = anndata.AnnData(np.array([[3.0, 3, 3], [2, 2, 2]]), pd.DataFrame(index=names[::-1]), genes)
    predicted, true = changes(pseudobulk, truth, halved)
    # In the order of the truth.
    assert predicted.tolist() == ([[1.5, 1.5, 1.5], [2.5, 2.5, 2.5]] if halved else [[1, 1, 1], [2, 2, 2]])
    assert true.tolist() == ([[6.5, 6.5, 6.5]] * 2 if halved else [[0.25, 1.25, 2.25], [3.25, 4.25, 5.25]])
    metrics = pd.DataFrame({"metric": ["mse", "mse", "mae"], "value": [5.0, 6.0, 99.0]})
    assert left_over(metrics, truth) == pytest.approx(5.5 / (55 / 6))


def test_a_score_without_interval_is_a_dot_without_bar():
    scores = score_table(["ridge"]).assign(ci_low=np.nan, ci_high=np.nan)
    assert len(method_scores(scores, "pearson_delta").axes[0].lines) == 1


def test_alike_conditions_stand_together_in_the_heat_map_of_methods_the_best_on_top():
    high, low = [0.8, 0.7], [0.1, 0.2]
    rows = [(name, "ridge", value) for name, two in zip("ABCD", (high, low, high, low), strict=True) for value in two]
    rows += [(name, "knn", value - 0.1) for name, _, value in rows]
    values = pd.DataFrame(rows, columns=["perturbation", "method", "value"]).assign(context="all")
    values.loc[(values["perturbation"] == "B") & (values["method"] == "knn"), "value"] = np.nan
    figure = perturbation_heatmap(values, "pearson_delta", pd.Series({"A": 0.2, "B": 0.9}, name="reliability"))
    drawn, reliability, *_ = figure.axes
    columns = [label.get_text() for label in reliability.get_xticklabels()]
    assert {frozenset(columns[:2]), frozenset(columns[2:])} == {frozenset("AC"), frozenset("BD")}
    methods = [label.get_text() for label in drawn.get_yticklabels()]
    assert methods == ["knn", "ridge"], "medians of 0.65 and 0.45"
    shown = pd.DataFrame(drawn.images[0].get_array().filled(np.nan), methods, columns)
    np.testing.assert_allclose(shown.loc["ridge", list("ABCD")], [0.75, 0.15, 0.75, 0.15])  # seeds are averaged
    np.testing.assert_allclose(shown.loc["knn", list("ABCD")], [0.65, np.nan, 0.65, 0.05])
    below = dict(zip(columns, reliability.images[0].get_array().filled(np.nan)[0], strict=True))
    assert (below["A"], below["B"]) == (0.2, 0.9)


def test_one_method_against_another_counts_where_it_is_ahead():
    rows = [(name, "tuned", value) for name, value in zip("ABCD", (0.5, 0.6, 0.1, 0.4), strict=True)]
    rows += [(name, "ridge", 0.3) for name in "ABC"] + [("A", "scratch", 0.9)]
    values = pd.DataFrame(rows, columns=["perturbation", "method", "value"]).assign(context="all")
    pairs = [("tuned", "ridge"), ("tuned", "scratch"), ("tuned", "never run")]
    figure = one_against_another(values, "pearson_delta", pairs, "planted")
    assert [axes.get_title() for axes in figure.axes] == ["tuned\n2 ahead, 1 behind", "tuned\n1 behind"]
    dots = figure.axes[0].lines[1]
    assert sorted(zip(dots.get_xdata(), dots.get_ydata(), strict=True)) == [(0.3, 0.1), (0.3, 0.5), (0.3, 0.6)]
    said = (
        "Against ridge, tuned is ahead in 2, equal in 0 and behind in 1 of 3 perturbations; against scratch, tuned is "
    )
    assert figure.get_label() == f"{said}ahead in 0, equal in 0 and behind in 1 of 1 perturbation."
    rounded = values.assign(value=values["value"].mask(values["perturbation"] == "C", 0.3 + 5e-6))
    figure = one_against_another(rounded, "pearson_delta", pairs[:1], "planted")
    assert figure.axes[0].get_title() == "tuned\n2 ahead, 1 equal", "rounding is no difference"
    errors = one_against_another(values, "mse", pairs[:1], "planted")
    assert "tuned is ahead in 1, equal in 0 and behind in 2 of 3" in errors.get_label()
    assert "No two methods" in one_against_another(values.head(0), "mse", pairs, "planted").get_supxlabel()


def test_the_methods_nearest_to_being_better_come_first():
    verdicts = pd.DataFrame(
        [("tuned", "ridge", 0.1, "all"), ("flagged", "knn", -0.5, "all"), ("prompted", "ridge", 0.2, "all"),
         ("prompted", "knn", 0.9, "K562"), ("gears", "ridge", 0.7, "all"), ("unasked", "ridge", np.nan, "all")],
        columns=["method", "opponent", "difference", "context"],
    ).assign(metric="pearson_delta")  # fmt: skip
    scgpt = ["tuned", "flagged", "prompted", "unasked"]
    expected = [("prompted", "ridge"), ("tuned", "ridge"), ("flagged", "knn")]
    assert closest_pairs(verdicts, "pearson_delta", scgpt) == expected
    assert closest_pairs(verdicts, "pearson_delta", scgpt, most=1) == expected[:1]


def test_perturbations_of_one_pathway_stand_together_in_the_heat_map():
    order = ["GENE0", "IFNGR1", "GENE1", "JAK2", "GENE2", "STAT1", "GENE3", "IFNGR2"]
    own = deltas(8)
    delta = np.array([own[0] if name in INTERFERON else own[4 + int(name[-1])] for name in order])
    delta = delta + np.random.default_rng(3).normal(0, 0.1, delta.shape)
    figure = delta_heatmap(delta, order, gene_names(), "planted")
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    places = sorted(rows.index(name) for name in INTERFERON)
    assert places == list(range(places[0], places[0] + 4))
    correlation = figure.axes[1].collections[0].get_array().reshape(8, 8)
    np.testing.assert_allclose(correlation, np.corrcoef(delta[[order.index(name) for name in rows]]), atol=1e-12)


def test_a_response_without_variance_is_drawn_and_correlates_with_nothing():
    delta = np.vstack([np.zeros(60), deltas(4)])
    figure = delta_heatmap(delta, ["nothing", *INTERFERON], gene_names(), "planted")
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    correlation = figure.axes[1].collections[0].get_array().reshape(5, 5)[rows.index("nothing")]
    np.testing.assert_array_equal(np.sort(correlation), [0, 0, 0, 0, 1])


def test_the_training_history_draws_losses_metrics_and_learning_rate_and_no_bookkeeping():
    made = training_history(
        {"fold0, seed 0": history(15), "fold1, seed 0": history(9)}, "planted", {"fold0, seed 0": 7}
    )
    panels = [axes for axes in made.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == [
        "loss (squared log1p expression)",
        "validation: Pearson delta\n(correlation)",
        "learning rate",
        "tokens per second",
    ]
    rings = [[line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 1] for axes in panels]
    assert rings == [[7, 7], [7], [7], [7]]
    assert [sum(len(line.get_xdata()) > 1 for line in axes.lines) for axes in panels] == [4, 2, 2, 2]
    assert "2 trainings of 9 to 15 epochs. loss: 1 at first, 0.0667 to 0.111 at the end." in made.get_label()
    assert "21 % of the peak FLOP/s" in made.get_label()


def test_a_rule_that_another_one_needs_anyway_has_no_arrow_of_its_own():
    rules = named_rules(["a", "b", "c"])
    rules["a"]["needs"] = ["c"]  # a search trains, chooses, and trains again
    made = rule_graph(rules, costs(["a", "b"]).assign(rule=["b", "a"]), "this run")
    arrows = [patch for patch in made.axes[0].patches if isinstance(patch, PathPatch)]
    assert len(rule_graph(named_rules(["a", "b", "c"]), costs(["a"]), "").axes[0].patches) == 3 + 2
    assert len(arrows) == 4
    assert made.get_label().startswith("3 rules in 3 stages. Longest: b 1 h 23 min, a 1.0 s.")


def test_better_is_to_the_right_and_only_what_was_not_pretrained_is_hollow():
    table = verdict_table(["a", "b", "c"]).assign(
        metric="mse", difference=[-0.1, 0.1, 0.0], verdict=["worse", "better", "unreliable data"]
    )
    figure = paired_differences(table, "mse", without_pretraining=["a"])
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "c", "a"]
    markers = [line for line in axes.lines if line.get_marker() == "^"]
    assert [line.get_markerfacecolor() == "white" for line in markers] == [False, False, True]
    assert "more is better" in axes.get_xlabel()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["other model", "hollow: without pretraining"]
    assert figure.get_label().startswith("2 comparisons: 1 better, 1 unreliable data; 1 untrained control: 1 worse. ")
    legend = paired_differences(table, "mse").axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["other model"], "only what is drawn"


def test_the_best_scgpt_method_is_a_pretrained_one_and_training_from_scratch_competes():
    methods = ["scgpt-knockout", "untrained", "scgpt-scratch"]
    kinds = {**{name: name for name in methods}, "untrained": "scgpt-knockout"}
    looks = {"kinds": kinds, "without_pretraining": methods[1:]}
    scores, table = score_table(methods), skill_table(methods)
    assert (
        "Best pretrained scGPT method: scgpt-knockout 0.100."
        in method_scores(scores, "pearson_delta", **looks).get_label()
    )
    verdicts = verdict_table(methods).assign(metric="effect_pearson", verdict="worse")
    said = skill_heatmap(table, verdicts, **looks).get_label()
    assert "Best pretrained scGPT method by effect_pearson: scgpt-knockout (" in said
    assert "Verdicts by effect_pearson: 2 comparisons: 2 worse; 1 untrained control: 1 worse." in said


def test_the_heat_map_explains_the_marks_that_it_has_and_no_others():
    table = skill_table(["ridge", "scgpt-finetuned"]).assign(skill=0.5)
    none = verdict_table().iloc[:0]
    note = skill_heatmap(table, none).get_supxlabel()
    assert not [word for word in ("better", "Grey", "below -99") if word in note]
    worse = verdict_table(["scgpt-finetuned"]).assign(metric="effect_pearson", verdict="worse")
    table.loc[0, "skill"] = np.nan
    note = " ".join(skill_heatmap(table, worse).get_supxlabel().split())
    assert "against the best simple method: \N{BLACK DOWN-POINTING TRIANGLE} worse." in note
    assert "Grey: skill unknown." in note


def test_the_heat_map_leaves_out_a_slope_that_chance_could_give():
    table = skill_table(["ridge", "scgpt-zero-shot"])
    by_chance = (table["metric"] == "effect_covariance") & (table["method"] == "scgpt-zero-shot")
    table.loc[by_chance, "ci_low"] = -0.1
    figure = skill_heatmap(table, verdict_table().iloc[:0])
    assert ("scgpt-zero-shot", "effect_covariance") not in cells_of(figure)
    assert ("ridge", "effect_covariance") in cells_of(figure)
    note = " ".join(figure.get_supxlabel().split())
    assert note.endswith("Grey: skill unknown, or a slope (effect_covariance) not shown to be above 0.")


def test_the_best_and_the_worst_difference_are_called_so():
    """None of these is called the largest: by absolute value that is the worst one."""
    table = verdict_table(["a", "b", "c"]).assign(difference=[-0.008, -0.667, -0.1], verdict="worse")
    told = paired_differences(table, "pearson_delta").get_label()
    assert "argest" not in told
    assert "Best: a on planted, fold-0, -0.008 against train-mean (worse)." in told
    assert told.endswith("Worst: b on planted, fold-0, -0.667 against train-mean (worse).")
    alone = paired_differences(table.iloc[:1], "pearson_delta").get_label()
    assert alone.endswith("Best: a on planted, fold-0, -0.008 against train-mean (worse).")


def test_the_skill_stands_beside_the_score_where_it_is_known():
    scores = score_table(["ridge", "knn", "additive"]).assign(skill=[0.7, -0.14, np.nan])
    texts = [text.get_text() for text in method_scores(scores, "pearson_delta").axes[0].texts]
    assert sorted(text.partition(", skill ")[2] for text in texts) == ["", "-0.14", "0.70"]


@pytest.mark.parametrize(
    ("value", "score", "difference", "error"),
    [
        (0.03049, "0.030", "+0.030", "+0.0305"),
        (-0.0004, "0.000", "0.000", "-0.0004"),
        (-0.0, "0.000", "0.000", "0"),
        (np.nan, "unknown", "unknown", "unknown"),
    ],
)
def test_numbers_have_the_digits_that_say_something(value, score, difference, error):
    assert numbers.score(value, is_error=False) == score
    assert numbers.difference(value, is_error=False) == difference
    assert numbers.difference(value, is_error=True) == error


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (5.46, "5.5 s"), (82, "82 s"), (876, "14.6 min"), (3599, "1 h"), (4280, "1 h 11 min"),
     (36_000, "10 h"), (4_320_000, "1,200 h")],
)  # fmt: skip
def test_times_are_in_the_units_in_which_they_are_easiest_to_read(seconds, text):
    assert numbers.readable_time(seconds / 3600) == text


def test_targets_that_moved_are_counted_among_those_that_are_measured():
    conditions = pd.DataFrame({"perturbation": list("ABCD"), "context": "all", "n_cells": 50})
    conditions["target_log_fold_change"] = [-0.5, -0.25, -1.0, None]
    conditions["target_wrong_way"] = [False, False, False, None]
    said = knock_down(conditions, "interference", "drop").get_label()
    assert said == (
        "3 of the 4 perturbations have a measured target; all 3 are lower than in control cells (half would be by "
        "chance), median log2 fold change -0.50; none is significantly the other way."
    )
    conditions.loc[0, ["target_log_fold_change", "target_wrong_way"]] = 0.5, True
    figure = knock_down(conditions, "interference", "drop")
    assert "; 2 are lower than in control cells (half" in figure.get_label()
    assert figure.get_label().endswith("; 1 is significantly the other way.")
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["as expected", "other way, beyond chance"]


def test_what_the_metrics_that_decide_gain_from_tricks_is_said_first():
    rows = [
        ("delta x 0.5", "effect_pearson", 0.0), ("delta x 0.5", "mse_unbiased", 0.3), ("constant", "mse_unbiased", 0.1),
        ("delta x 0.5", "discrimination", np.nan), ("delta x 0.5", "mse", 0.5),
    ]  # fmt: skip
    panel = pd.DataFrame(rows, columns=["transformation", "metric", "share_of_gap"])
    assert robustness_heatmap(panel, "planted").get_label() == (
        "Of the metrics that decide: effect_pearson gains less than 1 %, mse_unbiased gains 30 % from delta x 0.5, "
        "discrimination has no gap to judge by. 2 of 4 metrics gain 1 % of the gap or more from a trick; most: mse "
        "from delta x 0.5 (50 %)."
    )


def test_a_run_without_anything_to_compare_says_so():
    figure = paired_differences(verdict_table().iloc[:0], "mse")
    assert figure.get_supxlabel() == "No method was compared on this metric."


def test_coverage_counts_genes_and_expression():
    status = ["in_vocabulary", "in_vocabulary", "renamed", "padded"]
    table = pd.DataFrame({"gene": list("ABCD"), "status": status, "matched_as": ["A", "B", "C2", "<pad>"]})
    (row,) = vocabulary_coverage({"human": table}, np.array([6.0, 2.0, 1.0, 1.0])).to_dict("records")
    assert row == {
        "checkpoint": "human",
        **{"genes": 4, "in_vocabulary": 2, "renamed": 1, "padded": 1},
        **{"percent_of_genes": 75.0, "percent_of_expression": pytest.approx(90.0)},
        **{"padded_genes": "D", "renamed_genes": "C as C2"},
    }


def test_the_load_report_says_how_much_is_pretrained():
    report = pd.DataFrame(
        [("a", "pretrained", 3_000_000), ("a", "random", 1_000_000), ("a", "unused", 9_000_000), ("b", "random", 500)],
        columns=["method", "status", "n_parameters"],
    )
    beside = [text.get_text() for text in load_report(report, "planted").axes[0].texts]
    assert beside == ["4 M, 75.0 % pretrained, 9 M unused", "500, 0.0 % pretrained"]


def test_metrics_are_named_in_words_with_their_gene_set():
    assert metric_label("pearson_delta_top20") == "Pearson delta (correlation), top 20 genes"
    assert (
        metric_label("mse_high1000") == "mean squared error (squared log1p expression), 1,000 genes highest in control"
    )
    assert metric_label("cosine_delta_no_target") == "cosine of predicted and true delta, without the target gene"
    assert metric_label("cell_eval.overlap_at_N") == "cell_eval.overlap_at_N"


def test_escaped_names_are_drawn_as_they_were():
    for name in ("$", "$$", "a$b", r"a\$b$", r"\\$x$"):
        figure = Figure()
        text = figure.text(0, 0, literal(name))
        assert text._preprocess_math(text.get_text()) == (name, False)


def test_a_figure_is_whole_or_absent(tmp_path):
    figure = method_scores(score_table(), "pearson_delta")
    with pytest.raises(InputError, match=re.escape("found '.pdf'; expected .svg or .png")):
        save(figure, tmp_path / "figure.pdf")
    figure.axes[0].set_ylabel("$\\unknown{x}$")
    with pytest.raises(ValueError, match="unknown"):
        save(figure, tmp_path / "figure.svg")
    assert list(tmp_path.iterdir()) == []


def test_contexts_that_share_no_perturbation_have_figures_that_say_so():
    nothing = carried([])
    for figure in (transfer_heatmap(nothing, "joined"), carried_over(None, nothing, ["A"], "joined", 6)):
        assert figure.get_label() == "No perturbation was measured in two contexts."


def test_opposite_responses_are_the_pair_that_is_most_alike():
    figure = delta_heatmap(np.array([[1.0, -1.0], [-1.0, 1.0]]), ["A", "B"], ["STAT1", "CXCL1"], "planted")
    assert "Most alike: A and B, r = -1.00." in figure.get_label()


def test_input_that_cannot_be_drawn_is_refused_by_name():
    with pytest.raises(InputError, match="scores of mse: rows: found none"):
        method_scores(score_table(), "mse")
    with pytest.raises(InputError, match="verdicts: column 'opponent'"):
        paired_differences(score_table(), "pearson_delta")
    with pytest.raises(InputError, match=r"deltas: STAT1, CXCL1: found nan; expected finite values"):
        delta_heatmap(np.array([[0.0, np.nan]]), ["STAT1"], ["A", "CXCL1"], "planted")
    with pytest.raises(InputError, match=r"shape: found \(1, 2\); expected \(2, 2\)"):
        delta_heatmap(np.zeros((1, 2)), ["STAT1", "JAK2"], ["A", "B"], "planted")
    with pytest.raises(InputError, match="status: found 'lost'"):
        vocabulary_coverage(
            {"human": pd.DataFrame({"gene": ["A"], "status": ["lost"], "matched_as": ["A"]})}, np.ones(1)
        )
    with pytest.raises(InputError, match="none that is a number"):
        perturbation_heatmap(metric_values(["A"]).assign(value=np.nan), "mse")
