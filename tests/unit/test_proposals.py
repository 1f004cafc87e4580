"""Labels as published screens have them, and the rules that are proposed for them: right ones, or none."""

import gzip

import pytest

from scgpt_bench.data.catalogue import Dataset
from scgpt_bench.data.labels import parts_of
from scgpt_bench.data.proposals import propose

MEASURED = [
    *("ELK1", "E2F4", "SPI1", "JUND", "STAT1", "JAK2", "HLA-A", "HLA-DRA", "MRPL9", "CREB1", "DDIT3", "KLF1", "SET"),
    *("FEV", "CBFA2T3", "RUNX1", "HSPA5", "AARS", "ZBTB4", "GAT1", "GLN3", "CD3D", "A2M", "MYC", "NKX2-5", "GAS5"),
    *("TNFSF12", "TNFSF13", "TNFSF12-TNFSF13"),
]
SOME = ("SPI1", "CREB1", "DDIT3", "MYC", "AARS")


def row(**cells):
    plain = {"name": "drop", "address": "drop.h5ad", "format": "h5ad", "values": "counts", "target_sum": 1e4}
    labels = {"perturbation_column": "label", "control_label": "non-targeting", "perturbation_kind": "interference"}
    return Dataset(**{**plain, **labels, **cells})


def guides(pattern, genes=SOME, numbers=(1, 2, 3)):
    return [pattern.format(gene=gene, n=n) for gene in genes for n in numbers]


