"""Lists of perturbations that nobody measured: what is asked, what methods learn from, and rankings."""

import anndata
import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet

from jobs import Job
from made_up import halved, method_record
from predicted import whole
from scgpt_bench.data import planted, unmeasured
from scgpt_bench.data.catalogue import read_datasets
from scgpt_bench.data.conditions import Condition
from scgpt_bench.data.controls import control_cells, draw_controls
from scgpt_bench.data.harmonize import harmonize
from scgpt_bench.errors import InputError
from scgpt_bench.files import read_table, write_h5ad, write_table
from scgpt_bench.method_record import Asked
from scgpt_bench.methods import baselines
from scgpt_bench.unmeasured.changes import CHANGE_COLUMNS, changes, largest
from scgpt_bench.unmeasured.changes import write as write_changes
from scgpt_bench.unmeasured.ranking import RANKING_COLUMNS, rank, read_signature
from snakemake_checkout import ROOT

OBS = pd.DataFrame(
    [("control", "all", "none")] * 4 + [("STAT1", "all", "down")] * 3,
    columns=["perturbation", "context", "direction"],
)
VAR = pd.DataFrame({"gene_id": ["ENSG00000115415", "ENSG00000162434", ""]}, index=["STAT1", "JAK1", "IRF1"])


def write(folder, text, name="list.txt"):
    path = folder / name
    path.write_text(text)
    return path


def asked(path, obs=OBS, contexts=(), direction="down"):
    wanted = unmeasured.read_list(path)
    return unmeasured.asked(wanted, obs, VAR, contexts=contexts, direction=direction, source=path)


def test_every_line_of_a_list_is_predicted_or_says_why_not(tmp_path):
    lines = ["JAK1", "irf1", "ENSG00000162434.7", "STAT1", "ENSG00000000001", "NEW1", "JAK1+irf1", ""]
    table = asked(write(tmp_path, "\n".join(lines)))
    assert list(table.columns) == unmeasured.ASKED_COLUMNS
    assert table[["perturbation", "predicted", "reason"]].values.tolist() == [
        ["JAK1", "yes", ""],
        ["IRF1", "yes", "irf1 is IRF1"],
        ["JAK1", "no", "asked for twice"],
        ["STAT1", "no", "measured: its cells are in the data set"],
        ["ENSG00000000001", "no", "identifier that the data set does not have"],
        ["NEW1", "yes", "NEW1 is not among the measured genes"],
        ["IRF1+JAK1", "yes", "irf1 is IRF1"],
    ]


