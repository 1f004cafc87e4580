"""What jobs ask for follows from the size of their data, by one table; and a plan adds it up before a run starts."""

import json

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import sparse

from scgpt_bench import configuration, plan, resources
from scgpt_bench.errors import InputError
from scgpt_bench.sizes import Network, Shape, Sizes

HEADER = "\t".join(resources.COLUMNS)
ROWS = [
    "harmonize\tmemory_mb\t100\t0.5\tmillion_values\tmeasured",
    "harmonize\tmemory_mb\t50\t2\tthousand_cells\tmeasured",
    "harmonize\tminutes\t1\t0.1\tmillion_values\tmeasured",
    "finetune\tmemory_mb\t1000\t\t\tmeasured",
    "finetune\tmemory_mb_of_gpu\t4000\t\t\tassumed",
    "finetune\tminutes\t1\t100\ttraining_pflop\tmeasured",
    "finetune\tgpu_minutes\t2\t1\ttraining_pflop\tcomputed",
    "finetune\tdisk_mb\t205\t\t\tcomputed",
]
STUDY = {
    "study": "sizes",
    "datasets": ["replogle_k562_essential", "replogle_rpe1_essential"],
    "harmonize": {"maximum_genes": 5000},
    "splits": {"folds": 4, "run": [0], "training_sizes": [20]},
    "hardware": {"gpu": 0, "threads": 2},
    "checkpoints": {"untrained": {"source": "random", "embsize": 64, "nlayers": 2, "d_hid": 64, "nheads": 4}},
    "methods": {"ridge": {}, "scgpt-finetuned": {"checkpoint": "untrained", "seeds": [0]}},
}
FINETUNING = {"dataset": "replogle_k562_essential", "split": "fold0", "method": "scgpt-finetuned", "seed": "0"}


def sizes(**changed):
    run = configuration.validate({**STUDY, **changed}, "study.yaml")
    return Sizes(run, {"fold0-train20": ("fold0", 20)}, {f"predicted-{name}": name for name in run.config["predict"]})


@pytest.fixture
def table(tmp_path):
    """Write a table of resources; the path of it."""

    def write(*rows, header=HEADER):
        path = tmp_path / f"resources{len(list(tmp_path.iterdir()))}.tsv"
        path.write_text("\n".join([header, *rows]) + "\n")
        return path

    return write


def test_rows_of_a_quantity_add_up_and_jobs_ask_for_more_than_is_expected(table):
    needs = resources.read(table(*ROWS))["harmonize"]
    chosen = sizes()
    job = {"dataset": "replogle_k562_essential"}
    genes = 5000 + 2057
    values = 310385 * 0.35 * genes / 1e6
    assert chosen.of_job("million_values", job) == pytest.approx(values)
    memory = 100 + 0.5 * values + 50 + 2 * 310.385
    assert needs.expected("memory_mb", chosen, job) == pytest.approx(memory)
    assert 0 <= needs.memory_mb(chosen, job) - (300 + 1.5 * memory) < 100
    assert needs.runtime(chosen, job) == pytest.approx(4 * (1 + 0.1 * values), abs=1)
    assert needs.expected("disk_mb", chosen, job) == 0


def test_threads_and_gpus_share_what_grows_and_each_gpu_has_memory_of_its_own(table):
    needs, chosen = resources.read(table(*ROWS))["finetune"], sizes()
    operations = chosen.of_job("training_pflop", FINETUNING)
    assert needs.minutes(chosen, FINETUNING, threads=4) == pytest.approx(1 + 100 * operations / 4)
    assert needs.minutes(chosen, FINETUNING, threads=4, gpus=2) == pytest.approx(2 + operations / 2)
    assert needs.memory_mb(chosen, FINETUNING, gpus=2) == 300 + 1.5 * 9000


@pytest.mark.parametrize(("minutes", "asked"), [(1, 10), (100, 400), (500, 1440), (1000, 1500)])
def test_a_job_asks_for_four_times_its_minutes_up_to_a_day_and_then_for_less(table, minutes, asked):
    rows = ["split\tmemory_mb\t1\t\t\tmeasured", f"split\tminutes\t{minutes}\t\t\tmeasured"]
    assert resources.read(table(*rows))["split"].runtime(sizes(), {}) == asked


def test_a_fine_tuning_grows_with_cells_epochs_and_the_network(table):
    cells = 0.75 * 0.85 * 310385  # of training: without the tested fold and validation
    flop_of_cell = Network(64, 2, 64).flop(1536, 1536)
    assert flop_of_cell == 2 * 1536 * (2 * 6 * 64**2 + 4 * 64 * 1536)
    validated = 2057 * 0.15 * 64 * Network(64, 2, 64).flop(7057, 7057)
    expected = 15 * (3 * cells * flop_of_cell + validated)
    assert sizes().of_job("training_pflop", FINETUNING) == pytest.approx(expected / 1e15)
    of_subset = sizes().of_job("training_pflop", {**FINETUNING, "split": "fold0-train20"})
    assert of_subset < sizes().of_job("training_pflop", FINETUNING)


