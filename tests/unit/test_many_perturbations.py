"""Any number of perturbations fits into every file: 5,000 in one split, with names of realistic length."""

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from made_up import measure
from predicted import whole, with_rows, write_whole
from scgpt_bench import predictions
from scgpt_bench.data import controls, splits
from scgpt_bench.data.catalogue import Dataset
from scgpt_bench.data.conditions import Condition, controls_of, listed
from scgpt_bench.data.halves import INPUT
from scgpt_bench.data.harmonize import write_harmonized
from scgpt_bench.data.means import cells_of
from scgpt_bench.data.on_disk import open_h5ad
from scgpt_bench.data.readers import read
from scgpt_bench.data.references import references
from scgpt_bench.evaluation import cell_metrics, metrics, pseudobulk
from scgpt_bench.files import read_h5ad, write_h5ad, write_table
from scgpt_bench.methods import baselines, benchmark_controls, imported
from scgpt_bench.scgpt import checkpoint, generation, prediction, vocabulary

N = 5000
GENES = [f"G{number}" for number in range(12)]
NAMES = [f"ENSG{number:011d}" if number % 2 else f"HNRNPA2B{number}_ENST{number:011d}" for number in range(N)]
ROW = Dataset(
    name="drop", address="drop", format="h5ad", values="counts", target_sum=36.0, perturbation_column="gene",
    control_label="NT", perturbation_kind="interference",
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """cells.h5ad, split.tsv and controls.h5ad, as the workflow writes them."""
    folder = tmp_path_factory.mktemp("many")
    labels = np.array(["NT"] * 60 + [name for name in [*NAMES, *GENES] for _ in range(2)])
    X = sparse.csr_matrix(np.random.default_rng(0).poisson(3, (len(labels), 12)).astype(np.float32))
    obs = pd.DataFrame({"gene": labels}, index=[f"cell{number}" for number in range(len(labels))])
    anndata.AnnData(X, obs=obs, var=pd.DataFrame(index=GENES)).write_h5ad(folder / "drop.h5ad")
    write_harmonized(read(folder / "drop.h5ad", ROW), ROW, folder / "cells.h5ad", minimum_cells=2)
    cells = open_h5ad(folder / "cells.h5ad")
    roles = pd.DataFrame({"perturbation": [*NAMES, *GENES], "role": ["test"] * N + ["train"] * 9 + ["validation"] * 3})
    write_table(roles, folder / "fixed.tsv")
    split = splits.read_split_file(folder / "fixed.tsv", cells.obs)
    write_table(split, folder / "split.tsv")
    # Drawn in turn: drawing as the workflow does takes a minute for so many, and their names are what matters here.
    pool = cells.obs_names[cells.obs["perturbation"] == "control"]
    columns = {"perturbation": np.repeat(sorted(NAMES), 2), "control_cell": np.resize(pool, 2 * N)}
    draw = pd.DataFrame(
        {**columns, "batch": "all", "cell_type": "all", "context": "all", "direction": "down", "weight": 1.0}
    )
    write_h5ad(controls.control_cells(cells, draw), folder / "controls.h5ad")
    return folder, split


@pytest.fixture(scope="module")
def measured(files):
    """truth.h5ad"""
    folder, split = files
    cells = open_h5ad(folder / "cells.h5ad")
    truth = pseudobulk.truth(measure(cells), split)
    of_truth = cells_of(cells, [*controls_of(cells.obs), *listed(truth.obs)], "truth")
    for layer in ("de_rank", "de_rank_half_b"):  # ranking takes a minute, and gives an array of this form
        truth.layers[layer] = np.tile(np.arange(12, dtype=np.int32), (N, 1))
    cell_metrics.add_cell_space(truth, of_truth, read_h5ad(folder / "controls.h5ad"))
    write_h5ad(truth, folder / "truth.h5ad")
    return read_h5ad(folder / "truth.h5ad")


def test_controls_keep_the_mean_that_each_is_compared_with(files):
    folder, _ = files
    drawn = read_h5ad(folder / "controls.h5ad")
    assert drawn.n_obs == 2 * N
    means = controls.control_means_of(drawn)
    assert [condition.perturbation for condition in means] == sorted(NAMES)
    expected = references(open_h5ad(folder / "cells.h5ad"), [*means], INPUT)
    np.testing.assert_array_equal([*means.values()], expected)


def scored(folder, split, truth, predicted):
    """Through predictions.h5ad and pseudobulk.h5ad to metrics."""
    drawn = read_h5ad(folder / "controls.h5ad")
    write_whole(folder / "predictions.h5ad", predicted, drawn.obs, drawn.var_names)
    read_back = predictions.read_predictions(folder / "predictions.h5ad", truth.var_names, split)
    write_h5ad(pseudobulk.pseudobulk(read_back), folder / "pseudobulk.h5ad")
    means = read_h5ad(folder / "pseudobulk.h5ad")
    table = metrics.score(means, truth)
    assert set(table["perturbation"]) == set(NAMES)


def test_truth_predictions_and_their_means_are_written_and_scored(files, measured):
    folder, split = files
    assert list(measured.obs_names) == sorted(NAMES)
    drawn = read_h5ad(folder / "controls.h5ad")
    predicted, _ = whole(baselines.predict, open_h5ad(folder / "cells.h5ad"), split, drawn, baselines.train_mean)
    scored(folder, split, measured, predicted)


def test_benchmark_controls_and_predictions_of_others(files, measured):
    folder, _ = files
    drawn, cells = read_h5ad(folder / "controls.h5ad"), open_h5ad(folder / "cells.h5ad")
    known = benchmark_controls.Known(cells, drawn, measured)
    for control in (benchmark_controls.shuffled, benchmark_controls.technical_duplicate):
        predicted, _ = whole(control, known, 0)
        write_whole(folder / "known.h5ad", predicted, drawn.obs, drawn.var_names)
    obs = pd.DataFrame({"perturbation": NAMES}, index=NAMES)
    means = controls.control_means_of(drawn)
    unchanged = np.stack([means[Condition(name)] for name in NAMES]).astype(np.float32)
    anndata.AnnData(unchanged, obs=obs, var=pd.DataFrame(index=GENES)).write_h5ad(folder / "others.h5ad")
    labels = Dataset(**{**ROW.row, "perturbation_column": "perturbation", "control_label": "control"})
    missing = {"missing_perturbations": "refuse", "missing_genes": "refuse"}
    X, obs, _ = with_rows(imported.import_predictions, folder / "others.h5ad", labels, drawn, **missing)
    write_whole(folder / "imported.h5ad", X, obs, drawn.var_names)
    assert set(read_h5ad(folder / "imported.h5ad").obs["perturbation"]) == set(NAMES)


def test_scgpt_names_every_perturbation_that_it_cannot_ask_about(files, measured):
    folder, split = files
    tokens = {name: position for position, name in enumerate([*GENES, "<pad>", "<cls>", "<eoc>"])}
    checkpoint.initialize(folder / "tiny", {"embsize": 8, "nlayers": 1, "nheads": 2, "d_hid": 6}, tokens, seed=1)
    drawn = read_h5ad(folder / "controls.h5ad")
    alignment = vocabulary.align(drawn.var_names, vocabulary.read_vocabulary(folder / "tiny" / "vocab.json"))
    options = generation.PromptOptions(draws=2)
    predicted, method = whole(prediction.prompted, drawn, alignment, folder / "tiny", options, seed=0)
    scored(folder, split, measured, predicted)
    assert len(method["fallbacks"]) == N
