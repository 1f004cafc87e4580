"""The card says of planted data what was planted."""

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgpt_bench.data.blocks import BLOCKS, blocks_of_cells
from scgpt_bench.data.catalogue import Dataset
from scgpt_bench.data.conditions import conditions_of
from scgpt_bench.data.harmonize import harmonize
from scgpt_bench.data.means import condition_means
from scgpt_bench.data.on_disk import open_h5ad
from scgpt_bench.evaluation.data_card import data_card, family, leakage_notes, split_half, split_notes

GENES = [f"G{i}" for i in range(60)]
ROW = Dataset("drop", "drop.h5ad", "h5ad", "counts", 1000.0, "label", "control", "interference", batch_column="lane")
OPTIONS = {"dataset": "drop", "perturbation_kind": "interference", "minimum_reliability": 0.3}


def planted(n_cells=120, n_controls=600, seed=0, silent=("G1",), noise=0.3):
    """G0, G1, G2 and G3+G4; each lowers its targets by 1 and ten more genes by 0.5; silent ones do nothing."""
    generator = np.random.default_rng(seed)
    names = ["control", "G0", "G1", "G2", "G3+G4"]
    labels = np.repeat(names, [n_controls, *[n_cells] * 4])
    values = 2 + noise * generator.normal(size=(len(labels), 60))
    for number, name in enumerate(names[1:]):
        if name not in silent:
            values[labels == name, 10 + 10 * number : 20 + 10 * number] -= 0.5
            values[np.ix_(labels == name, [GENES.index(gene) for gene in name.split("+")])] -= 1
    obs = pd.DataFrame(
        {"perturbation": labels, "batch": np.where(np.arange(len(labels)) % 2, "b1", "b2"), "cell_type": "K562"},
        index=[f"c{i}" for i in range(len(labels))],
    )
    X = sparse.csr_matrix(np.maximum(values, 0).astype(np.float32))
    return anndata.AnnData(X, obs=obs.astype("category"), var=pd.DataFrame(index=GENES))


def card_of(cells, **options):
    card = data_card(cells, **{**OPTIONS, **options})
    return card, pd.DataFrame(card["conditions"]).set_index("perturbation")


def test_what_repeats_is_reliable_and_what_does_nothing_is_flagged():
    card, table = card_of(planted())
    assert list(table.index[table["reliable"]]) == ["G0", "G2", "G3+G4"]
    assert card["n_reliable"] == 3
    assert "1 of 4 perturbations (G1) of unreliable response" in card["problems"][0]
    assert (table["reliability_low"] <= table["reliability"]).all()
    assert (table["reliability"] <= table["reliability_high"]).all()
    assert table.loc["G1", "n_de_genes"] <= 1
    assert table.loc["G0", "n_de_genes"] in (11, 12)


def test_reliability_is_the_share_of_variance_between_genes_that_is_not_noise():
    """Halves of n/2 cells against halves of the controls: r = signal / (signal + noise of a half)."""
    values = [card_of(planted(seed=seed, n_cells=40))[1].loc["G0"] for seed in range(12)]
    effect = np.zeros(60)
    effect[10:20], effect[0] = -0.5, -1
    signal, noise = effect.var(), 0.09 * (1 / 20 + 1 / 300)
    expected = signal / (signal + noise)
    assert np.mean([value["reliability"] for value in values]) == pytest.approx(expected, abs=0.02)
    covered = [value["reliability_low"] <= expected <= value["reliability_high"] for value in values]
    assert np.mean(covered) >= 0.75


def test_noise_of_the_controls_is_not_taken_for_a_response():
    reliabilities = [card_of(planted(n_controls=40, seed=seed))[1].loc["G1", "reliability"] for seed in range(8)]
    assert abs(np.mean(reliabilities)) < 0.1


