"""A table of data sets or checkpoints is valid as a whole, or refused with the place of its first fault."""

from pathlib import Path

import pytest

from scgpt_bench.data.catalogue import CHECKPOINT_FILES, GENE_INFO, Dataset, read_checkpoints, read_datasets
from scgpt_bench.errors import InputError
from scgpt_bench.evaluation.published_results import read_published

CONFIG = Path(__file__).parents[2] / "config"
SUM = "0123456789abcdef" * 4
COLUMNS = [*Dataset.__dataclass_fields__]
ROW = {
    "name": "drop",
    "address": "https://example.org/drop.h5ad",
    "sha256": SUM,
    "format": "h5ad",
    "values": "counts",
    "target_sum": "10000",
    "perturbation_column": "gene",
    "control_label": "ctrl",
    "perturbation_kind": "interference",
}
FILE = {"name": "tiny", "address": "https://example.org/tiny", "sha256": SUM, "bytes": "10"}


def write(path, rows, columns=COLUMNS):
    path.write_text("\n".join("\t".join(row) for row in [columns, *[[r.get(c, "") for c in columns] for r in rows]]))
    return path


def test_the_projects_own_data_sets_are_valid():
    datasets = read_datasets(CONFIG / "datasets.tsv")
    assert list(datasets)[:3] == ["planted", "papalexi_2021", "perturbench_devel"]
    assert datasets["planted"].address == "generated"
    assert datasets["planted"].sha256 is None
    assert datasets["papalexi_2021"].bytes == 1358267
    # One file holds activation in K562 and interference in three other cell lines.
    assert datasets["perturbench_devel"].perturbation_kind == "mixed"


def test_the_projects_own_checkpoints_are_valid_and_complete():
    files = read_checkpoints(CONFIG / "checkpoints.tsv")["scGPT_human"].files
    assert set(files) == {*CHECKPOINT_FILES, GENE_INFO}
    assert files["best_model.pt"].bytes == 205385258
    assert files["args.json"].address.endswith("/args.json")


def test_an_empty_cell_is_not_there_and_a_number_is_a_number(tmp_path):
    dataset = read_datasets(write(tmp_path / "t.tsv", [ROW]))["drop"]
    assert dataset == Dataset(**{**ROW, "target_sum": 10000.0, "series": "drop"})
    assert dataset.batch_column is None
    assert Dataset(**dataset.row) == dataset


def test_columns_that_no_row_needs_may_be_left_out(tmp_path):
    """Tables written before a column existed stay valid."""
    assert read_datasets(write(tmp_path / "t.tsv", [ROW], [*ROW])) == read_datasets(write(tmp_path / "all.tsv", [ROW]))
    rows = [{**FILE, "file": file} for file in CHECKPOINT_FILES]
    assert "tiny" in read_checkpoints(write(tmp_path / "c.tsv", rows, ["name", "file", "address", "sha256", "bytes"]))


def test_a_space_may_join_the_genes_of_a_combination(tmp_path):
    rows = [{**ROW, "combination_separator": " "}, {**ROW, "name": "other", "batch_column": " "}]
    datasets = read_datasets(write(tmp_path / "t.tsv", rows))
    assert datasets["drop"].combination_separator == " "
    assert datasets["other"].batch_column is None


def test_several_control_labels(tmp_path):
    table = write(tmp_path / "t.tsv", [{**ROW, "control_label": "ctrl | NT"}])
    assert read_datasets(table)["drop"].control_labels == ("ctrl", "NT")


def test_a_local_path_may_have_an_unknown_checksum(tmp_path):
    table = write(tmp_path / "t.tsv", [{**ROW, "address": "data/drop.h5ad", "sha256": "unknown"}])
    assert read_datasets(table)["drop"].sha256 is None


def test_an_address_that_nobody_tried_may_be_unverified_and_its_source_may_publish_an_md5(tmp_path):
    row = {**ROW, "sha256": "unverified", "md5": SUM[:32], "status": "unverified"}
    dataset = read_datasets(write(tmp_path / "t.tsv", [row]))["drop"]
    assert (dataset.sha256, dataset.md5, dataset.status) == (None, SUM[:32], "unverified")


def test_a_row_is_a_series_of_its_own_unless_it_says_otherwise(tmp_path):
    rows = [ROW, {**ROW, "name": "drop_2", "series": "drop"}]
    assert [dataset.series for dataset in read_datasets(write(tmp_path / "t.tsv", rows)).values()] == ["drop", "drop"]


def test_every_published_figure_is_of_a_known_data_set_and_says_whether_it_was_tried():
    datasets = read_datasets(CONFIG / "datasets.tsv")
    assert set(read_published(CONFIG / "published_results.tsv")["dataset"]) <= set(datasets)
    for name in ("norman_gears", "norman_2019", "replogle_k562_gwps", "vcc_2025_train"):
        assert datasets[name].status == "unverified"


def test_columns_are_neither_missing_nor_unknown_nor_repeated(tmp_path):
    for columns, found in [
        ([name for name in COLUMNS if name != "values"], "missing column 'values'"),
        ([*COLUMNS, "colour"], "unknown column 'colour'"),
        ([*COLUMNS, "name"], "repeated column 'name'"),
    ]:
        with pytest.raises(InputError, match=found):
            read_datasets(write(tmp_path / "t.tsv", [ROW], columns))


def checkpoint_table(tmp_path, rows):
    return write(tmp_path / "c.tsv", rows, ["name", "file", "address", "sha256", "bytes", "licence", "source"])


def test_a_checkpoint_has_its_three_files_once(tmp_path):
    rows = [{**FILE, "file": file} for file in CHECKPOINT_FILES]
    assert set(read_checkpoints(checkpoint_table(tmp_path, rows))["tiny"].files) == set(CHECKPOINT_FILES)
    more = checkpoint_table(tmp_path, [*rows, {**FILE, "file": GENE_INFO}])
    assert set(read_checkpoints(more)["tiny"].files) == {*CHECKPOINT_FILES, GENE_INFO}
    with pytest.raises(InputError, match=r"no row for vocab\.json"):
        read_checkpoints(checkpoint_table(tmp_path, rows[:2]))
    with pytest.raises(InputError, match=r"'args\.json' of 'tiny' a second time"):
        read_checkpoints(checkpoint_table(tmp_path, [*rows, rows[1]]))


def test_a_checkpoint_is_a_folder_or_files(tmp_path):
    folder = {**FILE, "file": "folder", "address": "https://example.org/folder"}
    file = {**FILE, "file": CHECKPOINT_FILES[0]}
    for rows in ([folder, file], [file, folder]):
        with pytest.raises(InputError, match="files, or one folder"):
            read_checkpoints(checkpoint_table(tmp_path, rows))


def test_every_published_checkpoint_has_an_entry():
    known = read_checkpoints(CONFIG / "checkpoints.tsv")
    folders = {name for name, checkpoint in known.items() if checkpoint.folder}
    published = {"continual", "brain", "blood", "heart", "lung", "kidney", "pan_cancer"}
    assert folders == {f"scGPT_{name}" for name in published}
    assert set(known) == folders | {"scGPT_human"}
