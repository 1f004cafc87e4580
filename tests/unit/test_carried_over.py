"""How far measured changes carry over: the planted correlation comes out, whatever the noise."""

import anndata
import numpy as np
import pandas as pd
import pytest

from made_up import halved
from scgpt_bench.evaluation.transfer import CHANGE, COLUMNS, SPECIFIC, changes, transfer

GENES = [f"G{number}" for number in range(150)]
NAMES = GENES[:24]


def cells(common=0.0, carried=0.7, n_cells=(40, 60), directions=("down", "down"), seed=3):
    """Two lines. Changes have a part that all perturbations share, and one of their own, ``carried`` between lines."""
    random, parts = np.random.default_rng(seed), []
    shared = common * random.normal(size=len(GENES))
    own = random.normal(size=(len(NAMES), len(GENES)))
    for line, number, direction in zip(("A", "B"), n_cells, directions, strict=True):
        here = random.normal(size=own.shape)
        effects = 0.3 * (shared + np.sqrt(carried) * own + np.sqrt(1 - carried) * here)
        names = np.repeat(["control", *NAMES], [600, *[number] * len(NAMES)])
        means = np.vstack([np.zeros((600, len(GENES))), np.repeat(effects, number, axis=0)])
        obs = pd.DataFrame({"perturbation": names, "context": line, "batch": "all", "cell_type": "all"})
        obs["direction"] = np.where(names == "control", "none", direction)
        parts.append(anndata.AnnData((3 + means + random.normal(size=means.shape)).astype(np.float32), obs=obs))
    joined = anndata.concat(parts, index_unique="-")
    joined.obs_names = [f"cell{number}" for number in range(joined.n_obs)]
    joined.var_names = GENES
    return halved(joined)


def medians(made, minimum=0.2):
    table = transfer(changes(made), minimum)
    assert list(table.columns) == COLUMNS
    return table.groupby("what")[["correlation", "corrected"]].median()


def test_what_carries_over_comes_out_free_of_noise():
    found = medians(cells())
    assert found.loc[CHANGE, "correlation"] < 0.62
    assert found.loc[CHANGE, "corrected"] == pytest.approx(0.7, abs=0.06)
    assert found.loc[SPECIFIC, "corrected"] == pytest.approx(0.7, abs=0.06)


def test_a_common_response_carries_over_though_nothing_specific_does():
    found = medians(cells(common=2.0, carried=0.0))
    assert found.loc[CHANGE, "corrected"] > 0.7
    assert abs(found.loc[SPECIFIC, "corrected"]) < 0.1


def test_a_noisy_change_is_not_corrected_and_says_why():
    table = transfer(changes(cells(n_cells=(40, 2))), 0.3)
    assert table["corrected"].isna().all()
    assert set(table["reason"]) == {"halves correlate by less than 0.3 in one of the contexts"}


def test_up_in_one_context_and_down_in_the_other_is_not_expected_to_carry_over():
    table = transfer(changes(cells(directions=("up", "down"))), 0.2)
    assert table["corrected"].isna().all()
    assert set(table["reason"]) == {"up in one context, down in the other"}


def test_targets_do_not_count():
    made = cells(carried=0.0)
    column = made.var_names.get_loc("G0")
    of_target = (made.obs["perturbation"] == "G0").to_numpy()
    made.X[np.flatnonzero(of_target), column] += 50
    row = transfer(changes(made), 0.2).query("what == @CHANGE and perturbation == 'G0'")
    assert abs(row["correlation"].item()) < 0.3