def test_targets_that_move_are_measured_and_those_that_were_not_measured_are_none():
    cells = planted()
    _, table = card_of(cells)
    control, perturbed = (np.expm1(cells[cells.obs["perturbation"] == name].X.toarray()) for name in ("control", "G0"))
    level = control[:, 0].mean()
    expected = np.log2((perturbed[:, 0].sum() + level) / (121 * level))
    assert table.loc["G0", "target_log_fold_change"] == pytest.approx(expected, rel=1e-5)
    assert set(table.loc["G3+G4", "targets"]) == {"G3", "G4"}
    assert all(change < -1 for change in table.loc["G3+G4", "targets"].values())
    _, table = card_of(cells[:, 1:].copy())
    assert table.loc["G0", "targets"] == {"G0": None}
    assert table.loc["G0", "target_log_fold_change"] is None or np.isnan(table.loc["G0", "target_log_fold_change"])


def test_a_target_that_goes_the_wrong_way_is_a_problem():
    assert any(
        "whose target goes down" in text for text in card_of(planted(), perturbation_kind="activation")[0]["problems"]
    )
    assert not any("goes up" in text for text in card_of(planted(silent=()))[0]["problems"])
    _, table = card_of(planted(), perturbation_kind="mixed")
    assert table["target_wrong_way"].isna().all()
    assert table.loc["G0", "unknown"]["target_wrong_way"] == "targets may go either way"


