"""DE ranks find the genes that were changed."""

import anndata
import numpy as np
import pandas as pd
from scipy import sparse, stats

from scgpt_bench.evaluation.differential_expression import de_ranks
from scgpt_bench.evaluation.pseudobulk import truth


def experiment():
    """Cells of two types far apart; P changes genes 3 and 7 in type a only, Q gene 5 in both types."""
    random = np.random.default_rng(1)
    labels = np.repeat(["control", "control", "P", "Q", "Q"], 60)
    types = np.repeat(["a", "b", "a", "a", "b"], 60)
    X = random.gamma(3.0, 0.3, (300, 20)) + np.where(types == "b", 2.0, 0.0)[:, None]
    X[labels == "P", 3] += 1.5
    X[labels == "P", 7] += 0.8
    X[labels == "Q", 5] += 1.5
    obs = pd.DataFrame({"perturbation": labels, "cell_type": types}, index=[f"cell{i}" for i in range(300)])
    var = pd.DataFrame(index=[f"G{i}" for i in range(20)])
    cells = anndata.AnnData(sparse.csr_matrix(X.astype(np.float32)), obs=obs, var=var)
    return cells, pd.DataFrame({"perturbation": ["P", "Q", "Q"], "role": ["test", "test", "train"]})


def test_ranks_are_those_of_a_wilcoxon_test_against_controls_of_the_same_cell_types():
    cells, split = experiment()
    ranks = de_ranks(cells, truth(cells, split))
    assert (ranks[0, 3], ranks[0, 7], ranks[1, 5]) == (0, 1, 0)
    assert (np.sort(ranks, axis=1) == np.arange(20)).all()
    dense, obs = cells.X.toarray(), cells.obs
    of_a = (obs["cell_type"] == "a").to_numpy()
    perturbed, control = (dense[of_a & (obs["perturbation"] == name).to_numpy()] for name in ("P", "control"))
    p_values = stats.mannwhitneyu(perturbed, control, method="asymptotic").pvalue
    assert np.argsort(ranks[0])[:5].tolist() == np.argsort(p_values)[:5].tolist()
