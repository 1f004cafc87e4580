"""`make check-data`: what is understood of a drop, what it is enough for, and errors in the user's own words."""

import gzip
import hashlib
import logging
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import io, sparse

from scgpt_bench import check, configuration, description, folders
from scgpt_bench.errors import InputError

LIBRARY = Path(check.__file__).parents[1]
GENES = ["STAT1", "STAT2", "JAK2", "IRF1", "CD86", "CD274", "MYC", "not-a-gene"]
ROW = {
    "name": "drop",
    "address": "drop.h5ad",
    "sha256": "unknown",
    "format": "h5ad",
    "values": "counts",
    "target_sum": "10000",
    "perturbation_column": "gene",
    "control_label": "NT",
    "perturbation_kind": "interference",
}


def cells(numbers, **obs):
    """Counts of ``GENES`` in cells whose labels stand as often as ``numbers`` say."""
    labels = np.repeat([*numbers], [*numbers.values()])
    counts = np.random.default_rng(0).poisson(3, size=(len(labels), len(GENES))).astype(np.float32)
    table = pd.DataFrame({"gene": labels, **obs}, index=[f"cell{i}" for i in range(len(labels))])
    return anndata.AnnData(sparse.csr_matrix(counts), obs=table, var=pd.DataFrame(index=GENES))


def write_row(**changes):
    row = {**ROW, **changes}
    Path("config").mkdir(exist_ok=True)
    Path("config/datasets.tsv").write_text("\t".join(row) + "\n" + "\t".join(row.values()) + "\n")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder to run in, with a drop of seven perturbations and its row."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    cells({"NT": 60, **dict.fromkeys(GENES[:7], 30)}).write_h5ad("drop.h5ad")
    write_row()
    return tmp_path


def answer(capsys, *arguments):
    """The lines of the answer by their name; ``Next`` is what comes last."""
    assert check.main([*(arguments or ["drop"])]) == 0
    text, _, following = capsys.readouterr().out.partition("\nNext:\n")
    lines = [line.split("  ", 1) for line in text.splitlines()[1:] if not line.startswith(" ")]
    return {name.strip(): value.strip() for name, value in lines} | {"Next": following}


