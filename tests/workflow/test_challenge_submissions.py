"""Submissions of the challenge's own size in genes, from generated cells, pass the organizers' commands and limits."""

import csv
import subprocess
import tarfile

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import sparse

import vcc_cli
from scgpt_bench.evaluation.submission import limits_of
from snakemake_checkout import ROOT, copy_of_checkout

CONTROLS = 820  # half of them are what predictions start from: 400 are drawn
TARGETS, CELLS = 12, 40
PREDICTED = [f"NEW{number}" for number in range(3)]


def screen(genes, contexts):
    """Counts of a cell line with a screen of ``TARGETS`` genes, and of others of which only control cells are known."""
    random = np.random.default_rng(1)
    usual, matrices, tables = random.lognormal(-1.5, 1.5, len(genes)), [], []
    for context, n_targets in contexts.items():
        labels = ["non-targeting"] * CONTROLS + [gene for gene in genes[:n_targets] for _ in range(CELLS)]
        means = usual * random.lognormal(0, 0.3, len(genes))
        for label in dict.fromkeys(labels):
            number = labels.count(label)
            changed = means * (1 if label == "non-targeting" else random.lognormal(0, 0.2, len(genes)))
            matrices.append(sparse.csr_matrix(random.poisson(changed, (number, len(genes))).astype(np.float32)))
        tables.append(pd.DataFrame({"target_gene": labels, "context": context, "batch": "b", "guide_id": labels}))
    obs = pd.concat(tables, ignore_index=True)
    obs.index = obs.index.astype(str)
    return anndata.AnnData(sparse.vstack(matrices, format="csr"), obs=obs, var=pd.DataFrame(index=genes))


def write_row(checkout, name, **changes):
    """The catalogue's row of the challenge of 2025, of a local file and with changes."""
    with (ROOT / "config" / "datasets.tsv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file, delimiter="\t") if row["name"] == "vcc_2025_train")
    row |= {"name": name, "address": "cells.h5ad", "sha256": "unknown", "bytes": "", **changes}
    checkout.write("drops.tsv", "".join("\t".join(line) + "\n" for line in (row, row.values())))


@pytest.mark.long
def test_the_shipped_study_of_2025_makes_a_submission_of_all_genes(tmp_path):
    checkout, limits = copy_of_checkout(tmp_path), limits_of(2025)
    genes = [f"GENE{number}" for number in range(limits.genes)]
    screen(genes, {"H1": TARGETS}).write_h5ad(checkout.path / "cells.h5ad")
    write_row(checkout, "vcc_2025_train")
    given = checkout.path / "resources" / "vcc2025"
    given.mkdir(parents=True)
    (given / "gene_names.csv").write_text("\n".join(reversed(genes)) + "\n")
    lines = ["target_gene,n_cells,median_umi_per_cell", *(f"{name},100,5000.0" for name in PREDICTED)]
    for name in ("Validation", "Test"):
        (given / f"pert_counts_{name}.csv").write_text("\n".join(lines) + "\n")
    packed = "results/vcc2025/submissions/validation/tuned-simple.0.vcc"
    study = ["--configfile", "config/vcc2025.yaml", "--config", "dataset_table=drops.tsv"]
    checkout.snakemake(packed, *study)
    with tarfile.open(checkout.path / packed) as archive:
        archive.extractall(tmp_path, filter="data")
    subprocess.run(["zstd", "--quiet", "--decompress", str(tmp_path / "pred.h5ad.zst")], check=True)
    submission = anndata.read_h5ad(tmp_path / "pred.h5ad")
    assert list(submission.var_names) == genes[::-1]
    numbers = submission.obs["target_gene"].value_counts()
    assert numbers[PREDICTED].to_list() == [400] * 3
    assert set(numbers.index) == {*PREDICTED, "non-targeting"}
    measured = anndata.read_h5ad(checkout.path / "results/vcc2025/vcc_2025_train/cells.h5ad", backed="r")
    assert measured.n_vars == limits.genes


@pytest.mark.long
def test_a_submission_of_2026_for_contexts_with_control_cells_only_is_packed_by_vcc_prep(tmp_path):
    checkout, limits = copy_of_checkout(tmp_path), limits_of(2026)
    genes = [f"GENE{number}" for number in range(limits.genes)]
    screen(genes, {"H1": TARGETS, "A": 0, "B": 0, "C": 0}).write_h5ad(checkout.path / "cells.h5ad")
    write_row(checkout, "lines", context_column="context")
    checkout.write("gene_names.csv", "\n".join(genes) + "\n")
    checkout.write("pert_counts.csv", "\n".join(["target_gene", *PREDICTED]) + "\n")
    study = {
        "study": "vcc2026",
        "dataset_table": "drops.tsv",
        "datasets": ["lines"],
        "methods": {"train-mean": {}},
        "predict": {
            "phase1": {
                "dataset": "lines",
                "perturbations": "pert_counts.csv",
                "contexts": ["A", "B", "C"],
                "cells_per_perturbation": limits.cells_per_perturbation,
            }
        },
        "submissions": {
            "phase1": {"challenge": 2026, "prediction": "phase1", "genes": "gene_names.csv", "methods": ["train-mean"]}
        },
    }
    upload = "results/vcc2026/submissions/phase1/train-mean.0.h5ad"
    checkout.snakemake(upload, "--configfile", checkout.write("study.yaml", yaml.safe_dump(study)))
    lists = ["--genes", str(tmp_path / "gene_names.csv"), "--perts", str(tmp_path / "pert_counts.csv")]
    packed = vcc_cli.prep(
        vcc_cli.install(tmp_path / "vcc"), str(tmp_path / upload), *lists, "--contexts", "A,B,C", "--output",
        str(tmp_path / "phase1.vcc"),
    )  # fmt: skip
    assert packed["verified_targets"]
    assert packed["normalization"] == "counts-preserved"
    assert packed["cells_per_context"] == dict.fromkeys("ABC", len(PREDICTED) * limits.cells_per_perturbation)
    assert (tmp_path / "phase1.vcc").stat().st_size > 0
