"""Gene vectors are read from any file that says which gene has which, and found for the genes of a data set."""

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from made_up import halved
from scgpt_bench.data.catalogue import VECTOR_SUFFIXES, read_vector_files
from scgpt_bench.data.containers import FORMATS_OF_VECTORS
from scgpt_bench.data.gene_vectors import READERS, changes_as_vectors, gene_vectors, read_vectors
from scgpt_bench.errors import InputError
from scgpt_bench.methods.baselines import read_embeddings, ridge
from scgpt_bench.methods.training_data import ToPredict, training_data

TABLE = pd.DataFrame([[1.0, 2.0, 0.5], [3.0, -4.0, 1e-3]], index=["STAT1", "NA"], columns=["a", "b", "c"])
ORIGIN = {"source": "file", "name": "mine", "sha256": "0" * 64}


def cells_of(perturbations, genes, gene_ids=None):
    names = ["control", *perturbations]
    obs = pd.DataFrame({"perturbation": names, "cell_type": "T"}, index=[f"cell{i}" for i in range(len(names))])
    var = pd.DataFrame({} if gene_ids is None else {"gene_id": gene_ids}, index=genes)
    return anndata.AnnData(sparse.csr_matrix((len(obs), len(genes)), dtype=np.float32), obs=obs, var=var)


def write(table, path):
    if path.suffix == ".h5ad":
        anndata.AnnData(table.to_numpy(), obs=pd.DataFrame(index=table.index)).write_h5ad(path)
    elif path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".txt":
        rows = [f"{gene} {' '.join(map(str, row))} " for gene, row in zip(table.index, table.to_numpy(), strict=True)]
        path.write_text("\n".join([f"{table.shape[0]} {table.shape[1]}", *rows, ""]))
    else:
        table.to_csv(path, sep="\t" if ".tsv" in path.suffixes else ",")
    return path


@pytest.mark.parametrize("suffix", VECTOR_SUFFIXES)
def test_every_form_of_a_table_of_vectors_reads_the_same(suffix, tmp_path):
    read = read_vectors(write(TABLE, tmp_path / f"vectors{suffix}"))
    assert list(read.index) == ["STAT1", "NA"]  # a symbol, not a missing value
    np.testing.assert_array_equal(read.to_numpy(), TABLE.to_numpy(dtype=np.float32))


def test_every_suffix_has_a_reader_and_a_kind_of_file():
    assert {suffix.removesuffix(".gz") for suffix in VECTOR_SUFFIXES} == READERS.keys() == FORMATS_OF_VECTORS.keys()


def test_a_parquet_table_may_have_its_genes_in_the_first_column(tmp_path):
    TABLE.reset_index(names="gene").to_parquet(tmp_path / "vectors.parquet")
    assert list(read_vectors(tmp_path / "vectors.parquet").index) == ["STAT1", "NA"]


@pytest.mark.parametrize(("content", "where", "found"), [
    ("gene\ta\nA\t1\nB\t2\nA\t3\n", "row 3", "'A' a second time"),
    ("gene\ta\nA\t1\n\t2\n", "row 2", "a gene without a name"),
    ("gene\ta\tb\nA\t1\t2\nB\t3\n", "gene 'B', column 'b'", "nan"),
    ("gene\ta\tb\nA\t1\t2\nB\t3\tinf\n", "gene 'B', column 'b'", "inf"),
    ("gene\ta\tb\nA\t1\t2\nB\t3\t1e39\n", "gene 'B', column 'b'", "1e+39"),
    ("gene\ta\tb\nA\t1\thigh\nB\t3\t4\n", "gene 'A', column 'b'", "'high'"),
    ("gene\ta\nA\t1\nB\t2\t3\n", "table", "ParserError"),
    ("gene\ta\n", "table", "0 genes, 1 dimensions"),
    ("gene\nA\n", "table", "1 genes, 0 dimensions"),
    ("", "table", "EmptyDataError"),
])  # fmt: skip
def test_a_fault_is_named_with_its_gene(content, where, found, tmp_path):
    (tmp_path / "vectors.tsv").write_text(content)
    with pytest.raises(InputError) as error:
        read_vectors(tmp_path / "vectors.tsv")
    assert error.value.where == where
    assert found in error.value.found


@pytest.mark.parametrize(("content", "where", "found"), [
    ("A 1 2\nB 3 4\n", "line 1", "A 1 2"),
    ("3 2\nA 1 2\nB 3 4\n", "table", "2 genes x 2 dimensions"),
    ("2 3\nA 1 2\nB 3 4\n", "table", "2 genes x 2 dimensions"),
])  # fmt: skip
def test_a_text_of_word2vec_has_the_shape_of_its_first_line(content, where, found, tmp_path):
    (tmp_path / "vectors.txt").write_text(content)
    with pytest.raises(InputError) as error:
        read_vectors(tmp_path / "vectors.txt")
    assert (error.value.where, error.value.found) == (where, found)


def test_genes_are_found_by_symbol_in_any_case_and_so_are_targets_that_were_not_measured():
    cells = cells_of(["STAT1", "IRF1+JAK2"], ["STAT1", "C1ORF112", "ACTB"])
    vectors = pd.DataFrame(np.eye(4), index=["IRF1", "C1orf112", "STAT1", "TP53"])
    found = gene_vectors(cells, vectors, "mine.tsv", **ORIGIN)
    assert list(found.obs_names) == ["STAT1", "C1ORF112", "IRF1"]
    np.testing.assert_array_equal(found.X, np.eye(4)[[2, 1, 0]])
    assert dict(found.uns) == ORIGIN