def test_sizes_come_from_the_row_its_bytes_or_the_file_and_what_is_assumed_is_called_so(tmp_path):
    run = sizes(datasets=["jiang_2025", "replogle_k562_rpe1", "wessels_2023"]).run
    chosen = Sizes(run, {}, {})
    assert chosen.shape("replogle_k562_essential").known_from == "its row"
    assert chosen.shape("jiang_2025").known_from == "bytes of its row"
    assert chosen.shape("jiang_2025").cells * chosen.shape("jiang_2025").values * 2 == pytest.approx(
        15232554616, rel=1e-3
    )
    assert chosen.shape("wessels_2023").known_from == "nothing: assumed"
    joined = chosen.shape("replogle_k562_rpe1")
    assert (joined.cells, joined.genes, joined.perturbations) == (310385 + 247914, 8563, 2393)


def test_what_a_row_leaves_out_is_read_off_the_header_of_its_file(tmp_path):
    obs = pd.DataFrame({"gene": pd.Categorical(["NT", *"AABBCC"])}, index=list("abcdefg"))
    cells = anndata.AnnData(sparse.csr_matrix(np.eye(7, 11)), obs=obs)
    path, table = tmp_path / "cells.h5ad", tmp_path / "datasets.tsv"
    cells.write_h5ad(path)
    row = {
        "name": "mine", "address": str(path), "sha256": "unknown", "format": "h5ad", "values": "counts",
        "target_sum": "100", "perturbation_column": "gene", "control_label": "NT", "perturbation_kind": "interference",
    }  # fmt: skip

    def shape(**changed):
        changed = row | changed
        table.write_text("\n".join("\t".join(cells) for cells in (changed, changed.values())))
        return sizes(datasets=["mine"], dataset_table=str(table)).shape("mine")

    assert shape() == Shape(7, 11, 3, 1.0, "its file")
    assert shape(perturbations="2").perturbations == 2
    assert shape(cells="500", genes="30", perturbations="5").known_from == "its row"
    assert shape(perturbation_column="no such column").known_from == "size of its file"  # the job says what is wrong
    with h5py.File(path, "a") as file:  # as nullable labels are written
        categories = file["obs/gene/categories"][:]
        del file["obs/gene/categories"]
        file["obs/gene/categories/values"] = categories
    assert shape() == Shape(7, 11, 1, 1.0, "its file")
    path.write_bytes(b"no h5ad")
    assert shape().known_from == "size of its file"


def test_weights_are_those_of_the_vocabulary_or_of_the_genes_that_a_model_was_trained_on():
    layers = 2 * (4 * 64**2 + 2 * 64 * 64)
    untrained = sizes().of_job("million_weights", {"checkpoint": "untrained"})
    assert untrained == pytest.approx((64 * 60697 + layers) / 1e6)
    finetuned = sizes().of_job("million_weights", FINETUNING)
    assert finetuned == pytest.approx((64 * 7057 + layers) / 1e6)


def test_the_shards_of_a_prediction_share_it():
    prediction = {"dataset": "replogle_k562_essential", "split": "fold0", "method": "scgpt-finetuned"}
    whole = sizes().of_job("prediction_pflop", prediction)
    shard = sizes().of_job("prediction_pflop", {**prediction, "scatteritem": "2-of-4"})
    assert shard == pytest.approx(whole / 4)


def test_the_tested_conditions_of_a_split_decide_what_is_predicted():
    chosen = sizes(predict={"next": {"dataset": "replogle_k562_essential", "targets_of": "replogle_rpe1_essential"}})
    fold = chosen.of_job("million_predicted", FINETUNING)
    assert fold == pytest.approx(2057 / 4 * 100 * 7057 / 1e6)
    predicted = chosen.of_job("million_predicted", {"prediction": "next", "method": "ridge"})
    assert predicted == pytest.approx(2393 * 100 * 7057 / 1e6)


@pytest.mark.parametrize(
    ("rows", "header", "said"),
    [
        ([], "rule\tquantity", "line 1: found rule quantity; expected the columns rule quantity base"),
        (["harmonize\tmemory_mb\t1"], HEADER, "line 2: found 3 cells; expected 6, tabs between"),
        (["harmonize\tmemory\t1\t\t\tx"], HEADER, "column 'quantity': found 'memory'; expected one of memory_mb"),
        (["harmonize\tminutes\tone\t\t\tx"], HEADER, "column 'base': found 'one'; expected a number from 0"),
        (["harmonize\tminutes\t\t\t\tx"], HEADER, "column 'base': found ''; expected a number from 0"),
        (["harmonize\tminutes\t1\t-1\tgigabytes\tx"], HEADER, "column 'per_unit': found '-1'; expected a number"),
        (["harmonize\tminutes\t1\t1\tgenes\tx"], HEADER, "column 'unit': found 'genes'; expected nothing, or one of"),
        (["harmonize\tminutes\t1\t1\t\tx"], HEADER, "column 'unit': found ''; expected a unit where per_unit"),
        (["harmonize\tminutes\t1\t\t\t"], HEADER, "column 'source': found an empty cell"),
        ([ROWS[0], ROWS[0]], HEADER, "line 3 (harmonize), column 'unit': found 'million_values' a second time"),
        ([ROWS[0]], HEADER, "rule 'harmonize': found no row of minutes; expected one"),
    ],
)
def test_a_fault_in_the_table_is_one_clear_line(table, rows, header, said):
    with pytest.raises(InputError) as error:
        resources.read(table(*rows, header=header))
    assert said in str(error.value)


