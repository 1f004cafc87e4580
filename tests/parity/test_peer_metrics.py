"""Equality with the official scorer and with scGPT, per perturbation, on random and on real cells."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from cell_eval._types import PerturbationAnndataPair
from cell_eval.metrics import _anndata as cell_eval
from scipy import sparse

from made_up import measure
from scgpt_bench.data.catalogue import read_datasets
from scgpt_bench.data.harmonize import harmonize
from scgpt_bench.data.names import CONTROL
from scgpt_bench.data.readers import read
from scgpt_bench.evaluation.metrics import score
from scgpt_bench.evaluation.pseudobulk import pseudobulk, truth

PEERS = {
    "pearson_delta": cell_eval.pearson_delta,
    "mse": cell_eval.mse,
    "mae": cell_eval.mae,
    "discrimination_l1": cell_eval.discrimination_score,
}


def random_cells(genes=40, perturbations=12):
    """Cells of perturbations named after measured genes, so that their targets are left out where that matters."""
    random = np.random.default_rng(1)
    names = [f"G{i}" for i in range(genes)]
    labels = np.repeat([CONTROL, *names[:perturbations]], 50)
    means = random.exponential(size=(perturbations + 1, genes))[np.repeat(np.arange(perturbations + 1), 50)]
    X = sparse.csr_matrix(np.log1p(random.poisson(means)).astype(np.float32))
    obs = pd.DataFrame({"perturbation": labels, "cell_type": "T"}, index=[f"cell{i}" for i in range(len(labels))])
    return anndata.AnnData(X, obs=obs, var=pd.DataFrame(index=names))


def papalexi_cells(path):
    dataset = read_datasets(Path(__file__).parents[2] / "config" / "datasets.tsv")["papalexi_2021"]
    return harmonize(read(path, dataset), dataset, minimum_cells=10, source=path)


@pytest.fixture(params=["random", "papalexi_2021"])
def cells(request):
    if request.param == "random":
        return random_cells()
    return papalexi_cells(request.getfixturevalue("papalexi_file"))


@pytest.fixture
def evaluated(cells):
    """Measured cells, noisy predictions of all but one perturbation, and our table of metrics."""
    perturbations = sorted(set(cells.obs["perturbation"]) - {CONTROL})
    roles = ["train", *["test"] * (len(perturbations) - 1)]
    answer = truth(measure(cells), pd.DataFrame({"perturbation": perturbations, "role": roles}))
    # The tools subtract the mean of all control cells: given it, the definitions are the same.
    control = cells[(cells.obs["perturbation"] == CONTROL).to_numpy()].X
    answer.layers["reference_input"][:] = control.astype(np.float64).mean(axis=0)
    random = np.random.default_rng(2)
    noisy = answer.X * 0.7 + answer.X.mean(axis=0) * 0.3 + random.normal(0, 0.02, answer.shape)
    X = np.repeat(noisy, 5, axis=0) + random.normal(0, 0.1, (5 * answer.n_obs, answer.n_vars))
    columns = {"perturbation": np.repeat(answer.obs_names, 5), "weight": 1.0}
    obs = pd.DataFrame(columns, index=[str(i) for i in range(len(X))])
    predictions = anndata.AnnData(X.astype(np.float32), obs=obs, var=pd.DataFrame(index=cells.var_names))
    return cells, predictions, score(pseudobulk(predictions), answer)


def test_metrics_equal_cell_eval(evaluated):
    cells, predictions, ours = evaluated
    tested = sorted(set(predictions.obs["perturbation"]))
    control = cells[(cells.obs["perturbation"] == CONTROL).to_numpy()]
    measured = cells[cells.obs["perturbation"].isin([CONTROL, *tested]).to_numpy()]
    both = anndata.concat([_dense(predictions), _dense(control)])
    pair = PerturbationAnndataPair(real=_dense(measured), pred=both, pert_col="perturbation", control_pert=CONTROL)
    for metric, peer in PEERS.items():
        theirs = pd.Series(peer(pair)).loc[tested]
        values = ours[ours["metric"] == metric].set_index("perturbation")["value"].loc[tested]
        np.testing.assert_allclose(values, theirs, atol=1e-6, err_msg=metric)


def _dense(adata):
    X = adata.X.toarray() if sparse.issparse(adata.X) else adata.X
    return anndata.AnnData(X, obs=adata.obs[["perturbation"]].astype(str), var=adata.var[[]])


def test_pearson_delta_equals_scgpt(evaluated):
    from scgpt.utils import compute_perturbation_metrics

    cells, predictions, ours = evaluated
    control = cells[(cells.obs["perturbation"] == CONTROL).to_numpy()]
    control = anndata.AnnData(control.X.toarray().astype(np.float64), var=control.var[[]])
    tested = sorted(set(predictions.obs["perturbation"]))
    # Its table of DE genes only feeds metrics that are not compared; it takes every condition from here.
    control.uns["rank_genes_groups_cov_all"] = {f"T_{name}_1": list(cells.var_names[:20]) for name in tested}
    for name in tested:
        measured = cells[(cells.obs["perturbation"] == name).to_numpy()].X.toarray().astype(np.float64)
        predicted = predictions[(predictions.obs["perturbation"] == name).to_numpy()].X.astype(np.float64)
        rows = len(measured)
        results = {  # it wants as many predicted as measured cells, and averages them: the means themselves, repeated
            "pert_cat": np.full(rows, name),
            "truth": np.broadcast_to(measured.mean(axis=0), (rows, cells.n_vars)),
            "pred": np.broadcast_to(predicted.mean(axis=0), (rows, cells.n_vars)),
        }
        theirs = compute_perturbation_metrics(results, control)
        for metric in ("pearson", "pearson_delta"):
            value = ours[(ours["metric"] == metric) & (ours["perturbation"] == name)]["value"].item()
            assert value == pytest.approx(theirs[metric], abs=1e-6)
