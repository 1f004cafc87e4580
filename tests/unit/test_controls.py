"""Control cells are drawn by name, in the proportions of cell types and batches, and never twice."""

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgpt_bench.data.conditions import Condition
from scgpt_bench.data.controls import (
    control_cells,
    control_means_of,
    draw_controls,
    open_controls,
    type_weights,
    write_control_cells,
)
from scgpt_bench.data.halves import INPUT, deal_halves
from scgpt_bench.data.references import references
from scgpt_bench.errors import InputError

SPLIT = pd.DataFrame({"perturbation": ["A", "B", "C"], "role": ["test", "test", "train"]})
NAMES = {"per_perturbation": 40, "seed": 1, "dataset": "small", "split_name": "fold0"}


def observations(*groups):
    """A table of cells from (perturbation, batch, cell type, number of cells)."""
    rows = [group[:3] for group in groups for _ in range(group[3])]
    obs = pd.DataFrame(rows, columns=["perturbation", "batch", "cell_type"]).assign(context="all", direction="down")
    obs = obs.set_axis([f"cell{number}" for number in range(len(obs))])
    return obs.assign(half=deal_halves(obs))


OBS = observations(
    ("control", "b1", "T", 300),
    ("control", "b2", "T", 100),
    ("control", "b1", "B", 50),
    ("A", "b2", "T", 30),
    ("A", "b2", "B", 10),
    ("B", "b1", "T", 20),
    ("C", "b1", "B", 9),
)


def cells(obs=OBS, seed=5):
    values = np.random.default_rng(seed).poisson(1, (len(obs), 6)).astype(np.float32)
    return anndata.AnnData(sparse.csr_matrix(values), obs=obs, var=pd.DataFrame(index=list("UVWXYZ")))


def drawn(obs=OBS, split=SPLIT, **options):
    return draw_controls(obs, split, **{**NAMES, **options})


def of(table, perturbation):
    return table[table["perturbation"] == perturbation].reset_index(drop=True)


def test_cell_types_follow_the_perturbation():
    counted = drawn().groupby(["perturbation", "cell_type"]).size().to_dict()
    assert counted == {("A", "B"): 10, ("A", "T"): 30, ("B", "T"): 40}


def test_batches_follow_the_perturbation():
    assert of(drawn(), "B").groupby("batch").size().to_dict() == {"b1": 40}
    two = observations(
        ("control", "b1", "T", 300), ("control", "b2", "T", 300), ("B", "b1", "T", 15), ("B", "b2", "T", 6)
    )
    shares = of(drawn(two, SPLIT[SPLIT["perturbation"] == "B"]), "B").groupby("batch").size()  # 28.6 and 11.4 of 40
    assert shares.to_dict() in ({"b1": 28, "b2": 12}, {"b1": 29, "b2": 11})


def test_a_batch_with_too_few_controls_gives_all_and_others_of_the_cell_type_stand_in():
    obs = observations(
        ("control", "b1", "T", 300), ("control", "b2", "T", 10), ("control", "b3", "T", 100), ("B", "b2", "T", 20)
    )
    shares = of(drawn(obs, SPLIT[SPLIT["perturbation"] == "B"]), "B").groupby("batch").size()
    assert shares["b2"] == 5  # those of the half ``input``
    assert shares["b1"] / shares["b3"] == pytest.approx(3, abs=0.6)


def test_batches_smaller_than_one_part_of_the_draw_get_their_share_over_many_draws():
    own = [("B", f"b{k}", "T", 10 + 5 * (k % 2)) for k in range(40)]
    obs = observations(*[("control", f"b{k}", "T", 30) for k in range(40)], *own)
    split = SPLIT[SPLIT["perturbation"] == "B"]
    batches = pd.concat([drawn(obs, split, per_perturbation=10, seed=seed)["batch"] for seed in range(200)])
    by_size = batches.value_counts().groupby(lambda name: int(name[1:]) % 2).sum()
    assert batches.nunique() == 40
    assert by_size[1] / len(batches) == pytest.approx(15 / 25, abs=0.03)