def test_a_rule_without_rows_is_refused(table):
    path = table(*ROWS)
    with pytest.raises(InputError, match="rule 'split': found no row of memory_mb"):
        resources.of_rule(resources.read(path), "split", path)


def jobs(needs):
    shared = {"dataset": "replogle_k562_essential"}
    return [
        plan.Job(needs["harmonize"], shared, 1, 0, 3000),
        plan.Job(needs["finetune"], FINETUNING, 2, 0, 1500),
    ]


def test_a_plan_adds_up_its_jobs_by_method(table):
    needs, chosen = resources.read(table(*ROWS)), sizes()
    text = plan.text(jobs(needs), chosen, "resources.tsv", {})
    lines = {line.split("  ")[1]: line.split() for line in text.splitlines() if line.startswith("  ")}
    training = (1 + 100 * chosen.of_job("training_pflop", FINETUNING) / 2) / 60 * 2
    harmonizing = (1 + 0.1 * chosen.of_job("million_values", FINETUNING)) / 60
    assert lines["jobs"][-1] == "2"
    assert lines["core hours"][-1] == f"{training + harmonizing:,.0f}"
    assert lines["scgpt-finetuned"] == ["scgpt-finetuned", "1", f"{training:,.0f}", "0"]
    assert lines["largest memory"][2:] == ["3.0", "GB,", "asked", "for", "by", "harmonize"]
    assert lines["disk"][1:] == ["205", "MB"]
    assert lines["replogle_rpe1_essential"][1:4] == ["247,914", "8,749", "2,393"]
    assert "All numbers are estimates (resources.tsv; no training was measured here)" in text


def test_a_plan_takes_the_speed_of_this_machine_from_trainings_of_the_same_size(table, tmp_path):
    needs, chosen = resources.read(table(*ROWS)), sizes()
    folder = tmp_path / "results" / "earlier" / "drop" / "fold0" / "scgpt-finetuned" / "0" / "model"
    folder.mkdir(parents=True)
    study = tmp_path / "results" / "earlier" / "configuration.yaml"
    study.write_text(yaml.safe_dump(chosen.config))
    (folder / "history.tsv").write_text("cells_per_second\ttokens_per_second\n10\t1000\n20\t2000\n30\t3000\n")
    report = {"device": "cpu", "processes": 1}
    (folder / "report.json").write_text(json.dumps(report))
    network = Network(64, 2, 64)
    measured = plan.rates(tmp_path / "results")
    assert measured == {(network, False): pytest.approx(3 * network.flop(2000, 100) / 2)}
    training = jobs(needs)[1]
    assert plan.slower(training, chosen, measured) == pytest.approx(1e15 / measured[network, False] / 60 / 100)
    assert "this machine's own" in plan.text(jobs(needs), chosen, "resources.tsv", measured)
    assert plan.slower(jobs(needs)[0], chosen, measured) == 1
    published = {**chosen.config, "checkpoints": {"small": {"source": "catalogue"}}}
    published["methods"] = {"scgpt-finetuned": {**chosen.config["methods"]["scgpt-finetuned"], "checkpoint": "small"}}
    study.write_text(yaml.safe_dump(published))
    assert {*plan.rates(tmp_path / "results")} == {(Network(512, 12, 512), False)}
    (folder / "report.json").write_text(json.dumps({**report, "device": "cuda"}))
    assert plan.slower(training, chosen, plan.rates(tmp_path / "results")) == 1
    study.write_text("{")
    assert plan.rates(tmp_path / "results") == {}


def test_a_training_without_a_speed_leaves_out_no_other(tmp_path):
    of_study, speed = tmp_path / "results" / "earlier", "cells_per_second\ttokens_per_second\n10\t1000\n"
    trainings = {
        "fold0-train20": ({"nothing_to_train_on": "no token"}, "epoch\tseconds\n"),
        "fold1": ({"device": "cpu", "processes": 1}, speed),
    }
    for split, (report, history) in trainings.items():
        folder = of_study / "drop" / split / "scgpt-finetuned" / "0" / "model"
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps(report))
        (folder / "history.tsv").write_text(history)
    (of_study / "configuration.yaml").write_text(yaml.safe_dump(sizes().config))
    assert {*plan.rates(tmp_path / "results")} == {(Network(64, 2, 64), False)}