def refusal(capsys, *arguments):
    assert check.main([*(arguments or ["drop"])]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    last = said.err.splitlines()[-1]
    assert last.startswith("error: ")
    return last


def test_it_says_what_is_understood_and_what_comes_next(folder, capsys):
    said = answer(capsys)
    assert said["file"] == "drop.h5ad"
    assert said["cells"] == "270, all of them used"
    assert said["perturbations"].startswith("7 (interference) of 30 cells, such as ")
    assert said["targets"] == "7 of 7 are measured genes"
    assert said["known to scGPT"].startswith("7 of 8 genes, 7 of 7 targets, in the published vocabulary")
    assert said["Next"].splitlines() == [
        "sed 's|my_screen|drop|' config/my_screen.yaml > config/drop.yaml",
        "look through config/drop.yaml",
        "make plan configfile=config/drop.yaml",
        ".venv/bin/snakemake --profile profiles/local --configfile config/drop.yaml",
    ]
    assert {path.name for path in folder.iterdir()} == {"config", "drop.h5ad"}  # nothing was copied or written


def test_it_names_contexts_and_directions(capsys):
    assert answer(capsys)["contexts"] == "one (the row names no column)"
    assert answer(capsys)["directions"] == "210 cells down, by interference"
    drop = anndata.read_h5ad("drop.h5ad")
    drop.obs["line"], drop.obs["way"] = ["K562", "RPE1"] * 135, ["up", "down"] * 135
    drop.write_h5ad("drop.h5ad")
    write_row(context_column="line", perturbation_kind="mixed", direction_column="way")
    said = answer(capsys)
    assert said["contexts"] == "2 in 'line': K562, RPE1"
    assert said["directions"] == "105 cells down, 105 cells up, in 'way'"


def test_of_a_joined_data_set_it_says_what_the_parts_that_are_here_have_in_common(folder, capsys):
    cells({"NT": 60, **dict.fromkeys(GENES[1:7], 30)})[:, 1:].write_h5ad("other.h5ad")
    far = {"address": "https://example.org/far.h5ad", "sha256": "unverified"}
    rows = [ROW, {**ROW, "name": "other", "address": "other.h5ad"}, {**ROW, "name": "far", **far}]
    rows += [{"name": "both", "address": "joined:drop,other,far", "format": "joined", "target_sum": "10000"}]
    lines = [[*ROW], *([row.get(column, "") for column in ROW] for row in rows)]
    Path("config/datasets.tsv").write_text("".join("\t".join(line) + "\n" for line in lines))
    said = answer(capsys, "both")
    assert said["contexts"] == "drop, other, far"
    assert said["not here yet"] == "far: make check-data dataset=far"
    assert said["genes"] == "7 in all that are here, of drop 8, other 7"
    assert said["perturbations"] == "6 in all that are here, of drop 7, other 6"
    assert {path.name for path in folder.iterdir()} == {"config", "drop.h5ad", "other.h5ad"}  # nothing was fetched


def test_the_next_commands_make_a_valid_configuration(folder, capsys):
    for name in ("my_screen.yaml", "checkpoints.tsv", "published_results.tsv"):
        (folder / "config" / name).write_text((LIBRARY.parents[1] / "config" / name).read_text())
    subprocess.run(answer(capsys)["Next"].splitlines()[0], shell=True, check=True)
    configuration.validate(configuration.read("config/drop.yaml"), "config/drop.yaml")
    assert answer(capsys)["Next"].endswith("--configfile config/drop.yaml\n")


def test_a_table_of_its_own_is_named_in_the_configuration_that_the_next_step_makes(folder, capsys):
    for name in ("my_screen.yaml", "checkpoints.tsv", "published_results.tsv"):
        (folder / "config" / name).write_text((LIBRARY.parents[1] / "config" / name).read_text())
    write_row(name="My.drop")
    (folder / "config" / "datasets.tsv").rename(folder / "mine.tsv")
    said = answer(capsys, "My.drop", "--datasets", "mine.tsv")
    subprocess.run(said["Next"].splitlines()[0], shell=True, check=True)
    given = configuration.read("config/My.drop.yaml")
    assert (given["study"], given["datasets"], given["dataset_table"]) == ("my-drop", ["My.drop"], "mine.tsv")
    text = (folder / "config" / "My.drop.yaml").read_text()
    (folder / "config" / "My.drop.yaml").write_text(text.replace("dataset_table: mine.tsv\n", ""))
    other = answer(capsys, "My.drop", "--datasets", "mine.tsv")["Next"]
    assert other.splitlines()[0] == "put dataset_table: mine.tsv in config/My.drop.yaml"


def test_the_row_to_edit_is_run_by_its_own_configuration(folder, capsys):
    for name in ("my_screen.yaml", "checkpoints.tsv", "published_results.tsv"):
        (folder / "config" / name).write_text((LIBRARY.parents[1] / "config" / name).read_text())
    write_row(name="my_screen")
    said = answer(capsys, "my_screen")
    assert said["options"] == "of config/my_screen.yaml"
    assert said["Next"].splitlines()[0] == "make plan configfile=config/my_screen.yaml"


def test_without_a_configuration_it_judges_by_the_one_that_the_next_step_makes(folder, capsys):
    said = answer(capsys)
    assert said["options"] == "of config/my_screen.yaml, which the next step copies"
    assert said["verdicts"] == "enough: the folds that are run (0, 1, 2, 3, 4) test 7"
    for name in ("my_screen.yaml", "checkpoints.tsv", "published_results.tsv"):
        (folder / "config" / name).write_text((LIBRARY.parents[1] / "config" / name).read_text())
    subprocess.run(said["Next"].splitlines()[0], shell=True, check=True)
    after = answer(capsys)
    assert after.pop("options") == "of config/drop.yaml"
    for name in ("scGPT_human", "untrained"):
        assert after.pop(f"known to {name}") == "not known before a run fetches or makes it"
    assert after == {key: value for key, value in said.items() if key != "options"} | {"Next": after["Next"]}


def test_the_targets_that_scgpt_does_not_know_are_named(capsys):
    drop = anndata.read_h5ad("drop.h5ad")
    drop.obs["gene"] = drop.obs["gene"].astype(str).replace({"MYC": "not-a-gene"})
    drop.write_h5ad("drop.h5ad")
    assert "6 of 7 targets (not not-a-gene)" in answer(capsys)["known to scGPT"]


def test_without_the_package_of_scgpt_its_vocabulary_is_not_known(capsys, monkeypatch):
    def absent():
        raise InputError("scgpt", "installed packages", "no such package", "scgpt 0.2.4")

    monkeypatch.setattr(description, "human_vocabulary", absent)
    assert "package scgpt" in answer(capsys)["known to scGPT"]


@pytest.mark.parametrize(
    ("options", "line", "expected"),
    [
        (
            {"folds": 5},
            "folds",
            r"enough for 5: 7 of 7 perturbations have 30 cells or more, 1 or 2 tested by each fold",
        ),
        ({"folds": 8}, "folds", r"not enough for 8 folds: 7 perturbations; expected at least 8, one for each fold"),
        ({"minimum_cells": 31}, "folds", r"not enough for 5 folds: 0 of 7 perturbations with at least 31 cells"),
        ({"folds": 2, "run": [0, 1]}, "verdicts", r"enough: the folds that are run (0, 1) test 7"),
        (
            {"folds": 2, "run": [0]},
            "verdicts",
            r"not enough: the folds that are run (0) test 4 conditions; at least 6 independent",
        ),
        ({"folds": 2, "run": [0]}, "verdicts", r"ones are needed; all folds test 7 (splits.run)"),
    ],
)
def test_enough_is_judged_by_the_options_of_a_study(capsys, options, line, expected):
    study = {
        "study": "mine",
        "datasets": ["drop"],
        "splits": options,
        "methods": {"train-mean": {}, "mine": {"kind": "script"}},
    }
    study["methods"]["mine"]["script"] = "mine.py"
    for name in ("checkpoints.tsv", "published_results.tsv"):
        Path("config", name).write_text((LIBRARY.parents[1] / "config" / name).read_text())
    Path("study.yaml").write_text(yaml.safe_dump(study))
    said = answer(capsys, "drop", "--configfile", "study.yaml")
    assert expected in said[line]
    assert said["Next"].endswith("--configfile study.yaml\n")


def test_it_says_what_each_held_out_context_tests(capsys):
    drop = anndata.read_h5ad("drop.h5ad")
    drop.obs["line"] = np.where(np.arange(270) % 5 == 4, "RPE1", "K562")
    drop.write_h5ad("drop.h5ad")
    write_row(context_column="line", contexts="K562|RPE1")
    for name in ("checkpoints.tsv", "published_results.tsv"):
        Path("config", name).write_text((LIBRARY.parents[1] / "config" / name).read_text())
    options = {"run": [], "minimum_cells": 20, "contexts": {"hold_out": "all"}}
    study = {"study": "mine", "datasets": ["drop"], "splits": options, "methods": {"train-mean": {}}}
    study["harmonize"] = {"minimum_cells": 5}
    Path("study.yaml").write_text(yaml.safe_dump(study))
    said = answer(capsys, "drop", "--configfile", "study.yaml")["held-out contexts"]
    assert said.startswith("K562: found no validation perturbation; expected at least one of each")
    assert "RPE1: found no test perturbation" in said


def test_few_cells_for_reliability_and_noisy_controls_are_said(capsys):
    cells({"NT": 5, "STAT1": 12, "STAT2": 10, "JAK2": 20}).write_h5ad("drop.h5ad")
    said = answer(capsys)
    assert said["reliability"].startswith(
        "3 of 3 perturbations have the 10 cells that it takes; fewer controls than that"
    )
    assert said["controls' noise"].startswith("71% of the noise of a change")  # 12 / (12 + 5)
    assert "few: 100 are drawn" in said["controls' noise"]


@pytest.mark.parametrize(("number", "largest"), [(9, 9), (1, 1), (0, 0)])
def test_a_drop_whose_perturbations_are_all_too_small_is_refused_as_a_run_does(capsys, number, largest):
    cells({"NT": 60, **({"STAT1": number, "JAK2": number} if number else {})}).write_h5ad("drop.h5ad")
    expected = f"perturbations of at most {largest} cells; expected a perturbation with at least 10 cells"
    assert expected in refusal(capsys)


def test_cells_of_perturbations_that_are_left_out_are_not_called_used(capsys):
    cells({"NT": 60, "STAT1": 30, "JAK2": 30, "MYC": 9}).write_h5ad("drop.h5ad")
    said = answer(capsys)
    assert said["cells"] == "129, 120 of them used"
    assert said["too few cells"] == "1 perturbations of fewer than 10 cells, left out: MYC"


@pytest.mark.parametrize("number", [3, 9])
def test_few_controls_are_a_problem_in_words(capsys, number):
    cells({"NT": number, "STAT1": 30, "JAK2": 30}).write_h5ad("drop.h5ad")
    said = answer(capsys)
    assert said["controls"] == f"{number} cells labelled 'NT'"
    assert said["reliability"].endswith(f"; fewer controls than that: {number}")
    expected = f"fewer than 10 control cells: {number}; the response of perturbations is unknown"
    assert said["problems"] == expected


def test_names_that_several_cells_have_are_repaired_as_in_a_run(capsys):
    drop = cells({"NT": 60, "STAT1": 30, "JAK2": 30})
    drop.obs_names = ["cell0", "cell0", *drop.obs_names[2:]]
    drop.write_h5ad("drop.h5ad")
    assert answer(capsys)["repairs"] == "duplicate cell names made unique by a number at the end"


def test_cell_types_and_batches_without_controls_are_problems(capsys):
    kinds = ["K562"] * 50 + ["HeLa"] * 10 + ["K562"] * 30 + ["RPE1"] * 30
    drop = cells({"NT": 60, "STAT1": 30, "JAK2": 30}, kind=kinds)
    drop.write_h5ad("drop.h5ad")
    write_row(cell_type_column="kind")
    expected = "no control cell in 1 of 3 cell types (RPE1): a run stops at their cells"
    assert answer(capsys)["problems"] == expected
    drop.obs["kind"] = drop.obs["kind"].astype(str)
    drop.obs.iloc[0, drop.obs.columns.get_loc("kind")] = "RPE1"
    drop.write_h5ad("drop.h5ad")
    expected = (
        "fewer than 10 control cells: in 1 of 3 cell types (RPE1); the response of perturbations of more than 5% "
    )
    said = answer(capsys)
    assert said["problems"] == expected + "of such cells is unknown"
    assert said["cell types"].endswith("; add type-mean: {} to the methods, the simple method that knows them")
    write_row(batch_column="kind")
    drop.obs["kind"] = kinds
    drop.write_h5ad("drop.h5ad")
    assert answer(capsys)["problems"] == "no control cell in 1 of 3 batches, of 30 perturbed cells: 'RPE1'"


def test_guides_and_batches_are_counted_as_what_they_are(capsys):
    lanes = [f"lane{i % 4}" for i in range(60)] + [f"lane{i % 6}" for i in range(210)]
    guides = [f"NT_{i % 3}" for i in range(60)] + [
        f"{g}_1|{g}_2" if i % 2 else f"{g}_1" for g in GENES[:7] for i in range(30)
    ]
    cells({"NT": 60, **dict.fromkeys(GENES[:7], 30)}, lane=lanes, guide=guides).write_h5ad("drop.h5ad")
    write_row(batch_column="lane", guide_column="guide", combination_separator="|")
    said = answer(capsys)
    assert said["guides"] == "14 of targets, 3 of controls"
    assert said["batches"].endswith("; without controls 2 of 6: lane4, lane5")


def test_what_a_reader_decided_is_said_in_words(capsys):
    notes = description._reader_notes(
        {"n_cells_in_file": 1200, "n_cells_without_guide": 200, "minimum_guide_umis": 5, "minimum_guide_share": 0.8},
        1000,
    )
    assert notes["guide calls"].startswith("1,000 of 1,200 cells have a guide (5 UMIs or more, and 80% or more")
    assert not any("_" in word for word in (*notes, *notes.values()))


def write_10x(folder, features):
    folder.mkdir()
    matrix = sparse.csr_matrix(np.random.default_rng(1).poisson(3, size=(len(features), 40)))
    with gzip.open(folder / "matrix.mtx.gz", "wb") as file:
        io.mmwrite(file, sparse.coo_matrix(matrix))
    for name, lines in (("features.tsv.gz", features), ("barcodes.tsv.gz", [f"CELL{i}-1" for i in range(40)])):
        with gzip.open(folder / name, "wt") as file:
            file.write("".join(f"{line}\n" for line in lines))


def test_an_error_in_a_folder_names_the_folder_and_nothing_is_copied(folder, capsys, tmp_path_factory):
    mine = tmp_path_factory.mktemp("elsewhere") / "my screen"
    write_10x(mine, [f"{gene}\t{gene}\tGene Expression" for gene in GENES])
    write_row(address=str(mine), format="10x_mtx", perturbation_column="guide")
    line = refusal(capsys)
    assert line.startswith(f"error: {mine}: ")
    assert "source.zip" not in line
    assert {path.name for path in folder.iterdir()} == {"config", "drop.h5ad"}


def test_a_download_goes_where_a_run_looks_and_is_checked_again(folder, capsys):
    (folder / "mirror").mkdir()
    (folder / "drop.h5ad").rename(folder / "mirror" / "drop.h5ad")
    content = (folder / "mirror" / "drop.h5ad").read_bytes()
    remote = {"address": "https://example.org/drop.h5ad", "sha256": hashlib.sha256(content).hexdigest()}
    write_row(**remote, bytes=str(len(content)))
    assert check.main(["drop", "--mirror", "mirror"]) == 0
    said = capsys.readouterr()
    stored = folder / "resources" / "datasets" / "drop" / remote["sha256"] / "source.h5ad"
    assert f"Fetching https://example.org/drop.h5ad (0.1 MB) to {stored.relative_to(folder)}" in said.err
    assert stored.read_bytes() == content
    assert "example.org" in answer(capsys)["file"]  # there now, without the mirror
    stored.write_bytes(content[:-1])
    assert "delete the file, and it is fetched again" in refusal(capsys)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["dro"], "column 'name': found 'dro'; expected dataset=NAME with the name of a row: drop"),
        ([""], "column 'name': found no name to look for; expected dataset=NAME with the name of a row: drop"),
        (["drop", "--datasets", "none.tsv"], "none.tsv: table: found "),
        (["drop", "--configfile", "none.yaml"], "none.yaml: file: found "),
    ],
)
def test_a_wrong_request_is_one_line(capsys, arguments, expected):
    assert expected in refusal(capsys, *arguments)