def test_a_table_may_say_directions(tmp_path):
    path = write(tmp_path, "perturbation\tdirection\nJAK1\tup\nIRF1\t\n", "list.tsv")
    assert asked(path)["direction"].tolist() == ["up", "down"]
    with pytest.raises(InputError, match=r"'IRF1': found no direction"):
        asked(path, direction=None)


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        ("\n\n", "list.txt", "lines: found none"),
        ("JAK1\ncontrol\n", "list.txt", "line 2: found 'control'"),
        ("JAK1\nnot a gene\n", "list.txt", "line 2: found 'not a gene'"),
        ("gene\nJAK1\n", "list.tsv", "columns: found gene"),
        ("perturbation\tdirection\nJAK1\tsideways\n", "list.tsv", "line 2, direction: found 'sideways'"),
        ("STAT1\n", "list.txt", "perturbations: found 1 lines, measured"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused_in_one_line(tmp_path, text, name, found):
    with pytest.raises(InputError, match=found):
        asked(write(tmp_path, text, name))


def test_unknown_contexts_are_refused_and_others_predicted_apart(tmp_path):
    obs = pd.concat([OBS, OBS.assign(context="other")], ignore_index=True)
    path = write(tmp_path, "JAK1\nSTAT1\n")
    assert asked(path, obs[:-3])["predicted"].tolist() == ["yes", "yes", "no", "yes"]
    assert asked(path, obs, contexts=["other"])["context"].unique().tolist() == ["other"]
    with pytest.raises(InputError, match="'else'; expected contexts with control cells: all, other"):
        asked(path, obs, contexts=["else"])


def test_the_direction_is_that_of_all_measured_conditions_or_of_the_kind():
    assert unmeasured.usual_direction(OBS, "up") == "down"
    assert unmeasured.usual_direction(OBS[:4], "up") == "up"
    both = pd.concat([OBS, OBS[-3:].assign(perturbation="JAK1", direction="up")])
    assert unmeasured.usual_direction(both, "up") is None


def test_control_cells_have_the_direction_of_the_line_that_is_predicted(tmp_path):
    """A second line of the same perturbation is not predicted, whatever its direction."""
    obs = pd.concat([OBS[:4], OBS[-3:]]).assign(batch="all", cell_type="all").rename(index="c{}".format)
    cells = halved(anndata.AnnData(np.ones((len(obs), len(VAR)), np.float32), obs=obs, var=VAR[[]]))
    write_h5ad(cells, tmp_path / "cells.h5ad")
    table = asked(write(tmp_path, "perturbation\tdirection\nJAK1\tdown\nJAK1\tup\n", "list.tsv"))
    write_table(table, tmp_path / "asked.tsv")
    write_table(unmeasured.split(obs, table), tmp_path / "split.tsv")
    job = Job(
        "sample_controls.py",
        {name: f"{name}.{suffix}" for name, suffix in (("cells", "h5ad"), ("split", "tsv"), ("asked", "tsv"))},
        ["controls.h5ad"],
        {"options": {"cells_per_perturbation": 2, "seed": 1}, "split": "predicted-next", "series": "drop"},
    )
    done = job.run(tmp_path)
    assert done.status == 0, done.terminal + done.log
    assert anndata.read_h5ad(tmp_path / "controls.h5ad").obs["direction"].unique().tolist() == ["down"]


def test_a_list_may_have_any_name(tmp_path):
    obs = OBS.rename(index="c{}".format)
    write_h5ad(anndata.AnnData(np.ones((len(obs), len(VAR)), np.float32), obs=obs, var=VAR), tmp_path / "drop.h5ad")
    write(tmp_path, "JAK1\n", "next.cells.h5ad")
    params = {"is_list": True, "contexts": [], "perturbation_kind": "interference"}
    files = {"split": "split.tsv", "asked": "asked.tsv"}
    done = Job("unmeasured_split.py", {"cells": "drop.h5ad", "list": "next.cells.h5ad"}, files, params).run(tmp_path)
    assert done.status == 0, done.terminal + done.log
    assert read_table(tmp_path / "asked.tsv")["perturbation"].tolist() == ["JAK1"]


@pytest.fixture(scope="module")
def experiment():
    """A planted screen of 30 targets, of which 6 are left out altogether."""
    options = {"modules": 5, "targets_per_module": 6, "cells_per_perturbation": 40, "control_cells": 300}
    made = planted.generate({**options, "atlas_cells": 100, "unmeasured_targets": 0})
    row = read_datasets(ROOT / "config" / "datasets.tsv")["planted"]
    left_out = sorted(made.truth.obs_names)[1::5]
    left_out = [name for name in left_out if name != "control"]
    kept = made.cells[~made.cells.obs["perturbation"].isin(left_out)].copy()
    return halved(harmonize(kept, row, minimum_cells=10)), made.truth, left_out


def predicted(cells, names, method, **options):
    listed = pd.DataFrame({"given": names, "direction": ""})
    table = unmeasured.asked(listed, cells.obs, cells.var, contexts=[], direction="down", source="list")
    split = unmeasured.split(cells.obs, table)
    directions = {Condition(name): "down" for name in names}
    draw = draw_controls(
        cells.obs, split, per_perturbation=20, seed=1, dataset="planted", split_name="next", direction_of=directions
    )
    controls = control_cells(cells, draw)
    X, found = whole(baselines.predict, cells, split, controls, method, **options)
    prediction = anndata.AnnData(X, obs=controls.obs, var=controls.var)
    return split, pd.concat(changes([prediction], controls), ignore_index=True), found


def test_methods_learn_from_all_that_was_measured_and_predict_what_was_not(experiment):
    cells, truth, left_out = experiment
    split, found, _ = predicted(cells, left_out, baselines.knn)
    assert set(split.loc[split["role"] == "train", "perturbation"]) == set(cells.obs["perturbation"]) - {"control"}
    assert set(split.loc[split["role"] == "test", "perturbation"]) == set(left_out)
    assert list(found.columns) == CHANGE_COLUMNS
    true = truth.to_df().loc[:, cells.var_names]
    correlations = []
    for name, own in found.groupby("perturbation", observed=True):
        others = own["gene"].astype(str).to_numpy() != name
        change = (true.loc[name] - true.loc["control"]).to_numpy()
        correlations.append(np.corrcoef(own["change"][others], change[others])[0, 1])
    assert len(correlations) == len(left_out)
    assert np.mean(correlations) > 0.5


def test_the_spread_is_over_seeds_and_the_largest_changes_come_first(experiment):
    cells, _, left_out = experiment
    _, found, _ = predicted(cells, left_out, baselines.train_mean)
    assert found["spread"].isna().all()
    few = largest(found, 3)
    assert few.groupby("perturbation").size().eq(3).all()
    sizes = few["change"].abs().to_numpy().reshape(-1, 3)
    assert (np.diff(sizes, axis=1) <= 0).all()
    assert sizes.max() == found["change"].abs().max()


def test_changes_are_written_in_a_row_group_for_each_condition(experiment, tmp_path):
    cells, _, left_out = experiment
    _, found, _ = predicted(cells, left_out, baselines.train_mean)
    by_condition = (own.reset_index(drop=True) for _, own in found.groupby("perturbation", observed=True))
    of_file = write_changes(by_condition, tmp_path / "changes.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "changes.parquet"), found)
    assert parquet.ParquetFile(tmp_path / "changes.parquet").num_row_groups == len(left_out)
    pd.testing.assert_frame_equal(of_file, largest(found))


@pytest.mark.parametrize("method", [baselines.control_mean, baselines.train_mean, baselines.tuned_simple])
def test_without_a_perturbed_cell_simple_methods_predict_no_change_and_say_that_they_were_not_asked(experiment, method):
    cells, _, left_out = experiment
    controls = cells[cells.obs["perturbation"] == "control"].copy()
    split, found, record = predicted(controls, left_out, method)
    assert set(split["role"]) == {"test"}
    assert found["change"].abs().max() < 1e-6
    fallback = ("nothing to learn from, in any context, in this direction", "no change")
    asked = [] if method is baselines.control_mean else sorted(left_out)
    assert record["fallbacks"] == {Condition(name): fallback for name in asked}


def of_truth(truth, names):
    """Changes of planted truth, as predictions give them."""
    table = truth.to_df()
    blocks = [
        pd.DataFrame({"perturbation": name, "context": "all", "gene": truth.var_names,
                      "change": (table.loc[name] - table.loc["control"]).to_numpy(), "spread": np.nan})
        for name in names
    ]  # fmt: skip
    return pd.concat(blocks, ignore_index=True)


def record_for(names, asked):
    record = method_record("knn")
    return record.model_copy(update={"asked": tuple(Asked(perturbation=name, context="all") for name in asked)})


def test_the_reverse_question_finds_a_perturbation_of_the_planted_module_first(experiment):
    _, truth, _ = experiment
    names = [name for name in truth.obs_names if name != "control"]
    module_of = dict(zip(truth.obs_names, truth.obs["module"], strict=True))
    way_of = dict(zip(truth.obs_names, np.sign(truth.obs["activity_change"]), strict=True))
    found = {"oracle": of_truth(truth, names)}
    records = {"oracle": record_for(names, names)}
    for module, way in {(module_of[name], way_of[name]) for name in names}:
        loading = truth.var.loc[truth.var["module"] == module, "loading"]
        table = rank(found, records, way * np.sign(loading)).set_index("rank_by_signature")
        assert (module_of[table.loc[1, "perturbation"]], way_of[table.loc[1, "perturbation"]]) == (module, way)


def test_a_perturbation_that_a_method_was_not_asked_about_comes_last_and_agrees_with_nobody(experiment):
    _, truth, _ = experiment
    names = [name for name in truth.obs_names if name != "control"][:4]
    found = {"one": of_truth(truth, names), "two": of_truth(truth, names)}
    table = rank(found, {"one": record_for(names, names[1:]), "two": record_for(names, names)})
    assert list(table.columns) == RANKING_COLUMNS
    one, two = (table[table["method"] == name].set_index("perturbation") for name in ("one", "two"))
    assert one.loc[names[0], ["asked", "rank_by_effect"]].tolist() == ["no", 4]
    assert np.isnan(two.loc[names[0], "agreement"])
    assert two.loc[names[1:], "agreement"].to_numpy() == pytest.approx(1)
    assert table["signature"].isna().all()


def test_answers_of_random_weights_are_not_ranked_and_agree_with_nobody(experiment):
    _, truth, _ = experiment
    names = [name for name in truth.obs_names if name != "control"][:4]
    untrained = {"checkpoint_pretrained": False}
    random = {
        "decoder": method_record("scgpt-zero-shot"),
        "weights": method_record("scgpt-knockout", load_report=untrained),
    }
    trained = {"finetuned": method_record("scgpt-finetuned", finetuning={}), "knn": record_for(names, names)}
    asked = record_for(names, names).asked
    records = {name: record.model_copy(update={"asked": asked}) for name, record in {**random, **trained}.items()}
    table = rank(dict.fromkeys(records, of_truth(truth, names)), records, pd.Series(1.0, index=truth.var_names))
    ranked = table.groupby("method")[["rank_by_effect", "rank_by_signature", "agreement"]].count()
    assert (ranked.loc[[*random]] == 0).all(axis=None)
    assert (ranked.loc[[*trained]] == 4).all(axis=None)
    assert table["effect"].notna().all()


def test_rounding_ranks_no_perturbation_and_agrees_with_nobody(experiment):
    _, truth, _ = experiment
    names = [name for name in truth.obs_names if name != "control"][:4]
    found = {"oracle": of_truth(truth, names)}
    noise = np.random.default_rng(0).normal(0, 1e-7, len(found["oracle"]))
    found["control-mean"] = found["oracle"].assign(change=noise)
    table = rank(found, dict.fromkeys(found, record_for(names, names)))
    assert table.loc[table["method"] == "control-mean", "rank_by_effect"].tolist() == [1] * 4
    assert table["agreement"].isna().all()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("gene\nA\n", "columns: found gene"),
        ("gene\tdirection\nA\tleft\n", "line 2, direction: found 'left'"),
        ("gene\tdirection\nA\tup\nA\tdown\n", "gene 'A': found two lines"),
    ],
)
def test_a_signature_that_cannot_be_read_is_refused(tmp_path, text, found):
    with pytest.raises(InputError, match=found):
        read_signature(write(tmp_path, text, "signature.tsv"))


def test_a_signature_without_a_measured_gene_is_refused(experiment):
    _, truth, _ = experiment
    names = [name for name in truth.obs_names if name != "control"][:2]
    with pytest.raises(InputError, match="1 genes, none of them measured"):
        rank({"one": of_truth(truth, names)}, {"one": record_for(names, names)}, pd.Series([1.0], index=["OTHER"]))


def test_a_target_of_the_signature_does_not_count_for_its_own_perturbation():
    """A and B do the same to the signature; A is one of its genes, and goes the other way in its own cells."""
    changes = pd.DataFrame([[-2.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, -2.0]], ["A", "B"], ["A", "X", "Y", "B"])
    found = changes.rename_axis("perturbation").reset_index().melt("perturbation", var_name="gene", value_name="change")
    found = found.sort_values(["perturbation", "gene"]).assign(context="all", spread=np.nan)
    table = rank({"one": found}, {"one": record_for(["A", "B"], ["A", "B"])}, pd.Series(1.0, ["A", "X", "Y"]))
    assert table.set_index("perturbation")["signature"].to_dict() == pytest.approx({"A": 1, "B": 1})
