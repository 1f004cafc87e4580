"""`make demo`: the planted experiment ends with the answers that were planted."""

import gzip
import json
import re
import runpy

import anndata
import numpy as np
import pytest

import browser
from scgpt_bench.data.conditions import conditions_of
from scgpt_bench.evaluation.pseudobulk import select_tested
from scgpt_bench.files import read_table
from scgpt_bench.method_record import read_record
from scgpt_bench.report.page import CATEGORIES
from snakemake_checkout import ROOT, copy_with_demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return copy_with_demo(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def results(demo):
    return demo.path / "results" / "demo"


@pytest.fixture(scope="module")
def pearson_delta(results):
    scores = read_table(results / "scores.tsv")
    return scores[scores["metric"] == "pearson_delta"].set_index("method")["mean"]


def test_the_report_opens_without_a_network_and_shows_everything(results, tmp_path):
    with browser.chromium(tmp_path, 1280) as reader:
        browser.open_report(reader, results / "report.html")
        browser.assert_answered_in_twenty_seconds(reader, "#start .ladder tbody tr")
        not_run = ("Predicted", "Learning curves", "Contexts")
        shown = [category for category in CATEGORIES if category not in not_run]
        assert browser.categories(reader) == ["Start", *shown]
        for category in shown:
            browser.go_to(reader, category)
            browser.draw_everything(reader)
        assert browser.accessibility_violations(reader) == []
        assert browser.complaints(reader) == []
        assert browser.requested(reader) <= {"file", "data", "blob"}
        script = "return [...document.querySelectorAll('.item:has(.figure) .caption')].map((c) => c.textContent)"
        captions = [caption.split("In this run:") for caption in reader.execute_script(script)]
    assert len(captions) == len(list(results.rglob("*.svg")))
    for explanation, findings in captions:
        assert len(explanation) > 150, explanation
        assert len(findings) > 30, explanation


def test_the_start_page_says_what_the_tables_say(results):
    text = (results / "summary.html").read_text()
    verdicts = read_table(results / "verdicts.tsv")
    headline = verdicts[verdicts["metric"] == "effect_pearson"]
    for row in headline.itertuples():
        assert f'<tr><th scope="row">{row.method}</th>' in text
        assert f"{row.difference:+.3f} ({row.ci_low:+.3f} to {row.ci_high:+.3f})" in text
    for limit in ("Simulated cells: planted", "No published checkpoint", "Random decoder: scgpt-zero-shot"):
        assert f"<strong>{limit}.</strong>" in text
    assert "epochs 5 instead of 15" in text
    for pair in read_table(results / "contrasts.tsv")[["method", "opponent"]].drop_duplicates().itertuples():
        assert f"{pair.method} against {pair.opponent}: " in text


def test_single_genes_are_all_of_one_class(results):
    assert read_table(results / "scores_by_class.tsv").empty


def test_two_reports_of_one_run_differ_in_the_time_stamp_only(demo, results):
    once = (results / "report.html").read_text().splitlines()
    demo.snakemake("--forcerun", "report_of_run")
    again = (results / "report.html").read_text().splitlines()
    different = [line for line, other in zip(once, again, strict=True) if line != other]
    assert len(different) == 1
    assert "<time>" in different[0]


def test_snakemakes_own_report_shows_the_same_files(demo, results, tmp_path):
    demo.snakemake("--report", str(tmp_path / "stock.html"))
    text = (tmp_path / "stock.html").read_text()
    shown = re.findall(r"<code>(results/[^<]+)</code></p>", (results / "report.html").read_text())
    assert len(shown) > 40
    assert [name for name in shown if name.rpartition("/")[2] not in text] == []


def test_a_second_run_has_nothing_to_do(demo):
    assert "Nothing to be done" in demo.snakemake().stdout


def test_a_touched_file_reruns_nothing(demo):
    library = demo.path / "workflow" / "lib" / "scgpt_bench"
    for path in (library / "evaluation" / "metrics.py", demo.path / "workflow" / "scripts" / "finetune.py"):
        assert path.is_file()
        path.touch()
    cells = demo.path / "results" / "demo" / "planted" / "cells.h5ad"
    assert cells.stat().st_size > 1_000_000  # of larger files Snakemake by itself compares times only
    cells.touch()
    assert "Nothing to be done" in demo.snakemake().stdout


def test_nothing_is_left_half_written(demo):
    assert not list(demo.path.rglob(".*.partial"))


def test_the_ladder_stands_between_floor_and_ceiling(pearson_delta):
    assert pearson_delta["oracle"] > 0.95
    assert pearson_delta["technical-duplicate"] > 0.9
    assert pearson_delta["train-mean"] < 0.25
    assert abs(pearson_delta["shuffled"]) < 0.03, "a mean over all pairs of test perturbations; one shuffle has -0.12"
    assert pearson_delta.drop(["oracle", "technical-duplicate"]).max() < pearson_delta["technical-duplicate"]


def test_the_view_of_a_perturbation_shows_the_numbers_of_the_tables(results):
    """Of the ceiling too, which is scored against half of the cells; what is undefined has no number."""
    folder = results / "planted" / "fold0"
    table = read_table(folder / "perturbations.tsv").set_index("perturbation")
    view = json.loads(gzip.decompress((folder / "perturbations.json.gz").read_bytes()))
    shown = [method["name"] for method in view["methods"]]
    assert [condition["name"] for condition in view["conditions"]] == list(table.index)
    for method in ("technical-duplicate", "shuffled", "control-mean", "knn"):
        for condition in view["conditions"]:
            value = condition["r"][shown.index(method)]
            assert (value or 0) == pytest.approx(table.loc[condition["name"], method], abs=0.00051)
            assert (value is None) == (method == "control-mean")


def test_no_metric_of_the_demo_is_a_copy_of_another(results):
    scores = read_table(results / "scores.tsv")
    means = scores.pivot_table(index="method", columns="metric", values="mean").round(12)
    assert not means.T.duplicated().any()


def test_untrained_weights_know_nothing(pearson_delta):
    for arm in ("scgpt-zero-shot", "scgpt-knockout", "scgpt-generate"):
        assert abs(pearson_delta[f"{arm}-untrained"]) < 0.25, arm
    assert pearson_delta["scgpt-knockout"] > pearson_delta["scgpt-knockout-untrained"] + 0.2


def test_control_mean_is_wrong_by_exactly_the_squared_change(results):
    truth = select_tested(anndata.read_h5ad(results / "planted" / "fold0" / "truth.h5ad"))
    metrics = read_table(results / "planted" / "fold0" / "control-mean" / "0" / "metrics.tsv")
    found = metrics[metrics["metric"] == "mse"].set_index("perturbation")["value"].loc[list(truth.obs_names)]
    np.testing.assert_allclose(found, np.square(truth.X - truth.layers["reference_input"]).mean(axis=1), rtol=1e-5)


def test_every_method_is_scored_by_every_metric(results):
    paths = sorted((results / "planted" / "fold0").glob("*/*/metrics.tsv"))
    metrics = {path: set(read_table(path)["metric"]) for path in paths}
    assert len(paths) >= 12
    assert "pearson_delta_top20" in metrics[paths[0]]
    assert not [path for path in paths if metrics[path] != metrics[paths[0]]]


def test_every_method_predicts_the_same_control_cells(results):
    controls = anndata.read_h5ad(results / "planted" / "fold0" / "controls.h5ad").obs
    paths = sorted((results / "planted" / "fold0").glob("*/*/predictions.h5ad"))
    assert len(paths) >= 12
    for path in paths:
        obs = anndata.read_h5ad(path, backed="r").obs
        assert (obs["control_cell"].astype(str) == controls["control_cell"].astype(str)).all(), path


def test_what_is_random_is_written_beside_the_prediction(results):
    record = read_record(results / "planted" / "fold0" / "scgpt-zero-shot" / "0" / "method.json")
    report = record.scgpt.load_report
    assert any(name.startswith("decoder.") for name in report.random)
    assert "pert_encoder.weight" in report.random
    assert "transformer_encoder.layers.0.self_attn.Wqkv.weight" in report.pretrained


def test_every_prediction_has_a_record_of_all_its_conditions_and_scores_count_those_that_were_asked(results):
    folder = results / "planted" / "fold0"
    split = read_table(folder / "split.tsv")
    tested = conditions_of(split, "test")
    scores = read_table(results / "scores.tsv")
    asked = scores[scores["metric"] == "pearson_delta"].set_index("method")["n_asked"]
    paths = sorted(folder.glob("*/*/predictions.h5ad"))
    for path in paths:
        record = read_record(path.with_name("method.json"))
        assert sorted(entry.condition for entry in (*record.asked, *record.fallbacks)) == tested, path
        assert len(record.asked) == asked[path.parts[-3]], path
    assert asked["additive"] == 0, "no single of a test perturbation is measured"
    assert asked["train-mean"] == len(tested)


def test_a_target_that_was_not_measured_is_told_to_the_model_and_written_down(results):
    harmonized = anndata.read_h5ad(results / "planted" / "cells.h5ad", backed="r").uns["harmonized"]
    assert len(harmonized["targets_not_measured"]) == 2


def test_provenance_names_code_and_inputs(results):
    provenance = json.loads((results / "provenance.json").read_text())
    assert provenance["versions"]["scgpt"] == "0.2.4"
    statements = [entry["prediction"] for entry in provenance["scgpt"]]
    assert {statement["versions"]["scgpt"] for statement in statements} == {"0.2.4"}
    assert any("finetuning" in entry for entry in provenance["scgpt"])
    assert all(len(entry["sha256"]) == 64 for entry in provenance["inputs"])


def test_every_job_is_counted_in_the_cost(results):
    measured = {path.relative_to(results / "benchmarks") for path in (results / "benchmarks").rglob("*.tsv")}
    measured = [path for path in measured if path.stem not in ("figure_cost", "provenance", "summary", "report_of_run")]
    cost = read_table(results / "cost.tsv")
    assert cost["jobs"].sum() == len(measured)
    assert set(cost["rule"]) == {path.parts[0].removesuffix(".tsv") for path in measured}


def test_the_notebook_reads_these_results_and_its_pictures_are_made(demo, tmp_path):
    cells = json.loads((ROOT / "docs" / "reading_results.ipynb").read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells)  # they would be those of one machine
    pictures = runpy.run_path(str(ROOT / "docs" / "pictures.py"))
    in_table, computed = re.findall(r"[\d.]+(?= in | here)", pictures["run_notebook"](demo.path, tmp_path))
    assert in_table == computed
    assert {path.name for path in tmp_path.iterdir()} == set(pictures["IN_NOTEBOOK"])