def counted(seed, per=30, n_control=100, rise=1.0, depth=1.0, dominant=0.0):
    """Six targets that do nothing but what is planted in G0: its own expression and its counts per cell."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(["control", *GENES[:6]], [n_control, *[per] * 6])
    mean = np.tile(generator.gamma(1, 1, size=60) + 0.02, (len(labels), 1))
    mean[:, 0] = 2
    mean[labels == "G0", 0] *= rise
    mean[:, 59] += dominant * mean.sum(axis=1) / (1 - dominant)
    size = generator.lognormal(0, 0.3, size=len(labels)) * np.where(labels == "G0", depth, 1)
    counts = generator.poisson(mean * generator.gamma(1, 1, size=mean.shape) * size[:, None]).astype(float)
    obs = {"label": labels, "lane": np.where(np.arange(len(labels)) % 2, "l1", "l2")}
    drop = anndata.AnnData(counts, obs=pd.DataFrame(obs), var=pd.DataFrame(index=GENES))
    return harmonize(drop, ROW, minimum_cells=2)


def test_a_target_that_rises_is_found_and_chance_is_not():
    """60 cells whose target is three times as high; 40 sets of six targets without effect, 30 cells each."""
    assert sum(card_of(counted(seed, per=60, rise=3))[1].loc["G0", "target_wrong_way"] for seed in range(10)) >= 9
    null = [card_of(counted(seed)) for seed in range(40)]
    assert sum(table["target_wrong_way"].any() for _, table in null) <= 2
    assert sum(table["counts_differ"].any() for _, table in null) <= 2
    assert any(change > 0 for _, table in null for change in table["target_log_fold_change"])


def test_a_knocked_out_transcript_may_rise():
    cells = counted(0, rise=3)
    knocked_out, _ = card_of(cells, perturbation_kind="knock-out")
    assert not any("goes up" in text for text in knocked_out["problems"])
    assert knocked_out["notes"][0].startswith("1 of 6 perturbations (G0) whose target goes up (one-sided Welch test")
    assert any("(G0) whose target goes up" in text for text in card_of(cells)[0]["problems"])
    assert not any("goes down" in text for text in card_of(cells, perturbation_kind="activation")[0]["problems"])


def test_counts_per_cell_that_differ_from_those_of_the_controls_are_named():
    card, table = card_of(counted(0, per=150, n_control=300, depth=0.64))
    assert table.loc["G0", "counts_ratio"] == pytest.approx(0.64, abs=0.08)
    assert list(table.index[table["counts_differ"]]) == ["G0"]
    assert (table["counts_ratio_low"] < table["counts_ratio"]).all()
    (problem,) = [text for text in card["problems"] if "counts per cell" in text]
    assert problem.startswith("1 of 6 perturbations (G0 x 0.6")
    assert "of composition" in problem
    assert not any("counts per cell" in text for text in card_of(counted(0, depth=0.9))[0]["problems"])


def test_counts_are_compared_within_batches():
    """Lane l2 is sequenced twice as deeply; G0 has no cell elsewhere."""
    cells = counted(0, per=150, n_control=300)
    cells.obs["batch"] = np.where(np.arange(cells.n_obs) % 2, "l1", "l2")
    cells.obs.loc[cells.obs["batch"] == "l2", "n_counts"] *= 2
    cells = cells[(cells.obs["perturbation"] != "G0") | (cells.obs["batch"] == "l2")].copy()
    _, table = card_of(cells)
    assert table.loc["G0", "counts_ratio"] == pytest.approx(1, abs=0.1)
    elsewhere = cells.obs["batch"].astype(str).mask(cells.obs["perturbation"] == "G0", "l3")
    cells.obs["batch"] = elsewhere
    _, table = card_of(cells)
    assert np.isnan(table.loc["G0", "counts_ratio"])
    assert table.loc["G0", "unknown"]["counts_differ"].startswith("0 cells in a batch with 3 controls")


def test_intervals_of_counts_hold_the_planted_ratio_for_all_perturbations_together():
    held = []
    for seed in range(40):
        table = card_of(counted(seed, depth=0.8))[1]
        true = pd.Series(1.0, table.index).where(table.index != "G0", 0.8)
        held.append(((table["counts_ratio_low"] <= true) & (true <= table["counts_ratio_high"])).all())
    assert np.mean(held) >= 0.9


def test_a_gene_with_much_of_all_counts_is_named_even_where_it_is_not_kept():
    cells = counted(0, dominant=0.44)
    card, _ = card_of(cells)
    (gene,) = card["dominant_genes"]
    assert (gene["gene"], gene["share"]) == ("G59", pytest.approx(0.44, abs=0.05))
    assert any(text.startswith("G59 has 4") for text in card["problems"])
    assert card_of(cells[:, :59].copy())[0]["dominant_genes"] == card["dominant_genes"]
    assert card_of(counted(0))[0]["dominant_genes"] == []


def test_without_counts_what_they_would_show_is_unknown():
    cells = counted(0)
    del cells.obs["n_counts"]
    cells.uns["harmonized"]["values"] = "log1p"
    _, table = card_of(cells)
    assert table["counts_differ"].isna().all()
    assert table.loc["G0", "unknown"]["counts_ratio"] == "the file holds log values, no counts"


def test_a_response_that_all_share_is_called_shared():
    cells = planted()
    X = cells.X.toarray()
    X[(cells.obs["perturbation"] != "control").to_numpy(), 50:] += 1
    cells.X = sparse.csr_matrix(X)
    assert card_of(cells)[0]["median_shared_response"] > 0.5
    assert abs(card_of(planted())[0]["median_shared_response"]) < 0.35


def test_perturbations_in_other_batches_than_the_controls_are_confounded():
    cells = planted()
    batch = cells.obs["batch"].astype(str)
    batch[cells.obs["perturbation"] == "G2"] = "b3"
    cells.obs["batch"] = batch.astype("category")
    card, table = card_of(cells)
    assert table.loc["G2", "batch_distance"] == 1
    assert table.loc["G0", "batch_distance"] == pytest.approx(0, abs=0.02)
    assert any("(G2) mostly in other batches" in text for text in card["problems"])


def mean_correlation_with_the_others(deltas, of_others):
    total = of_others.sum(axis=0)
    return np.mean([np.corrcoef(own, total - other)[0, 1] for own, other in zip(deltas, of_others, strict=True)])


def test_noise_of_the_control_mean_is_told_from_a_shared_response():
    """Against other control cells, as many as before, the deltas of perturbations share what the card says."""
    found, expected = [], []
    for seed in range(12):
        cells, again = planted(n_controls=60, seed=seed), planted(n_controls=60, seed=100 + seed)
        X = cells.X.toarray()
        X[(cells.obs["perturbation"] != "control").to_numpy(), 55:] += 0.2
        cells.X = sparse.csr_matrix(X)
        control = (cells.obs["perturbation"] == "control").to_numpy()
        deltas = condition_means(cells, conditions_of(cells.obs))[0] - X[control].mean(axis=0)
        disjoint = deltas + X[control].mean(axis=0) - again.X[control].mean(axis=0)
        noise = card_of(cells)[0]["shared_control_noise"]
        assert noise["same_controls"] == pytest.approx(mean_correlation_with_the_others(deltas, deltas), abs=1e-4)
        found.append(noise["disjoint_controls"])
        expected.append([mean_correlation_with_the_others(deltas, other) for other in (disjoint, deltas)])
    other_controls, same_controls = np.mean(expected, axis=0)
    assert np.mean(found) == pytest.approx(other_controls, abs=0.015)
    assert same_controls - other_controls > 0.05


def with_batch_effect(cells, size=0.5):
    """``size`` more of the last 30 genes in every cell of batch b1, where half of the controls are."""
    X = cells.X.toarray()
    X[np.ix_((cells.obs["batch"] == "b1").to_numpy(), np.arange(60) >= 30)] += size
    return anndata.AnnData(sparse.csr_matrix(X), obs=cells.obs, var=cells.var)


def test_a_difference_between_batches_that_counts_as_response_is_measured():
    """G2 has cells of b1 alone: half of the difference between batches, over 30 genes, is in its delta."""
    cells = planted(n_cells=240)
    cells = with_batch_effect(cells[(cells.obs["perturbation"] != "G2") | (cells.obs["batch"] == "b1")].copy())
    card, table = card_of(cells)
    control, own = (
        np.asarray(cells[(cells.obs["perturbation"] == name).to_numpy()].X.mean(axis=0)) for name in ("control", "G2")
    )
    length = np.linalg.norm(own - control)
    assert table.loc["G2", "batch_shift"] == pytest.approx(0.25 * np.sqrt(30) / length, rel=0.05)
    assert table.loc[["G0", "G1", "G3+G4"], "batch_shift"].max() < 0.05
    assert list(table.index[table["confounded"]]) == ["G2"]
    (problem,) = [text for text in card["problems"] if "between batches" in text]
    assert problem.startswith("1 of 4 perturbations (G2) whose response takes in a difference between batches")


def test_noise_of_the_controls_of_a_batch_is_no_shift():
    """Ten controls a batch, in which all is alike: the means of half of them make a squared shift of 0.2."""
    squares = []
    for seed in range(12):
        cells = planted(n_controls=40, silent=(), seed=seed)
        cells.obs["batch"] = [f"b{i % 4}" if i < 40 else "b1" for i in range(cells.n_obs)]
        squares.append(card_of(cells)[1]["batch_shift"].astype(float) ** 2)
    assert np.mean(squares) < 0.03


def test_what_differs_between_cell_types_is_no_difference_between_batches():
    cells = planted()
    cells = with_batch_effect(cells[(cells.obs["perturbation"] != "G2") | (cells.obs["batch"] == "b1")].copy())
    cells.obs["cell_type"] = cells.obs["batch"]
    assert card_of(cells)[1]["batch_shift"].tolist() == [0, 0, 0, 0]


def test_where_no_batch_has_two_controls_a_shift_is_unknown():
    cells = planted()
    batch = cells.obs["batch"].astype(str)
    batch[cells.obs["perturbation"] == "G2"] = "b3"
    batch.iloc[0] = "b3"  # a control cell
    cells.obs["batch"] = batch.astype("category")
    card = card_of(cells)[0]
    assert [entry["batch_shift"] is None for entry in card["conditions"]] == [False, False, True, False]
    assert not any(entry["confounded"] for entry in card["conditions"])


def test_the_card_is_the_same_from_disk_by_chunks_and_in_any_order(tmp_path, monkeypatch):
    cells = planted()
    expected = card_of(cells)[0]
    shuffled = cells[np.random.default_rng(0).permutation(cells.n_obs)].copy()
    shuffled.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.setattr("scgpt_bench.data.on_disk.row_chunks.__defaults__", (60 * 50, None))
    monkeypatch.setattr("scgpt_bench.evaluation.data_card.SUMS_AT_ONCE", 2 * BLOCKS * 60)  # two perturbations a pass
    found = data_card(open_h5ad(tmp_path / "cells.h5ad"), **OPTIONS)
    assert found.keys() == expected.keys()
    exact = ["perturbation", "n_cells", "n_de_genes", "reliable", "n_batches"]
    for one, other in zip(found["conditions"], expected["conditions"], strict=True):
        assert [one[key] for key in exact] == [other[key] for key in exact]
        for key in ("reliability", "reliability_low", "reliability_high", "shared_response", "target_log_fold_change"):
            assert one[key] == pytest.approx(other[key], rel=1e-6)
        assert one["batch_shift"] == pytest.approx(other["batch_shift"], abs=1e-6)
    assert found["shared_control_noise"] == pytest.approx(expected["shared_control_noise"], rel=1e-6)


def test_four_cells_have_a_reliability_with_a_wide_interval():
    _, table = card_of(planted(n_cells=4))
    assert ((table["reliability_high"] - table["reliability_low"]) > 0.25).all()


def test_blocks_depend_on_the_names_of_the_cells_alone():
    names = [f"c{i}" for i in range(25)]
    block = dict(zip(names, blocks_of_cells(names, "G0"), strict=True))
    assert dict(zip(names[::-1], blocks_of_cells(names[::-1], "G0"), strict=True)) == block
    assert sorted(np.bincount(list(block.values()))) == [2] * 5 + [3] * 5


def test_halves_are_compared_in_every_way():
    deltas = np.random.default_rng(0).normal(size=(4, 30))
    n_cells = np.array([3.0, 3.0, 2.0, 2.0])
    by_hand = []
    for first in ([0, 1], [0, 2], [0, 3]):
        second = [row for row in range(4) if row not in first]
        means = [np.average(deltas[half], axis=0, weights=n_cells[half]) for half in (first, second)]
        by_hand.append(np.corrcoef(*means)[0, 1])
    centred = deltas - deltas.mean(axis=1, keepdims=True)
    assert split_half(centred @ centred.T, n_cells) == pytest.approx(np.mean(by_hand))


def test_leakage_names_shared_genes_and_relatives():
    split = pd.DataFrame(
        {"perturbation": ["FOS", "STAT1", "FOS+JUN", "STAT3"], "role": ["train", "train", "test", "test"]}
    )
    notes = " ".join(leakage_notes({"fold0": split}))
    assert "fold0: 1 of 2 perturbations (FOS+JUN) have a gene that training perturbs too" in notes
    assert "STAT3" in notes


def test_what_a_split_leaves_out_or_judges_by_few_cells_is_named():
    numbers = {"A": 29, "B": 30, "C": 12, "D": 12, "E": 50}
    card = {"conditions": [{"perturbation": name, "context": "all", "n_cells": n} for name, n in numbers.items()]}
    fixed = pd.DataFrame({"perturbation": ["A", "B", "C", "D"], "role": ["test", "test", "validation", "train"]})
    dealt = pd.DataFrame({"perturbation": list(numbers), "role": ["train", "test", "train", "train", "validation"]})
    left_out, few = split_notes(card, {"theirs": fixed, "fold0": dealt}, minimum_cells=30)
    assert left_out.startswith("theirs: 1 of 5 perturbations (E) are not used: its file does not name them")
    assert few.startswith(
        "theirs: 2 of 4 perturbations (A, C) are tested or choose a model, as its file says, on fewer"
    )


@pytest.mark.parametrize(
    ("one", "other", "related"),
    [("CEBPA", "CEBPB", True), ("STAT1", "STAT5A", True), ("FOXA1", "FOXA3", True), ("MYC", "MAX", False)],
)
def test_relatives_by_name(one, other, related):
    assert (family(one) == family(other)) == related