def test_genes_are_found_by_ensembl_identifier_where_the_data_set_has_them(tmp_path):
    cells = cells_of(["STAT1"], ["STAT1", "ACTB"], ["ENSG00000115415", "ENSG00000075624"])
    vectors = pd.DataFrame([[1.0], [2.0]], index=["ENSG00000075624.15", "ENSG00000115415.20"], columns=["a"])
    read = read_vectors(write(vectors, tmp_path / "vectors.tsv"))
    found = gene_vectors(cells, read, "vectors.tsv")
    assert found.to_df().iloc[:, 0].to_dict() == {"STAT1": 2, "ACTB": 1}


@pytest.mark.parametrize("names", [["ENSG00000115415"], ["Q9"], ["ACTB"]])
def test_vectors_of_no_perturbed_gene_are_refused(names):
    with pytest.raises(InputError, match=r"none of the 1 perturbed genes \(STAT1, \.\.\.\), but " + names[0]):
        gene_vectors(cells_of(["STAT1"], ["STAT1", "ACTB"]), pd.DataFrame([[1.0]], index=names), "mine.tsv")


def screen(seed, factors, n_genes=40):
    """A screen without noise in which each perturbation does the sum of hidden programs, which differ by screen."""
    random = np.random.default_rng(seed)
    changes = factors.to_numpy() @ random.normal(0, 0.5, (factors.shape[1], n_genes)) + random.normal(0, 0.5, n_genes)
    profile = random.uniform(5, 8, n_genes)
    labels = [*["control"] * 20, *np.repeat(factors.index, 2)]
    X = np.concatenate([np.tile(profile, (20, 1)), np.repeat(profile + changes, 2, axis=0)]).astype(np.float32)
    obs = pd.DataFrame({"perturbation": labels, "cell_type": "T"}, index=[f"cell{i}" for i in range(len(X))])
    genes = pd.DataFrame(index=[f"G{i}" for i in range(n_genes)])
    return halved(anndata.AnnData(sparse.csr_matrix(X), obs=obs, var=genes)), pd.DataFrame(changes, index=factors.index)


def test_another_screen_of_the_same_programs_tells_what_a_perturbation_does_and_other_vectors_do_not():
    names = [f"G{i}" for i in range(30)]
    factors = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 3)), index=names)
    cells, changes = screen(1, factors)
    other, _ = screen(2, factors)
    split = pd.DataFrame({"perturbation": names, "role": ["train"] * 25 + ["test"] * 5})
    test = ToPredict(names[25:], np.zeros((5, cells.n_vars)))

    def correlation(vectors):
        predicted = ridge(training_data(cells, split), test, embeddings=vectors, penalty=1e-3, components=5).values
        mean = changes[:25].to_numpy().mean(axis=0)
        return np.corrcoef((predicted - mean).ravel(), (changes[25:].to_numpy() - mean).ravel())[0, 1]

    vectors = changes_as_vectors(other, 3, "other")
    assert vectors.shape == (30, 3)
    assert correlation(vectors) > 0.95
    assert correlation(vectors.set_axis(np.random.default_rng(3).permutation(names))) < 0.5


def test_components_of_changes_are_those_of_genes_perturbed_alone():
    factors = pd.DataFrame(np.random.default_rng(0).normal(size=(6, 2)), index=["G0", "G1", "G2", "G3", "G4", "G0+G1"])
    cells, changes = screen(1, factors)
    vectors = changes_as_vectors(cells, 10, "cells.h5ad")
    assert list(vectors.index) == list(factors.index[:5])
    centred = (changes[:5] - changes[:5].mean()).to_numpy()
    np.testing.assert_allclose(vectors.to_numpy() @ vectors.to_numpy().T, centred @ centred.T, atol=1e-3)
    few = cells[cells.obs["perturbation"].isin(["control", "G0", "G1", "G0+G1"])]
    with pytest.raises(InputError, match="2 genes that are perturbed alone"):
        changes_as_vectors(few, 10, "cells.h5ad")


def test_a_method_gets_the_table_that_the_rule_writes(tmp_path):
    found = gene_vectors(cells_of(["STAT1"], ["STAT1", "ACTB"]), TABLE, "mine.tsv", **ORIGIN)
    found.write_h5ad(tmp_path / "vectors.h5ad")
    table = read_embeddings(tmp_path / "vectors.h5ad")
    assert table.attrs == ORIGIN
    assert table.loc["STAT1"].tolist() == [1.0, 2.0, 0.5]


def test_the_table_of_public_vectors_has_addresses_licences_and_checksums(tmp_path):
    row = {"name": "v", "address": "https://e.org/v.txt", "sha256": "unverified", "licence": "MIT", "source": "x"}

    def table(**changes):
        path = tmp_path / "vectors.tsv"
        path.write_text("\t".join(row) + "\n" + "\t".join((row | changes).values()) + "\n")
        return read_vector_files(path)

    assert table()["v"].file("unverified") == "resources/vectors/v/unverified/v.txt"
    assert table()["v"].sha256 is None
    named = table(address="https://e.org/files/7#go.tar.gz")["v"]  # an address without the name of the file
    assert named.file("unverified") == "resources/vectors/v/unverified/go.tar.gz"
    assert table(sha256="0123456789abcdef" * 4)["v"].sha256 == "0123456789abcdef" * 4
    for column, value in {"sha256": "unknown", "licence": "", "address": "vectors/v.txt"}.items():
        with pytest.raises(InputError, match=f"line 2 \\(v\\), column '{column}'"):
            table(**{column: value})
    for address in ("https://e.org/v.pickle", "https://e.org/{v}.txt", "https://e.org/"):
        with pytest.raises(InputError, match="a URL of a file that ends in"):
            table(address=address)
