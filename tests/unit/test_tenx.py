"""Folders and files of 10x in every shape that people have them: the same cells, genes and perturbations come out."""

import gzip
import io
import random
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from scgpt_bench.configuration import defaults
from scgpt_bench.data.catalogue import Dataset
from scgpt_bench.data.harmonize import harmonize
from scgpt_bench.data.readers import READER_NOTES, read
from scgpt_bench.data.tenx_files import choose, read_of_folder
from scgpt_bench.description import describe
from scgpt_bench.errors import InputError

GENES = ["STAT1", "JAK2", "IRF1", "GATA1", "SPI1", "CEBPA", "KLF1", "TP53", "MYC", "FOS"]
TARGETS = [*GENES[:6], "NT"]
CELLS = 140
LABELS = [TARGETS[cell % 7] for cell in range(CELLS)]
BARCODES = [f"AAAC{cell:05d}-1" for cell in range(CELLS)]
GUIDES = [f"{target}_g{number}" for target in TARGETS for number in (1, 2)]
COUNTS = np.random.default_rng(0).poisson(3, (CELLS, len(GENES)))
COUNTS[:, 6:] += 1
NAMED = {"perturbation_column": "guide", "control_label": "NT", "guide_suffix": r"_g\d+$"}


def row(form="10x_mtx", **columns):
    columns = {**NAMED, **columns}
    shared = {"values": "counts", "target_sum": 100.0, "perturbation_kind": "interference"}
    return Dataset(name="drop", address="drop", format=form, **shared, **columns)


def guide_of(cell, guides=GUIDES):
    return guides[2 * (cell % 7) + cell % 2]


def guide_counts(guides=GUIDES):
    counts = np.zeros((CELLS, len(guides)), dtype=int)
    for cell in range(CELLS):
        counts[cell, guides.index(guide_of(cell, guides))] = 20
    return counts


def features(guides=GUIDES):
    rows = [[f"ENSG{number:011d}", gene, "Gene Expression"] for number, gene in enumerate(GENES)]
    return rows + [[guide, guide, "CRISPR Guide Capture"] for guide in guides]


def folder(
    path, *, zipped=("matrix", "features", "barcodes"), prefix="", names=("matrix.mtx", "features.tsv", "barcodes.tsv"),
    guides=GUIDES, columns=3, field="integer", end="\n", mark=b"", quote="", files=(),
):  # fmt: skip
    """A folder of this shape; ``files`` are further ones, by name."""
    path.mkdir(parents=True)
    rows, counts = features(guides), np.hstack([COUNTS, guide_counts(guides)])
    if columns < 3:  # no kinds: as before Cell Ranger 3, genes alone
        rows, counts = [row[2 - columns : 2] for row in rows[: len(GENES)]], COUNTS
    matrix = io.BytesIO()
    scipy.io.mmwrite(matrix, sparse.coo_matrix(counts.T.astype(float if field == "real" else int)), field=field)
    lines = [[f"{quote}{cell}{quote}" for cell in row] for row in rows]
    contents = {
        "matrix": matrix.getvalue(),
        "features": mark + end.join("\t".join(line) for line in [*lines, []]).encode(),
        "barcodes": mark + end.join([*BARCODES, ""]).encode(),
    }
    for (part, content), name in zip(contents.items(), names, strict=True):
        if part in zipped:
            (path / f"{prefix}{name}.gz").write_bytes(gzip.compress(content))
        else:
            (path / f"{prefix}{name}").write_bytes(content)
    for name, content in dict(files).items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def calls(separator=",", suffix="-1", end="\n", mark=""):
    lines = [["cell_barcode", "num_features", "feature_call", "num_umis"]]
    lines += [[name.replace("-1", suffix), "1", guide_of(cell), "20"] for cell, name in enumerate(BARCODES)]
    return mark + end.join(separator.join(line) for line in [*lines, []])