def test_only_controls_that_methods_may_see_are_drawn():
    table = drawn(per_perturbation=1000)
    assert set(OBS.loc[table["control_cell"], "half"]) == {"input"}


def test_cells_are_controls_named_with_their_own_batch_and_type_and_never_drawn_twice():
    table = drawn()
    own = OBS.loc[table["control_cell"]]
    assert (own["perturbation"] == "control").all()
    assert (own[["batch", "cell_type"]].to_numpy() == table[["batch", "cell_type"]].to_numpy()).all()
    assert not table.duplicated(["perturbation", "control_cell"]).any()


def test_a_cell_type_with_too_few_controls_gives_each_of_them_once():
    table = of(drawn(per_perturbation=1000), "A")
    assert table["control_cell"].is_unique
    assert table.groupby("cell_type").size().to_dict() == {"B": 25, "T": 200}  # of the half ``input``


def test_weights_give_every_cell_type_its_share_of_the_perturbation():
    few = of(drawn(per_perturbation=1000), "A")  # 25 of type B and 200 of type T, for 10 and 30 measured cells
    shares = few.groupby("cell_type")["weight"].sum() / few["weight"].sum()
    assert shares.to_dict() == pytest.approx({"B": 0.25, "T": 0.75})
    assert few["weight"].mean() == pytest.approx(1)
    assert few.groupby("cell_type")["weight"].nunique().tolist() == [1, 1]


def test_weights_are_exactly_1_where_the_draw_has_the_shares_of_the_perturbation():
    assert (drawn()["weight"] == 1).all()
    for number in range(1, 300):
        assert (type_weights(["T"] * number, pd.Series({"T": 17, "B": 0})) == 1).all()


def test_a_cell_type_that_no_cell_is_of_counts_nothing():
    shares = pd.Series({"T": 3, "B": 1, "R": 2})
    np.testing.assert_allclose(type_weights(["B", "T", "B", "T"], shares), [0.5, 1.5, 0.5, 1.5])


def test_parts_that_are_not_whole_go_to_the_largest_remainders():
    obs = observations(
        *[("control", "b", name, 50) for name in "PQR"], ("B", "b", "P", 5), ("B", "b", "Q", 4), ("B", "b", "R", 1)
    )
    table = drawn(obs, SPLIT[SPLIT["perturbation"] == "B"], per_perturbation=13)  # 6.5, 5.2, 1.3
    assert table.groupby("cell_type").size().to_dict() == {"P": 7, "Q": 5, "R": 1}


def test_neither_the_order_of_cells_nor_other_perturbations_move_a_draw():
    shuffled = OBS.iloc[np.random.default_rng(0).permutation(len(OBS))]
    pd.testing.assert_frame_equal(drawn(shuffled), drawn())
    without_a = OBS[OBS["perturbation"] != "A"]
    pd.testing.assert_frame_equal(drawn(without_a, SPLIT[1:]), of(drawn(), "B"))


@pytest.mark.parametrize("other", [{"seed": 2}, {"dataset": "other"}, {"split_name": "fold1"}])
def test_seed_data_set_and_split_each_change_the_draw(other):
    assert set(of(drawn(), "B")["control_cell"]) != set(of(drawn(**other), "B")["control_cell"])


def test_perturbations_have_draws_of_their_own():
    table = drawn(observations(("control", "b1", "T", 300), ("A", "b1", "T", 20), ("B", "b1", "T", 20)))
    assert set(of(table, "A")["control_cell"]) != set(of(table, "B")["control_cell"])


def test_categorical_columns_are_read_as_names():
    pd.testing.assert_frame_equal(drawn(OBS.astype("category")), drawn())


def test_controls_file_holds_the_values_of_the_drawn_cells():
    table, adata = drawn(), cells()
    controls = control_cells(adata, table)
    names = ["perturbation", "context", "direction", "control_cell", "batch", "cell_type", "weight"]
    assert controls.obs.columns.tolist() == names
    assert controls.obs_names.is_unique
    assert controls.X.dtype == np.float32
    assert controls.X.format == "csr"
    np.testing.assert_array_equal(controls.X.toarray(), adata[table["control_cell"]].X.toarray())


