"""A gene has the token of its own symbol, of one unambiguous repair, or `<pad>`; never another gene's."""

import itertools
import json

import pytest
import rdata

from scgpt_bench.scgpt.vocabulary import align, human_vocabulary, read_gene_info, read_vocabulary

VOCABULARY = {"STAT1": 0, "HLA-A": 1, "C1orf112": 2, "ENSG00000187608": 3, "AbC": 4, "aBC": 5, "<pad>": 6, "<cls>": 7}


def status(table, gene):
    return tuple(table.set_index("gene").loc[gene, ["token_id", "status", "matched_as"]])


def test_exact_symbols_come_first():
    assert status(align(["STAT1"], VOCABULARY), "STAT1") == (0, "in_vocabulary", "STAT1")


@pytest.mark.parametrize(
    ("gene", "symbol"),
    [
        ("Stat1", "STAT1"),
        ("HLA.A", "HLA-A"),
        ("C1ORF112", "C1orf112"),
        ("ENSG00000187608.9", "ENSG00000187608"),
        ("stat1.2", "STAT1"),
    ],
)
def test_a_repair_that_leads_to_one_symbol_is_made_and_told(gene, symbol):
    assert status(align([gene], VOCABULARY), gene) == (VOCABULARY[symbol], "renamed", symbol)


@pytest.mark.parametrize("gene", ["UNKNOWN1", "ABC", "<cls>", "<pad>", ""])
def test_unknown_ambiguous_and_special_names_are_padded(gene):
    assert status(align([gene], VOCABULARY), gene) == (6, "padded", "<pad>")


def test_a_repair_never_takes_the_token_of_a_measured_gene():
    table = align(["Stat1", "STAT1"], VOCABULARY)
    assert status(table, "STAT1")[1] == "in_vocabulary"
    assert status(table, "Stat1")[1] == "padded"


def test_genes_repaired_to_the_same_symbol_are_all_padded_in_any_order():
    for genes in (["Stat1", "stat1"], ["stat1", "Stat1"]):
        assert set(align(genes, VOCABULARY)["status"]) == {"padded"}


IDS = {"ENSG00000000001": "RBIS", "ENSG00000000002": "STAT1", "ENSG00000000003": "ABSENT", "ENSG00000000004": "KMT2D"}
TODAY = {"RBIS": 0, "STAT1": 1, "KMT2D": 2, "<pad>": 3}


def by_id(*pairs):
    """The status and the symbol of genes with Ensembl identifiers, by gene."""
    genes, gene_ids = zip(*pairs, strict=True)
    table = align(genes, TODAY, gene_ids, IDS)
    assert table.loc[table["status"] != "padded", "token_id"].is_unique
    return dict(zip(table["gene"], zip(table["status"], table["matched_as"], strict=True), strict=True))


def test_a_gene_whose_symbol_changed_is_found_by_its_identifier():
    found = by_id(("C8orf59", "ENSG00000000001"), ("STAT1", "ENSG00000000002"), ("MLL2", ""))
    assert found == {"C8orf59": ("renamed", "RBIS"), "STAT1": ("in_vocabulary", "STAT1"), "MLL2": ("padded", "<pad>")}
    assert set(align(["C8orf59", "MLL2"], TODAY)["status"]) == {"padded"}


@pytest.mark.parametrize(
    ("genes", "padded"),
    [
        # The symbol belongs to a gene that is called so, whatever its own identifier is.
        ((("RBIS", ""), ("C8orf59", "ENSG00000000001")), {"C8orf59"}),
        ((("RBIS", "ENSG00000000009"), ("C8orf59", "ENSG00000000001")), {"C8orf59"}),
        # An identifier comes before a spelling, and one that leads elsewhere forbids to guess by spelling.
        ((("rbis", ""), ("C8orf59", "ENSG00000000001")), {"rbis"}),
        ((("STAT1", ""), ("rbis", "ENSG00000000002")), {"rbis"}),
        # The same identifier twice; one of another release or species; one whose symbol has no token.
        ((("A", "ENSG00000000001"), ("B", "ENSG00000000001")), {"A", "B"}),
        ((("Stat1", "ENSMUSG00000000001"), ("C", "ENSG00000000003")), {"C"}),
    ],
)
def test_no_token_is_given_to_two_genes_in_any_order(genes, padded):
    for order in itertools.permutations(genes):
        assert {gene for gene, (status, _) in by_id(*order).items() if status == "padded"} == padded


def test_the_identifiers_of_a_vocabulary_are_read_as_census_writes_them(tmp_path):
    path = tmp_path / "gene_info.csv"
    path.write_text(",soma_joinid,feature_id,feature_name\n0,7,ENSG00000000001.4,RBIS\n1,8,ENSG00000000005,NA\n")
    assert read_gene_info(path) == {"ENSG00000000001": "RBIS", "ENSG00000000005": "NA"}


def test_the_human_vocabulary_is_that_of_the_published_checkpoint():
    vocabulary = human_vocabulary()
    assert len(vocabulary) == 60_697
    assert [vocabulary[token] for token in ("<pad>", "<cls>", "<eoc>")] == [60694, 60695, 60696]
    table = align(vocabulary, vocabulary)
    assert table.loc[table["status"] != "in_vocabulary", "gene"].tolist() == ["<pad>", "<cls>", "<eoc>"]


def test_the_papalexi_genes_that_scgpt_knows(papalexi_file):
    (data,) = rdata.read_rda(papalexi_file, default_encoding="utf8").values()
    genes = list(data["response_matrix"].Dimnames[0])
    assert (align(genes, human_vocabulary())["status"] != "padded").sum() == 274


def test_reading_gives_back_what_was_written(tmp_path):
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps(VOCABULARY))
    assert read_vocabulary(path) == VOCABULARY
