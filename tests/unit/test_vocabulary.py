"""A gene has the token of its own symbol, of one unambiguous repair, or `<pad>`; never another gene's."""

import json

import pytest
import rdata

from scgpt_bench.scgpt.vocabulary import align, human_vocabulary, read_vocabulary

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


def test_the_human_vocabulary_is_that_of_the_published_checkpoint():
    vocabulary = human_vocabulary()
    assert len(vocabulary) == 60_697
    assert [vocabulary[token] for token in ("<pad>", "<cls>", "<eoc>")] == [60694, 60695, 60696]
    table = align(vocabulary, vocabulary)
    assert table.loc[table["status"] != "in_vocabulary", "gene"].tolist() == ["<pad>", "<cls>", "<eoc>"]


def test_the_papalexi_genes_that_scgpt_knows(mirror):
    file = mirror / "papalexi_2021" / "lowmoi_example_data.rda"
    (data,) = rdata.read_rda(file, default_encoding="utf8").values()
    genes = list(data["response_matrix"].Dimnames[0])
    assert (align(genes, human_vocabulary())["status"] != "padded").sum() == 274


def test_reading_gives_back_what_was_written(tmp_path):
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps(VOCABULARY))
    assert read_vocabulary(path) == VOCABULARY