def test_a_file_that_is_gone_or_another_is_named_as_the_user_does(folder, capsys):
    write_row(sha256="0" * 64)
    assert refusal(capsys).startswith("error: drop.h5ad: sha256: found ")
    (folder / "drop.h5ad").unlink()
    assert refusal(capsys).startswith("error: drop.h5ad: file: found no such file")


def test_a_wrong_option_prints_no_usage(folder):
    command = [sys.executable, "-m", "scgpt_bench.check", "drop", "--wrong"]
    done = subprocess.run(
        command,
        env={"PYTHONPATH": str(LIBRARY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: unrecognized arguments: --wrong; expected make check-data dataset=NAME\n"


def test_a_generated_data_set_is_made_in_memory(folder, capsys):
    write_row(
        address="generated", format="generated", sha256="", perturbation_column="perturbation", control_label="control"
    )
    planted = {
        "modules": 3,
        "targets_per_module": 2,
        "cells_per_perturbation": 20,
        "control_cells": 50,
        "atlas_cells": 20,
    }
    study = {
        "study": "mine",
        "datasets": ["drop"],
        "generated": {"drop": {**planted, "truth_draws": 2}},
        "methods": {"train-mean": {}},
    }
    for name in ("checkpoints.tsv", "published_results.tsv"):
        Path("config", name).write_text((LIBRARY.parents[1] / "config" / name).read_text())
    Path("study.yaml").write_text(yaml.safe_dump(study))
    assert answer(capsys, "drop", "--configfile", "study.yaml")["file"] == "generated just now, and not kept"
    assert not (folder / "resources").exists()


@pytest.mark.parametrize(
    "name", ["a b", "a'b", 'a"b', "a{b}", "a$b", "a&b", "a;b", "a(b)", "a\\b", "a|b", "a<b", "a`b", "a\tb"]
)
def test_folders_that_no_job_can_run_in_are_refused(name):
    with pytest.raises(InputError, match="run's folder: found the characters"):
        folders.refuse_unusable(Path("/home", name, "clone"), "run's folder")


@pytest.mark.parametrize("name", ["plain", "aé漢b", "a#b%c", "a*b?c[d]", "-a~b!c,d:e=f+g@h^i", ".ab"])
def test_folders_that_jobs_run_in_are_taken(name):
    folders.refuse_unusable(Path("/home", name, "clone"), "run's folder")
