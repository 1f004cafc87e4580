"""Every spelling of a perturbation has one name, and nothing is guessed."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scgpt_bench.data.catalogue import Dataset
from scgpt_bench.data.labels import perturbation_name, perturbation_names
from scgpt_bench.data.names import CONTROL, genes_of
from scgpt_bench.errors import InputError

GENES = st.text(st.sampled_from("ABCXYZ0123456789-."), min_size=1, max_size=8)


def data_set(control="ctrl", separator=None, suffix=None, prefix=None):
    return Dataset(
        name="drop",
        address="drop.h5ad",
        format="h5ad",
        values="counts",
        target_sum=1e4,
        perturbation_column="label",
        control_label=control,
        perturbation_kind="interference",
        combination_separator=separator,
        guide_prefix=prefix,
        guide_suffix=suffix,
    )


def name(label, **row):
    return perturbation_name(label, data_set(**row), "drop.h5ad", "a cell")


@pytest.mark.parametrize(
    ("label", "row", "expected"),
    [
        ("STAT1", {}, "STAT1"),
        (" STAT1 ", {}, "STAT1"),
        ("ctrl", {}, CONTROL),
        ("JUN_FOS", {"separator": "_"}, "FOS+JUN"),
        ("JUN+FOS", {"separator": "+"}, "FOS+JUN"),
        ("FOS+ctrl", {"separator": "+"}, "FOS"),
        ("ctrl+FOS", {"separator": "+"}, "FOS"),
        ("ctrl+ctrl", {"separator": "+"}, CONTROL),
        ("neg_ctrl", {"separator": "_", "control": "neg_ctrl"}, CONTROL),
        ("STAT1g2", {"suffix": r"g\d+$"}, "STAT1"),
        ("NTg10", {"suffix": r"g\d+$", "control": "NT"}, CONTROL),
        ("STAT1g2_JAK2g1", {"suffix": r"g\d+", "separator": "_"}, "JAK2+STAT1"),
        ("FOS+FOS", {"separator": "+"}, "FOS"),
        ("KLF1_NegCtrl0__KLF1_NegCtrl0", {"separator": "_", "control": "NegCtrl0"}, "KLF1"),
        ("SET_KLF1__SET_KLF1", {"separator": "_"}, "KLF1+SET"),
        ("A+B+C", {"separator": "+"}, "A+B+C"),
        ("NT", {"control": "ctrl|NT"}, CONTROL),
        ("sgELK1_2", {"prefix": "sg", "suffix": r"_\d+$"}, "ELK1"),
        ("p_sgELK1_2", {"prefix": "^(p_)?sg"}, "ELK1_2"),
        ("sgNT", {"prefix": "sg", "control": "NT"}, CONTROL),
        ("NT_3|sgELK1_2", {"prefix": "sg", "suffix": r"_\d+", "control": "NT", "separator": "|"}, "ELK1"),
        ("sgELK1_2|sgE2F4_1", {"prefix": "sg", "suffix": r"_\d+$", "separator": "|"}, "E2F4+ELK1"),
        (
            "CROPseq_dCas9_DS_CCNE2_+_95907328.23-P1P2",
            {"prefix": "CROPseq_dCas9_DS_", "suffix": r"_[+-]_[\d.]+-P1P2$"},
            "CCNE2",
        ),
        # A prefix is at the beginning: the same letters later in a name stay, and so does a control label.
        ("Asg", {"prefix": "sg"}, "Asg"),
        ("sgRNA_ctrl", {"prefix": "sg", "control": "sgRNA_ctrl"}, CONTROL),
        # Only what the row states: no separator, so the underscore belongs to the name; no suffix, so the guide stays.
        ("A_B", {}, "A_B"),
        ("STAT1g2", {}, "STAT1g2"),
        # A suffix is at the end: what looks like one in the middle of a gene's name stays.
        ("Tg1orf", {"suffix": r"g\d+"}, "Tg1orf"),
    ],
)
def test_every_spelling_has_one_name(label, row, expected):
    assert name(label, **row) == expected


@pytest.mark.parametrize(
    ("label", "row"),
    [
        ("", {}),
        ("nan", {}),
        ("FOS+", {"separator": "+"}),
        ("+FOS", {"separator": "+"}),
        ("++", {"separator": "+"}),
        ("g1", {"suffix": r"g\d+$"}),
        ("sg", {"prefix": "sg"}),
        ("sgCTRL", {"prefix": "sg"}),
        ("FOS+JUN", {}),
        ("FOS+JUN", {"separator": "_"}),
        ("control", {"control": "ctrl"}),
        ("FOS+control", {"control": "ctrl", "separator": "+"}),
        ("Control", {"control": "ctrl"}),
        # A control label but for its case: neither a control nor a perturbation.
        ("Ctrl", {}),
        ("FOS+CTRL", {"separator": "+"}),
        ("CTRLg1", {"suffix": r"g\d+$"}),
        ("Neg_Ctrl", {"separator": "_", "control": "neg_ctrl"}),
    ],
)
def test_a_missing_or_ambiguous_label_is_refused(label, row):
    with pytest.raises(InputError, match=r"drop\.h5ad: a cell: found the label"):
        name(label, **row)


@given(st.lists(GENES, min_size=1, max_size=4))
def test_a_name_does_not_depend_on_the_order_of_genes(genes):
    forward, backward = ("_".join(order) for order in (genes, genes[::-1]))
    assert name(forward, separator="_") == name(backward, separator="_")


@given(st.lists(GENES | st.just("ctrl"), min_size=1, max_size=4))
def test_a_name_keeps_every_gene_once_and_naming_it_again_changes_nothing(genes):
    found = name("_".join(genes), separator="_")
    assert genes_of(found) == tuple(sorted(set(genes) - {"ctrl"}))
    assert name(found, separator="+", control=CONTROL) == found


@given(st.lists(GENES, min_size=1, max_size=3), st.integers(0, 99), st.sampled_from("_+ "))
def test_the_guide_of_a_gene_does_not_enter_its_name(genes, guide, separator):
    guides = separator.join(f"{gene}g{guide}" for gene in genes)
    assert name(guides, separator=separator, suffix=r"g\d+$") == name(separator.join(genes), separator=separator)


@given(st.text(max_size=12), st.sampled_from([None, "+", "_", "|"]), st.sampled_from([None, r"g\d+$", ".*"]))
@example("STAT1 g2", None, r"g\d+$")
@example("0\n0", None, ".*")
def test_any_label_has_a_name_that_names_itself_or_is_refused(label, separator, suffix):
    try:
        found = name(label, separator=separator, suffix=suffix)
    except InputError:
        return
    assert found == CONTROL or all(genes_of(found))
    assert name(found, separator="+", control=CONTROL) == found


def test_names_of_cells():
    labels = pd.Series(pd.Categorical(["B+A", "ctrl", "A+B"]), index=["c1", "c2", "c3"])
    assert perturbation_names(labels, data_set(separator="+"), "drop.h5ad").to_dict() == {
        "c1": "A+B",
        "c2": CONTROL,
        "c3": "A+B",
    }


@pytest.mark.parametrize("missing", [np.nan, None, "", "  "])
def test_a_cell_without_a_label_is_named_and_counted(missing):
    labels = pd.Series(["A", missing, missing], index=["c1", "c2", "c3"], dtype=object)
    with pytest.raises(InputError, match=r"obs\['label'\] of cell 'c2' \(2 such cells\)"):
        perturbation_names(labels, data_set(), "drop.h5ad")
