"""Learning curves and predictions of what nobody measured, from the configuration to the report."""

import anndata
import pandas as pd
import pytest
import yaml

import tiny
from scgpt_bench.files import read_table
from snakemake_checkout import copy_of_checkout

METHODS = ["train-mean", "knn", "scgpt-embedding-ridge"]
STUDY = {
    **tiny.STUDY,
    "splits": {**tiny.STUDY["splits"], "training_sizes": [4, "full"]},
    "checkpoints": {"untrained": {"source": "random", **tiny.MODEL}},
    "methods": {"train-mean": {}, "knn": {}, "shuffled": {}, "scgpt-embedding-ridge": {"checkpoint": "untrained"}},
    "predict": {"next": {"dataset": "planted", "perturbations": "next.txt", "methods": ["knn", "train-mean"]}},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    checkout = copy_of_checkout(tmp_path_factory.mktemp("curves"))
    checkout.write("study.yaml", yaml.safe_dump(STUDY))
    checkout.write("next.txt", "\n".join(["PLANTED-1", "planted-2", "PLANTED-1", "NEW1"]))
    checkout.snakemake("--configfile", "study.yaml")
    return checkout.path / "results" / "tiny"


def test_every_method_that_learns_has_a_curve_and_no_curve_has_a_verdict(results):
    curves = read_table(results / "learning_curves.tsv")
    assert sorted(curves["method"].unique()) == sorted(METHODS)
    effect = curves[curves["metric"] == "effect_pearson"]
    assert effect.groupby("method")["n_learned"].apply(list).map(len).eq(2).all()
    assert effect["n_asked"].notna().all()
    for name in ("scores", "verdicts"):
        assert set(read_table(results / f"{name}.tsv")["split"]) == {"fold0"}
    crossings = read_table(results / "crossings.tsv")
    assert set(crossings["method"]) == {"scgpt-embedding-ridge"}
    assert crossings[["n_learned", "reason"]].notna().any(axis=1).all()


def test_all_numbers_are_measured_on_the_same_cells(results):
    whole, part = (results / "planted" / name for name in ("fold0", "fold0-train4"))
    roles = [read_table(folder / "split.tsv").set_index("perturbation")["role"] for folder in (whole, part)]
    assert set(roles[1][roles[1] != "test"].index) < set(roles[0][roles[0] != "test"].index)
    assert (roles[1] != "test").sum() == 4
    controls = [anndata.read_h5ad(folder / "controls.h5ad") for folder in (whole, part)]
    assert controls[0].obs.equals(controls[1].obs)


def test_the_report_shows_them(results):
    page = (results / "report.html").read_text()
    assert "score by number of perturbations" in page
    assert "when each method overtakes the best simple one" in page


def test_a_list_that_nobody_measured_is_predicted_ranked_and_without_scores(results):
    asked = read_table(results / "planted" / "predicted-next" / "asked.tsv")
    assert asked["perturbation"].tolist() == ["PLANTED-1", "PLANTED-2", "PLANTED-1", "NEW1"]
    assert asked["predicted"].tolist() == ["yes", "yes", "no", "yes"]
    ranking = read_table(results / "predicted" / "next" / "ranking.tsv")
    assert ranking.groupby("method").size().to_dict() == {"knn": 3, "train-mean": 3}
    assert ranking.set_index(["method", "perturbation"]).loc[("knn", "NEW1"), "asked"] == "no"
    predicted = anndata.read_h5ad(results / "predicted" / "next" / "knn" / "0" / "predictions.h5ad")
    assert set(predicted.obs["perturbation"]) == {"PLANTED-1", "PLANTED-2", "NEW1"}
    changes = pd.read_parquet(results / "predicted" / "next" / "knn" / "changes.parquet")
    assert len(changes) == 3 * predicted.n_vars
    assert "predicted-next" not in set(read_table(results / "scores.tsv")["split"])
    assert "ranking of perturbations" in (results / "report.html").read_text()


def test_beside_a_prediction_is_what_its_methods_scored_where_the_answer_was_measured(results):
    trust = read_table(results / "predicted" / "next" / "trust.tsv").set_index(["method", "asked"])
    scores = read_table(results / "scores.tsv").set_index(["method", "metric"])
    assert set(trust.index) == {("knn", "no"), ("knn", "yes"), ("train-mean", "yes")}
    mean = scores.loc[("train-mean", "effect_pearson"), "mean"]
    assert trust.loc[("train-mean", "yes"), "mean"] == pytest.approx(mean)
    page = (results / "predicted" / "next" / "page.html").read_text()
    assert page in (results / "report.html").read_text()
    assert "knn (1 of 3)" in page[: page.index("</p>")]