def harmonized(path, dataset=None, **options):
    dataset = dataset or row()
    return harmonize(read(path, dataset), dataset, minimum_cells=5, source=path, **options)


def assert_is_the_screen(cells):
    assert list(cells.var_names) == GENES
    np.testing.assert_array_equal(cells.layers["counts"].toarray(), COUNTS)
    assert list(cells.obs["perturbation"]) == ["control" if label == "NT" else label for label in LABELS]
    # Scaled over genes alone: guides and antibodies have no part in the sum.
    np.testing.assert_allclose(np.expm1(cells.X.toarray()).sum(axis=1), 100, rtol=1e-5)


CALLS = "protospacer_calls_per_cell.csv"
SHAPES = {
    "Cell Ranger": {},
    "STARsolo, or decompressed by hand": {"zipped": ()},
    "some compressed": {"zipped": ("matrix",)},
    "GEO": {"prefix": "GSM0000001_K562_"},
    "GEO with a point": {"prefix": "GSM0000001.", "zipped": ("features", "barcodes")},
    "real numbers": {"field": "real"},
    "genes.tsv": {"names": ("matrix.mtx", "genes.tsv", "barcodes.tsv"), "columns": 2, "files": {CALLS: calls()}},
    "genes.tsv.gz, uncompressed rest": {
        "names": ("matrix.mtx", "genes.tsv", "barcodes.tsv"), "columns": 2, "zipped": ("features",),
        "files": {CALLS: calls()},
    },
    "names only": {"columns": 1, "files": {CALLS: calls()}},
    "calls compressed": {"columns": 2, "files": {f"{CALLS}.gz": gzip.compress(calls().encode())}},
    "calls with semicolons, a mark and CRLF": {"columns": 2, "files": {CALLS: calls(";", end="\r\n", mark="\ufeff")}},
    "calls with tabs": {"columns": 2, "files": {CALLS: calls("\t")}},
    "calls without suffix": {"columns": 2, "files": {CALLS: calls(suffix="")}},
    "calls in a folder beside": {"files": {f"crispr_analysis/{CALLS}": calls()}},
    "saved on Windows": {"end": "\r\n", "mark": b"\xef\xbb\xbf", "zipped": ()},
    "quoted by R": {"quote": '"'},
    "in capitals": {"names": ("Matrix.mtx", "Features.tsv", "Barcodes.tsv")},
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_folder_of_any_shape_is_the_same_screen(tmp_path, shape):
    assert_is_the_screen(harmonized(folder(tmp_path / "drop", **SHAPES[shape])))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    zipped=st.sets(st.sampled_from(["matrix", "features", "barcodes"])),
    prefix=st.sampled_from(["", "GSM1_", "a.b-", "raw_", "Sample 1_"]),
    field=st.sampled_from(["integer", "real"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    names=st.sampled_from(["features.tsv", "genes.tsv"]),
    nested=st.lists(st.sampled_from(["outs", "filtered_feature_bc_matrix", "GRCh38", "Gene"]), max_size=3),
)
def test_a_folder_of_every_shape_is_the_same_screen(tmp_path_factory, nested, names, **shape):
    top = tmp_path_factory.mktemp("made") / "drop"
    folder(Path(top, *nested), names=("matrix.mtx", names, "barcodes.tsv"), **shape)
    assert_is_the_screen(harmonized(top))


def test_a_name_that_says_gz_of_a_file_that_is_not(tmp_path):
    path = folder(tmp_path / "drop")
    plain = gzip.decompress((path / "features.tsv.gz").read_bytes())
    (path / "features.tsv.gz").write_bytes(plain)
    assert_is_the_screen(harmonized(path))


def test_a_zip_of_a_folder_is_that_folder(tmp_path):
    path = folder(tmp_path / "drop")
    with zipfile.ZipFile(tmp_path / "drop.zip", "w") as archive:
        for entry in path.iterdir():
            archive.write(entry, f"some/where/{entry.name}")
            archive.writestr(f"__MACOSX/some/where/._{entry.name}", b"\0")
    assert_is_the_screen(harmonized(tmp_path / "drop.zip"))


def test_the_filtered_matrix_is_taken_and_said(tmp_path):
    for name in ("filtered", "raw"):
        folder(tmp_path / "outs" / f"{name}_feature_bc_matrix")
    cells = harmonized(tmp_path / "outs")
    assert_is_the_screen(cells)
    notes = cells.uns["harmonized"]["read"]
    assert notes["matrix"] == "filtered_feature_bc_matrix/matrix.mtx.gz"
    assert notes["passed_over"] == "raw_feature_bc_matrix/matrix.mtx.gz"


THREE = ("matrix.mtx", "features.tsv", "barcodes.tsv")


@pytest.mark.parametrize(
    ("names", "where", "found"),
    [
        ([f"{place}/{name}" for place in ("lane1", "lane2") for name in THREE], "matrix.mtx", "2 matrices: lane1/"),
        ([f"{place}_{name}" for place in ("GSM1", "GSM2") for name in THREE], "matrix.mtx", "2 matrices: GSM1_"),
        ([f"{place}/raw/{name}" for place in "ab" for name in THREE], "matrix.mtx", "2 matrices: a/raw/"),
        ([*THREE, "features.tsv.gz"], "features.tsv", "'features.tsv' and 'features.tsv.gz'"),
        ([*THREE, "genes.tsv"], "features.tsv", "'features.tsv' and 'genes.tsv'"),
        (THREE[:2], "barcodes.tsv", "none beside 'features.tsv', 'matrix.mtx'"),
        ([], "matrix.mtx", "none"),
        ([*THREE, "a/feature_reference.csv", "b/feature_reference.csv"], "feature_reference.csv", "'a/feature_ref"),
    ],
)
def test_what_leaves_open_which_file_is_meant_is_refused(names, where, found):
    with pytest.raises(InputError) as error:
        choose(names, "mine")
    assert (error.value.source, error.value.where) == ("mine", where)
    assert error.value.found.startswith(found)


def test_names_in_any_order_give_the_same_choice():
    names = [f"outs/{kind}_feature_bc_matrix/{name}.gz" for kind in ("raw", "filtered") for name in THREE]
    names += ["outs/possorted_genome_bam.bam", "outs/web_summary.html", f"outs/crispr_analysis/{CALLS}", "._matrix.mtx"]
    chosen = choose(names, "mine")
    assert len(chosen.all) == 4
    for seed in range(5):
        random.Random(seed).shuffle(names)
        assert choose(names, "mine") == chosen


def test_of_a_folder_the_matrix_its_names_and_the_calls_are_read_and_no_alignment(tmp_path):
    path = folder(tmp_path / "outs" / "filtered_feature_bc_matrix").parent
    (path / "crispr_analysis").mkdir()
    (path / "crispr_analysis" / CALLS).write_text(calls())
    (path / "possorted_genome_bam.bam").write_bytes(bytes(1000))
    read = {str(file.relative_to(path)) for file in read_of_folder(path)}
    assert read == {f"crispr_analysis/{CALLS}", *(f"filtered_feature_bc_matrix/{name}.gz" for name in THREE)}
    assert_is_the_screen(harmonized(path))
    assert read_of_folder(tmp_path / "absent") == []


def flipped(content):
    """Damaged in the middle."""
    changed = bytearray(content)
    changed[len(content) // 2] ^= 0xFF
    return bytes(changed)


@pytest.mark.parametrize(
    ("name", "change", "found"),
    [
        ("matrix.mtx.gz", lambda content: content[:-20], "EOFError"),
        ("matrix.mtx.gz", flipped, ""),
        ("features.tsv.gz", lambda content: content[:-20], "EOFError"),
        ("features.tsv.gz", lambda content: gzip.compress(gzip.decompress(content) + b"ENSG\n"), "1 columns"),
        ("features.tsv.gz", lambda content: gzip.compress("ENSG\tFOS".encode("utf-16")), "UnicodeDecodeError"),
        ("matrix.mtx.gz", lambda content: gzip.compress(b"<html>"), "ValueError"),
        ("matrix.mtx.gz", lambda content: b"", "ValueError"),
    ],
)
def test_a_damaged_part_is_named_with_the_users_folder(tmp_path, name, change, found):
    path = folder(tmp_path / "drop")
    (path / name).write_bytes(change((path / name).read_bytes()))
    with pytest.raises(InputError) as error:
        read(path, row())
    assert error.value.source == str(path)
    assert name in error.value.where
    assert found in error.value.found
    assert "\n" not in str(error.value)


def test_a_header_above_the_barcodes_is_named(tmp_path):
    path = folder(tmp_path / "drop", zipped=())
    (path / "barcodes.tsv").write_text("barcode\n" + (path / "barcodes.tsv").read_text())
    with pytest.raises(InputError, match=r"24 x 140; expected 24 features x 141 barcodes.*may have a header"):
        read(path, row())


def test_a_matrix_with_a_cell_in_each_row_is_refused_with_the_reason(tmp_path):
    path = folder(tmp_path / "drop", zipped=())
    scipy.io.mmwrite(path / "matrix.mtx", sparse.coo_matrix(np.hstack([COUNTS, guide_counts()])))
    with pytest.raises(InputError, match=r"140 x 24; expected 24 features x 140 barcodes.*transpose it"):
        read(path, row())


def test_calls_of_another_lane_are_not_taken_for_these_cells(tmp_path):
    path = folder(tmp_path / "drop", files={CALLS: calls(suffix="-2")})
    with pytest.raises(InputError, match=r"drop: cell_barcode of proto.*'AAAC00000-2'.*such as 'AAAC00000-1'"):
        read(path, row())


# Guides whose names say nothing, and the reference that lists their targets.

PLAIN = [f"sgRNA-{number:04d}" for number in range(12)] + ["Non-Targeting-1", "Non-Targeting-2"]
OF_PLAIN = [target for target in [*GENES[:6], "Non-Targeting"] for _ in range(2)]
UNNAMED = {"control_label": "Non-Targeting-1|Non-Targeting-2", "guide_suffix": None}


def reference(guides=PLAIN, targets=OF_PLAIN, column="target_gene_name", separator=","):
    lines = [["id", "name", "read", "pattern", "sequence", "feature_type", column]]
    kind = ["R2", "(BC)", "ACGT", "CRISPR Guide Capture"]
    lines += [[guide, guide, *kind, target] for guide, target in zip(guides, targets, strict=True)]
    lines.append(["CD3", "CD3", "R2", "(BC)", "ACGT", "Antibody Capture", ""])
    return "\n".join(separator.join(line) for line in lines) + "\n"


def tenx_h5(path, guides=PLAIN, counts=None, **tags):
    matrix = sparse.csc_matrix(np.hstack([COUNTS, guide_counts(guides)]).T if counts is None else counts)
    rows = features(guides)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        group["shape"], group["barcodes"] = matrix.shape, np.array(BARCODES, dtype="S")
        for name, column in {"id": 0, "name": 1, "feature_type": 2}.items():
            group[f"features/{name}"] = np.array([row[column] for row in rows], dtype="S")
        for name, values in tags.items():
            group[f"features/{name}"] = np.array([*[""] * len(GENES), *values], dtype="S")
    return path


@pytest.mark.parametrize("of", ["folder", "folder with semicolons", "identifiers only", "h5", "h5 with identifiers"])
def test_guides_whose_names_say_nothing_get_their_targets_from_the_reference(tmp_path, of):
    ids = {gene: identifier for identifier, gene, _ in features()} | {"Non-Targeting": "Non-Targeting"}
    form = "10x_h5" if of.startswith("h5") else "10x_mtx"
    if of == "h5":
        path = tenx_h5(tmp_path / "drop.h5", target_gene_name=OF_PLAIN)
    elif of == "h5 with identifiers":
        path = tenx_h5(tmp_path / "drop.h5", target_gene_id=[ids[target] for target in OF_PLAIN])
    elif of == "identifiers only":
        listed = reference(targets=[ids[target] for target in OF_PLAIN], column="target_gene_id")
        path = folder(tmp_path / "drop", guides=PLAIN, files={"feature_reference.csv": listed})
    else:
        listed = reference(separator=";" if "semicolons" in of else ",")
        path = folder(tmp_path / "drop", guides=PLAIN, files={"feature_reference.csv": listed})
    cells = harmonized(path, row(form, **UNNAMED))
    assert_is_the_screen(cells)
    assert cells.uns["harmonized"]["n_perturbations"] == 6
    assert list(cells.obs["guide"]) == [guide_of(cell, PLAIN) for cell in range(CELLS)]
    text = describe(read(path, row(form, **UNNAMED)), row(form, **UNNAMED), defaults(), source=path)
    assert "perturbations" in text
    by_target = row(form, perturbation_column="target", control_label="Non-Targeting", guide_suffix=None)
    assert_is_the_screen(harmonized(path, by_target))


def test_two_guides_of_one_gene_in_a_cell_are_one_perturbation_and_of_two_genes_a_combination(tmp_path):
    pairs = [f"{PLAIN[0]}|{PLAIN[1]}", f"{PLAIN[0]}|{PLAIN[2]}", f"{PLAIN[0]}|{PLAIN[12]}", PLAIN[13]]
    lines = ["cell_barcode,feature_call", *(f"{name},{pairs[cell % 4]}" for cell, name in enumerate(BARCODES))]
    files = {"feature_reference.csv": reference(), CALLS: "\n".join(lines)}
    cells = harmonized(folder(tmp_path / "drop", guides=PLAIN, files=files), row(**UNNAMED))
    assert list(cells.obs["perturbation"][:4]) == ["STAT1", "JAK2+STAT1", "STAT1", "control"]


def test_a_control_by_its_reference_alone_is_one(tmp_path):
    guides = [f"sgRNA-{number:04d}" for number in range(14)]
    path = folder(tmp_path / "drop", guides=guides, files={"feature_reference.csv": reference(guides)})
    assert_is_the_screen(harmonized(path, row(control_label="Non-Targeting", guide_suffix=None)))


@pytest.mark.parametrize(
    ("guides", "targets", "found"),
    [
        (GUIDES, [*OF_PLAIN[2:12], "STAT1", "STAT1", "NT", "NT"], "'STAT1_g1', which names 'STAT1', with the target"),
        (GUIDES, [*OF_PLAIN[:12], "MYC", "NT"], "'NT_g1', which names 'NT', with the target 'MYC'"),
        (GUIDES, ["Non-Targeting", *OF_PLAIN[1:12], "NT", "NT"], "'STAT1_g1', which names 'STAT1', with the target"),
        (["FOS", *PLAIN[1:]], OF_PLAIN, "'FOS', which names 'FOS', with the target 'STAT1'"),
        (["HS2_g1", *PLAIN[1:]], OF_PLAIN, "'HS2_g1', which names 'HS2', with the target 'STAT1'"),
    ],
)  # fmt: skip
def test_a_reference_that_contradicts_the_names_is_refused_and_either_can_be_asked_for(
    tmp_path, guides, targets, found
):
    path = folder(tmp_path / "drop", guides=guides, files={"feature_reference.csv": reference(guides, targets)})
    labels = {"control_label": "NT|Non-Targeting-1|Non-Targeting-2"}
    with pytest.raises(InputError) as error:
        harmonized(path, row(**labels))
    assert found in error.value.found
    assert "'target'" in error.value.expected
    assert "'guide_name'" in error.value.expected
    adata = read(path, row(**labels))
    assert adata.obs["guide_name"].iloc[0] == guide_of(0, guides)
    assert adata.obs["target"].iloc[0] == targets[guides.index(guide_of(0, guides))]


def test_a_reference_that_agrees_with_the_names_changes_nothing(tmp_path):
    targets = [target.lower() if target != "NT" else "Non-Targeting" for target in TARGETS for _ in range(2)]
    path = folder(tmp_path / "drop", files={"feature_reference.csv": reference(GUIDES, targets)})
    assert_is_the_screen(harmonized(path))


@pytest.mark.parametrize("word", ["", "None", "Ignore"])
def test_guides_without_a_target_keep_their_names(tmp_path, word):
    path = folder(tmp_path / "drop", files={"feature_reference.csv": reference(GUIDES, [word] * len(GUIDES))})
    assert_is_the_screen(harmonized(path))


def test_one_guide_with_two_targets_is_refused(tmp_path):
    listed = reference(GUIDES[:2] + GUIDES[:1], ["STAT1", "STAT1", "JAK2"])
    path = folder(tmp_path / "drop", files={"feature_reference.csv": listed})
    with pytest.raises(InputError, match=r"drop: target_gene_name: found the targets 'STAT1' and 'JAK2'"):
        read(path, row())


# HDF5 files of 10x.


def test_the_file_of_cell_ranger_2_is_read(tmp_path):
    matrix = sparse.csc_matrix(COUNTS.T)
    with h5py.File(tmp_path / "drop.h5", "w") as file:
        for name in ("data", "indices", "indptr"):
            file[f"GRCh38/{name}"] = getattr(matrix, name)
        file["GRCh38/barcodes"] = np.array(BARCODES, dtype="S")
        file["GRCh38/genes"] = np.array([row[0] for row in features()[: len(GENES)]], dtype="S")
        file["GRCh38/gene_names"] = np.array(GENES, dtype="S")
    (tmp_path / "calls.csv").write_text(calls())
    dataset = row("10x_h5", guide_table=str(tmp_path / "calls.csv"))
    assert_is_the_screen(harmonized(tmp_path / "drop.h5", dataset))
    with h5py.File(tmp_path / "drop.h5", "a") as file:
        file.copy("GRCh38", "mm10")
    with pytest.raises(InputError, match="genomes: found 'GRCh38', 'mm10'"):
        read(tmp_path / "drop.h5", dataset)


@pytest.mark.parametrize("kind", ["<i4", ">i4", "u1", "<i8", "<f4", ">f8", "<u2"])
def test_counts_of_any_type_of_number_are_read_from_10x(tmp_path, kind):
    path = tenx_h5(tmp_path / "drop.h5", guides=GUIDES)
    with h5py.File(path, "r+") as file:
        for name, dtype in {"data": kind, "indices": ">i8"}.items():
            stored = file[f"matrix/{name}"][:]
            del file[f"matrix/{name}"]
            file[f"matrix/{name}"] = stored.astype(dtype)
    assert_is_the_screen(harmonized(path, row("10x_h5")))


def test_what_else_the_file_holds_does_not_matter(tmp_path):
    path = tenx_h5(tmp_path / "drop.h5", guides=GUIDES)
    with h5py.File(path, "r+") as file:
        file["droplet_latents/x"] = np.zeros(3)  # of CellBender
        file["elsewhere"] = h5py.ExternalLink("absent.h5", "/x")
        del file["matrix/shape"]
    assert_is_the_screen(harmonized(path, row("10x_h5")))


def test_notes_say_where_guides_come_from(tmp_path):
    path = folder(tmp_path / "drop", guides=PLAIN, files={"feature_reference.csv": reference()})
    notes = read(path, row(**UNNAMED)).uns[READER_NOTES]
    assert notes["guide_reference"] == "feature_reference.csv"
    assert notes["n_cells_in_file"] == CELLS