SCHEMES = {
    "Dixit 2016": (
        [*guides("p_sg{gene}_{n}"), "p_INTERGENIC393453", "p_INTERGENIC1144056"],
        {"guide_prefix": "p_sg", "guide_suffix": r"_\d+$"},
        ("p_sgSPI1_2", ["SPI1"]),
    ),
    "Dixit 2016 in scPerturb": (
        [*guides("sg{gene}_{n}"), "INTERGENIC1144056", "INTERGENIC216151"],
        {"guide_prefix": "sg", "guide_suffix": r"_\d+$"},
        ("sgMYC_3", ["MYC"]),
    ),
    "Adamson 2016": (
        [*guides("{gene}_pDS25{n}", numbers=(1,)), "62(mod)_pBA581"],
        {"guide_suffix": r"_pDS\d+$"},
        ("SPI1_pDS251", ["SPI1"]),
    ),
    "Jaitin 2016, mouse": (
        guides("sg{gene}_{n}", ("Spi1", "Stat1", "Creb1")),
        {"guide_prefix": "sg", "guide_suffix": r"_\d+$"},
        ("sgStat1_2", ["Stat1"]),
    ),
    "Datlinger 2017": (
        [*guides("Tcrlibrary_{gene}_{n}"), "CTRL00087", "CTRL00320"],
        {"guide_prefix": "Tcrlibrary_", "guide_suffix": r"_\d+$"},
        ("Tcrlibrary_CREB1_1", ["CREB1"]),
    ),
    "Shifrut 2018": (
        [*guides("{gene}.{n}"), "NonTarget.1"],
        {"guide_suffix": r"\.\d+$"},
        ("MYC.1", ["MYC"]),
    ),
    "Norman 2019": (
        ["SET_KLF1", "FEV_CBFA2T3", "SET_FEV", "SPI1_KLF1", "SET", "control"],
        {"combination_separator": "_"},
        ("FEV_CBFA2T3", ["FEV", "CBFA2T3"]),
    ),
    "Norman 2019, guides": (
        [
            "NegCtrl0_NegCtrl0__NegCtrl0_NegCtrl0",
            "KLF1_NegCtrl0__KLF1_NegCtrl0",
            *(f"{x}__{x}" for x in ("SET_FEV", "MYC_SPI1")),
        ],
        {"combination_separator": "_"},
        ("SET_FEV__SET_FEV", ["SET", "FEV", "SET", "FEV"]),
    ),
    "GEARS": (
        ["KLF1+ctrl", "ctrl+SET", "SET+KLF1", "FEV+ctrl", "ctrl"],
        {"combination_separator": "+"},
        ("ctrl+SET", ["ctrl", "SET"]),
    ),
    "Gasperini 2019, promoters": (
        [*guides("{gene}_TSS", MEASURED[:10], (1,)), "non-targeting"],
        {"guide_suffix": "_TSS$"},
        ("MRPL9_TSS", ["MRPL9"]),
    ),
    "Jackson 2019, yeast": (
        ["gat1_G5", "gat1_G2", "gln3_G1", "gln3_G3", "WT_G1"],
        {"guide_suffix": r"_G\d+$"},
        ("gat1_G5", ["gat1"]),
    ),
    "Jost 2020": (
        [*guides("{gene}_+_1280036{n}4.23-P1P2_0{n}"), *guides("{gene}_-_1280037{n}4.23-P1_0{n}"), "non-targeting"],
        {"guide_suffix": r"_[+-]_[\d.]+-(P\d+)+_\d+$"},
        ("MYC_+_128003614.23-P1P2_01", ["MYC"]),
    ),
    "Frangieh 2021": (
        [*guides("{gene}_{n}", ("A2M", "CD3D", "HLA-A")), "NO_SITE_1", "ONE_NON-GENE_SITE_230"],
        {"guide_suffix": r"_\d+$"},
        ("HLA-A_2", ["HLA-A"]),
    ),
    "Papalexi 2021": (
        [*guides("{gene}g{n}", ("STAT1", "JAK2")), "NTg1", "NTg2"],
        {"guide_suffix": r"g\d+$"},
        ("NTg1", ["NT"]),
    ),
    "Replogle 2022, transcripts": (
        ["7_AARS_P1P2_ENSG00000090861", "10023_ZBTB4_P1_ENSG00000174282", "5261_MYC_P2_ENSG00000136997"],
        {"guide_prefix": r"\d+_", "guide_suffix": r"_(P\d+)+_ENSG\d+$"},
        ("10023_ZBTB4_P1_ENSG00000174282", ["ZBTB4"]),
    ),
    "Replogle 2022, pairs of guides": (
        [
            *guides("{gene}_-_5371543{n}.23-P1P2|{gene}_+_5371535{n}.23-P1P2", numbers=(1,)),
            "non-targeting_00001|non-targeting_00002",
        ],
        {"combination_separator": "|", "guide_suffix": r"(_[+-]_[\d.]+-(P\d+)+|_\d+)$"},
        ("AARS_-_53715431.23-P1P2|AARS_+_53715351.23-P1P2", ["AARS", "AARS"]),
    ),
    "Schraivogel 2020": (
        [
            *guides("CROPseq_dCas9_DS_{gene}_+_9590732{n}.23-P1P2"),
            *guides("CROPseq_dCas9_DS_{gene}_-_12419499{n}-P1P2"),
            *(f"CROPseq_dCas9_DS_KLF1-{letter}" for letter in "ABCD"),
            *(f"CROPseq_dCas9_DS_HS2-{letter}" for letter in "ABCD"),
            *(f"CROPseq_dCas9_DS_non-targeting_0000{n}" for n in range(3)),
        ],
        {"guide_prefix": "CROPseq_dCas9_DS_", "guide_suffix": r"(-[A-Z]|_[+-]_[\d.]+-(P\d+)+|_\d+)$"},
        ("CROPseq_dCas9_DS_non-targeting_00002", ["non-targeting"]),
    ),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_rule_of_a_published_scheme_is_proposed(scheme):
    labels, cells, (label, parts) = SCHEMES[scheme]
    proposal = propose(labels, MEASURED, row())
    asked = ("combination_separator", "guide_prefix", "guide_suffix")
    assert {name: getattr(proposal.row, name) for name in asked if getattr(proposal.row, name)} == cells
    assert parts_of(label, proposal.row) == parts
    assert proposal.seen
    assert all(f"{name} '{cell}'" in proposal.text for name, cell in cells.items())
    assert f"of {len(labels)} labels would then be of measured genes or controls" in proposal.text
    assert propose(labels, MEASURED, proposal.row) is None


def test_a_proposal_counts_the_labels_that_it_explains():
    text = propose([*guides("{gene}_TSS", MEASURED[:10], (1,)), "chr1.1", "chr2.7"], MEASURED, row()).text
    assert (
        text
        == "guide_suffix '_TSS$' in the data-set table (10 of 12 labels would then be of measured genes or controls)"
    )


def test_a_rule_that_does_not_fit_is_replaced():
    labels = guides("{gene}_TSS", numbers=(1,))
    assert propose(labels, MEASURED, row(guide_suffix=r"g\d+$")).row.guide_suffix == "_TSS$"
    signs = guides("{gene}_+_9590732{n}.23-P1P2")
    proposal = propose(signs, MEASURED, row(combination_separator="+"))
    assert proposal.row.combination_separator is None
    assert proposal.text.startswith("an empty combination_separator and guide_suffix")


def test_a_separator_is_proposed_beside_the_rules_that_are_there():
    labels = [f"{one}_1|{two}_2" for one in SOME for two in SOME if one != two]
    proposal = propose([*labels, *guides("{gene}_{n}")], MEASURED, row(guide_suffix=r"_\d+$"))
    assert proposal.text.startswith("combination_separator '|' in the data-set table (35 of 35 labels")


@pytest.mark.parametrize(
    "labels",
    [
        SOME,
        ["BRCA1", "BRCA2", "TP53", "ATM", "CHEK1"],
        ["HLA-A", "HLA-B", "HLA-C", "HLA-E"],
        ["NKX2-1", "NKX2-5", "ATG5", "ATG7", "STAT1"],
        ["Atg5", "Atg7", "Atg12", "Becn1"],
        ["GAS5-AS1", "MYC-AS1", "STAT1-DT", "JAK2-IT1", "SPI1"],
        ["TNFSF12-TNFSF13", "MYC", "SPI1"],
        ["MIR-21", "MIR-155", "LINC00001", "KRTAP10-1", "KRTAP10-2"],
        ["ATF6_only_pMJ145", "ATF6_IRE1_pMJ152", "PERK_only_pMJ146", "3x_neg_ctrl_pMJ144-1", "3x_neg_ctrl_pMJ144-2"],
        ["SET_KLF1", "FEV_KLF1", "SET_FEV", "KLF1_MYC", "SET", "MYC"],
        ["", "nan", "STAT1"],
        ["|", "_", "+", "__", "-1"],
    ],
    ids=lambda labels: labels[0] or "empty",
)
@pytest.mark.parametrize("measured", [MEASURED, ["ACTB"]])
def test_nothing_is_proposed_where_nothing_follows_from_the_labels(labels, measured):
    """Genes as they are, families of genes, and transcripts that are called after a gene are no guides."""
    expected = measured == MEASURED and labels[0] == "SET_KLF1"
    assert (propose(labels, measured, row()) is not None) == expected


@pytest.mark.parametrize(
    ("labels", "cells", "perturbations"),
    [
        (guides("{gene}_{n}", ("A", "B", "C", "D")), {"guide_suffix": r"_\d+$"}, 4),
        (guides("{gene}g{n}", ("RAB1A", "RAB7", "CD4")), {"guide_suffix": r"g\d+$"}, 3),
        (guides("{gene}_+_9590732{n}.23-P1P2", ("A", "B")), {"guide_suffix": r"_[+-]_[\d.]+-(P\d+)+$"}, 2),
        (guides("lib_v1_{gene}_{n}", ("A", "B")), {"guide_prefix": "lib_v1_", "guide_suffix": r"_\d+$"}, 2),
        # Gasperini 2019: two pairs of guides of each enhancer.
        (
            [f"chr{n}.{i}_{pair}" for n in range(1, 6) for i in (1, 2) for pair in ("top_two", "second_two")],
            {"guide_suffix": "(_second_two|_top_two)$"},
            10,
        ),
    ],
)
def test_guides_of_targets_that_were_not_measured_are_known_by_what_they_share(labels, cells, perturbations):
    proposal = propose(labels, ["ACTB"], row())
    assert {name: getattr(proposal.row, name) for name in ("guide_prefix", "guide_suffix")} == {
        "guide_prefix": None,
        **cells,
    }
    assert not proposal.seen
    assert f"{len(labels)} labels would then be {perturbations} perturbations" in proposal.text


def test_many_labels_are_looked_at_in_seconds():
    labels = [f"GENE{n}_{k}|GENE{n + 7}_{k}" for n in range(20_000) for k in (1, 2)]
    proposal = propose(labels, [f"GENE{n}" for n in range(20_007)], row())
    assert proposal.gained == 40_000


def test_the_guides_of_the_real_tap_seq_panel(mirror):
    for folder, prefix in {"raw10x": "CROPseq_dCas9_DS_", "named10x": None}.items():
        text = gzip.decompress((mirror / "tapseq_chr8" / folder / "features.tsv.gz").read_bytes()).decode()
        features = [line.split("\t") for line in text.splitlines()]
        genes = [name for _, name, kind, *_ in features if kind == "Gene Expression"]
        labels = [name for _, name, kind, *_ in features if kind != "Gene Expression"]
        proposal = propose(labels, genes, row())
        assert proposal.row.guide_prefix == prefix
        # All but the four guides of HS2, an enhancer.
        assert "(82 of 86 labels" in proposal.text
        assert {part for label in labels for part in parts_of(label, proposal.row)} - {*genes} == {
            "HS2",
            "non-targeting",
        }
