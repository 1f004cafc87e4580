"""What changed between two drops is told apart from what was only tested on other perturbations."""

import numpy as np
import pandas as pd
import pytest

from scgpt_bench.evaluation.data_card import THRESHOLDS
from scgpt_bench.evaluation.drops import compare_cards, compare_scores, shown_split
from scgpt_bench.evaluation.scores import of_reliable, scores, with_and_without
from scgpt_bench.evaluation.verdicts import verdicts
from scgpt_bench.figures.data_card import card_text, facts_table, knock_down, reliability
from scgpt_bench.figures.drops import drop_comparison
from scgpt_bench.figures.style import save
from scored import study

KINDS = {"train-mean": "train-mean", "mine": "imported"}


def card(dataset, names, unreliable=(), **more):
    records = [
        {
            "perturbation": name,
            "context": "all",
            "n_cells": 50 + 10 * number,
            "reliability": 0.1 if name in unreliable else 0.8,
            "reliability_low": 0.0,
            "reliability_high": 0.9,
            "reliable": name not in unreliable,
            "target_log_fold_change": None if name == "B" else -1.0 + number,
            "target_wrong_way": None if name == "B" else number > 2,
            "targets": {name: -1.0},
            "unknown": {"target_log_fold_change": "its target is not measured"} if name == "B" else {},
        }
        for number, name in enumerate(names)
    ]
    numbers = {"n_cells": 1000, "n_controls": 300, "n_genes": 60, "n_batches": 2, "n_cell_types": 1}
    numbers |= {
        "n_conditions": len(names),
        "n_contexts": 1,
        "n_perturbations": len(names),
        "n_combinations": 0,
        "n_reliable": len(names) - len(unreliable),
    }
    numbers |= {"median_reliability": 0.8, "median_shared_response": 0.2, "minimum_reliability": 0.3}
    numbers["shared_control_noise"] = {"same_controls": 0.28, "disjoint_controls": 0.19}
    texts = {"values_evidence": "counts", "dropped_perturbations": [], "problems": [], "notes": [], "repairs": []}
    texts |= {"dominant_genes": [], "unknown": {}, "thresholds": THRESHOLDS}
    return {"dataset": dataset, **numbers, **texts, "conditions": records, **more}


def metrics(dataset, values):
    """Pearson delta of both methods on each perturbation of one split."""
    return pd.DataFrame(
        [
            {"dataset": dataset, "split": "fold0", "method": method, "seed": 0, "perturbation": name, "context": "all",
             "metric": "effect_pearson", "value": value + shift}
            for method, shift in (("train-mean", 0.0), ("mine", 0.1))
            for name, value in values.items()
        ]
    )  # fmt: skip


@pytest.fixture
def table():
    """Now, A scores higher than before, and an easy perturbation joined the test set."""
    both = pd.concat(
        [metrics("v1", {"A": 0.2, "B": 0.4}), metrics("v2", {"A": 0.3, "B": 0.4, "E": 0.9})], ignore_index=True
    )
    return compare_scores("v1", "v2", scores(study(both, KINDS)), verdicts(study(both, KINDS)), both)


def test_a_change_of_the_test_set_is_no_change_of_the_score(table):
    row = table.set_index("method").loc["mine"]
    assert (row["n_conditions_before"], row["n_conditions"], row["n_shared"]) == (2, 3, 2)
    assert row["change"] == pytest.approx(0.8 * 2 / 3 + 0.1 - 0.3 - 0.1, abs=0.01)
    assert row["change_on_shared"] == pytest.approx(0.05)
    assert row["verdict_changed"] in ("yes", "no")
    assert pd.isna(table.set_index("method").loc["train-mean", "verdict_changed"])  # baselines are not judged


def test_cards_tell_gains_losses_and_what_became_reliable():
    before = card("v1", ["A", "B", "C"], unreliable=["A", "B"])
    now = card("v2", ["A", "B", "D"], unreliable=["B"], n_cells=1400, problems=["batch 'b9' has no control cell"])
    facts = compare_cards(before, now)
    assert facts["cells"] == "1,000 before, 1,400 now (+400)"
    assert (facts["perturbations gained"], facts["perturbations lost"]) == ("D", "C")
    assert (facts["became reliable"], facts["no longer reliable"]) == ("A", "none")
    assert facts["problems only now"] == "batch 'b9' has no control cell"