def test_controls_are_written_as_they_are_made_though_a_cell_is_read_once(tmp_path):
    table, adata = drawn(), cells()
    expected = control_cells(adata, table)
    expected.strings_to_categoricals()
    write_control_cells(adata, table, tmp_path / "controls.h5ad")
    found = open_controls(tmp_path / "controls.h5ad")
    np.testing.assert_array_equal(found.X[:].toarray(), expected.X.toarray())
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    means, of_file = control_means_of(expected), control_means_of(found)
    assert [*means] == [*of_file]
    np.testing.assert_array_equal([*of_file.values()], [*means.values()])


def test_a_drawn_cell_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="no cell 'cell7'"):
        control_cells(cells()[cells().obs_names != "cell7"], drawn(per_perturbation=1000))


def test_matched_control_mean_weights_the_mean_of_each_type_by_the_perturbations_cells():
    adata = cells()
    adata.obs["batch"] = "b"
    X, control = adata.X.toarray().astype(np.float64), (OBS["half"] == "input").to_numpy()
    t_cells, b_cells = (X[control & (OBS["cell_type"] == name).to_numpy()].mean(axis=0) for name in "TB")
    expected = [0.75 * t_cells + 0.25 * b_cells, b_cells, t_cells]
    for form in (adata, anndata.AnnData(adata.X.toarray(), obs=adata.obs, var=adata.var)):
        means = references(form, [*map(Condition, "ACB")], INPUT)
        assert means.dtype == np.float64
        np.testing.assert_allclose(means, expected, rtol=1e-12)


def test_matched_control_mean_of_a_perturbation_does_not_depend_on_the_others_by_one_bit():
    together = references(cells(), [*map(Condition, "ABC")], INPUT)
    alone = [references(cells(), [Condition(name)], INPUT)[0] for name in "ABC"]
    assert (together == np.stack(alone)).all()


def test_a_cell_type_without_controls_is_refused():
    obs = observations(("control", "b1", "T", 300), ("A", "b1", "T", 20), ("B", "b1", "NK", 7), ("C", "b1", "NK", 7))
    message = "found 7 cells of 'B' of type 'NK', but no control; expected control cells of every cell type"
    with pytest.raises(InputError, match=message):
        drawn(obs)
    with pytest.raises(InputError, match=message):
        references(cells(obs), [*map(Condition, "AB")], INPUT)
    assert len(drawn(obs, SPLIT[:1])) == 40  # what is not asked for is not refused


def test_a_perturbation_without_cells_is_drawn_for_only_where_it_is_said_to_be_unmeasured():
    split = pd.DataFrame({"perturbation": ["Z"], "context": ["all"], "role": ["test"]})
    with pytest.raises(InputError, match="no cell of 'Z'"):
        drawn(split=split)
    with pytest.raises(InputError, match="no cell of 'Z@other', and no control cell of its context"):
        references(cells(), [Condition("Z", "other")], INPUT)


def test_a_perturbation_that_nobody_measured_is_like_the_control_cells_of_its_context():
    obs = observations(("control", "b1", "T", 300), ("control", "b2", "NK", 100), ("A", "b1", "T", 20))
    split = pd.DataFrame({"perturbation": ["Z"], "context": ["all"], "role": ["test"]})
    table = drawn(obs, split, direction_of={Condition("Z"): "up"})
    assert table["cell_type"].value_counts().to_dict() == {"T": 30, "NK": 10}
    assert set(table["direction"]) == {"up"}
    assert (table["weight"] == 1).all()
    made = cells(obs)
    own = np.flatnonzero((made.obs["perturbation"] == "control") & (made.obs["half"] == INPUT))
    assert np.allclose(references(made, [Condition("Z")], INPUT)[0], made.X[own].mean(axis=0), atol=1e-6)


def test_a_split_without_test_perturbations_is_refused():
    with pytest.raises(InputError, match="no test perturbation"):
        drawn(split=SPLIT[2:])