def test_what_was_never_reliable_is_not_lost():
    before, now = card("v1", ["A", "B", "C"], unreliable=["A", "B"]), card("v2", ["A", "B", "C"], unreliable=["B", "C"])
    before["conditions"][0]["reliable"] = None
    facts = compare_cards(before, now)
    assert (facts["became reliable"], facts["no longer reliable"]) == ("A", "C")
    assert compare_cards(now, before)["no longer reliable"] == "A"
    assert compare_cards(before, before)["no longer reliable"] == "none"


def test_the_figure_is_of_the_folds_together():
    pooled, data = {"all": ["fold0", "fold1"]}, []
    for fold in ("fold0", "fold1"):
        names = ("A", "B") if fold == "fold0" else ("C", "D")
        both = [metrics(version, dict(zip(names, (0.2, 0.4), strict=True))) for version in ("v1", "v2")]
        data += [table.assign(split=fold) for table in both]
    data = pd.concat(data, ignore_index=True)
    of_folds = study(data, KINDS, pooled=pooled)
    table = compare_scores("v1", "v2", scores(of_folds), verdicts(of_folds), data, pooled)
    assert {"all", "fold0", "fold1"} == {*table["split"]}
    assert shown_split(table, pooled) == "all"
    assert shown_split(table[table["split"] == "fold1"], pooled) == "fold1"


def test_scores_without_unreliable_perturbations_stand_beside_those_with_all():
    data = metrics("v1", {"A": 0.2, "B": 0.4, "C": 0.9})
    kept = of_reliable(data, [card("v1", ["A", "B", "C"], unreliable=["C"]), card("v2", ["C"])])
    assert set(kept["perturbation"]) == {"A", "B"}
    sides = [function(study(part, KINDS)) for part in (data, kept) for function in (scores, verdicts)]
    row = with_and_without(*sides).set_index("method").loc["train-mean"]
    assert (row["n_conditions"], row["reliable_n_conditions"]) == (3, 2)
    assert (row["mean"], row["reliable_mean"]) == (pytest.approx(0.5), pytest.approx(0.3))
    none = of_reliable(data, [card("v1", ["A", "B", "C"], unreliable=["A", "B", "C"])])
    alone = with_and_without(*sides[:2], scores(study(none, KINDS)), verdicts(study(none, KINDS)))
    assert alone["reliable_mean"].isna().all()


def test_pages_and_figures_show_names_as_they_are(table, tmp_path):
    hostile = "<b>Ä & 'b'</b>"
    before, now = card("v1", ["A", "B"]), card("v2", ["A", "B", hostile], unreliable=[hostile])
    pages = [
        card_text({**now, "problems": [hostile]}, [hostile], [hostile]),
        facts_table(hostile, compare_cards(before, now)),
    ]
    for page in pages:
        assert hostile not in page
        assert "&lt;b&gt;Ä &amp; " in page
    figures = {
        "reliability": reliability(pd.DataFrame(now["conditions"]), 0.3, "v2"),
        "knock_down": knock_down(pd.DataFrame(now["conditions"]), "interference", "v2"),
        "many": reliability(pd.DataFrame(card("v3", [f"G{i}" for i in range(300)])["conditions"]), 0.3, "v3"),
        "none": knock_down(pd.DataFrame(card("v4", ["B"])["conditions"]), "activation", "v4"),
        "comparison": drop_comparison(before, now, table, "effect_pearson", "fold0"),
    }
    for name, figure in figures.items():
        save(figure, tmp_path / f"{name}.svg")
        assert np.isfinite(figure.get_size_inches()).all()
    assert "v2 against v1" in (tmp_path / "comparison.svg").read_text()
    assert "no change of a target is known" in (tmp_path / "none.svg").read_text()


def test_only_folds_are_pooled():
    """The same perturbations in a GEARS split are a question of their own."""
    names = [f"P{number}" for number in range(4)]
    parts = {"fold0": names[:2], "fold1": names[2:], "gears1": names}
    both = pd.concat(
        [
            metrics(dataset, dict.fromkeys(tested, value)).assign(split=split)
            for dataset, value in (("v1", 0.2), ("v2", 0.3))
            for split, tested in parts.items()
        ],
        ignore_index=True,
    )
    folds = ("fold0", "fold1")
    made = study(both, KINDS, pooled={"all": folds})
    found = compare_scores("v1", "v2", scores(made), verdicts(made), both, {"all": folds})
    assert found[found["method"] == "mine"].set_index("split")["n_shared"].to_dict() == {
        **{"fold0": 2, "fold1": 2, "gears1": 4, "all": 4}
    }
