"""A rehearsal of a large study: generated cells of the Virtual Cell Challenge's form through the rules, to two reports.

Two studies, each run by Snakemake as a user runs one:

- ``rehearsal``: a fraction of the challenge's 221,273 cells x 18,080 genes, 6,000 values a cell; simple methods,
  official scorers, a list to predict and submissions for both challenges. It is run with an eighth of the cells too:
  the slope gives what a million cells take.
- ``rehearsal-scgpt``: scGPT of the published size with random weights, on ``FEW_CELLS`` cells of the same genes: a few
  steps of pretraining and fine-tuning, and predictions of ``STARTED_FROM`` cells of each of two conditions.

What is left out: rules that download, GEARS, and those of several contexts or drops (``LEFT_OUT``). Of scGPT, only
time and memory by cell are to be learned: all predictions of a study of this size take days on a CPU.

The table has a row for each rule: jobs, the longest of them and all together, largest resident memory, and the size of
what they wrote. It is ``results/rehearsal-<machine>.tsv`` for the default sizes.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import drops
import numpy as np
import pandas as pd
import psutil
import run
import yaml

ROOT = Path(__file__).parents[1]
LARGE, SCGPT = "rehearsal", "rehearsal-scgpt"
MILLION = 1_000_000
SMALLER = 8  # the large study is run with so much fewer cells too
MEMORY_SHARE = 0.9  # of the machine's, for all jobs that run at once
PERTURBATIONS = 20  # at least
EFFECTS, CHANGED = 0.03, 3  # share of the genes that a perturbation raises, by so many counts
FEW = {"train": (16, 16), "validation": (16,), "test": (16, 16)}  # cells of each perturbation, by role
FEW_CONTROLS = 48
FEW_CELLS = FEW_CONTROLS + sum(map(sum, FEW.values()))
STARTED_FROM = 2
SUBMITTED = 20  # cells of a perturbation
LEFT_OUT = {
    "fetch_checkpoint", "fetch_vectors", "pretrain_census", "prefetch",  # download
    "predict_gears",  # needs an environment of its own
    "generate_dataset", "copy_checkpoint",  # of other sources
    "harmonize_part", "join", "transfer", "figure_contexts", "drop_comparison",  # of several data sets or contexts
}  # fmt: skip
SIMPLE = {"tuned-simple": {"vectors": "own"}, "technical-duplicate": {}}
COLUMNS = (
    "rule", "study", "cells", "jobs", "longest_s", "all_s", "peak_MB", "disk_MB", "all_s_at_1M", "peak_MB_at_1M",
    "disk_MB_at_1M",
)  # fmt: skip


def disk_bytes(cells: int, genes: int) -> float:
    """Estimate what the rehearsal needs, by 8 bytes for a stored value and 4 for a predicted one.

    Values are stored in the drop, in X and in the counts of cells.h5ad, and in those of the file that a script of a
    method's own reads. Each method predicts 100 cells of a fifth of the perturbations in two splits.
    """
    stored = 5 * 8 * cells * min(drops.STORED, genes // 2)
    predicted = 4 * genes * 100 * (perturbations_of(cells) / 5) * 2 * (len(SIMPLE) + 1)
    return stored + predicted + 2e9  # checkpoints of scGPT


def perturbations_of(cells: int) -> int:
    return max(PERTURBATIONS, round(drops.PERTURBATIONS * cells / drops.FULL))


def gene_names(number: int) -> list[str]:
    """Genes that scGPT's human vocabulary has."""
    from scgpt_bench.scgpt.vocabulary import human_vocabulary

    return [gene for gene in sorted(human_vocabulary()) if gene.isalnum() and gene.isupper()][:number]


def write_drop(path: Path, labels: np.ndarray, genes: list[str]) -> None:
    """Counts at random; a perturbation raises a random share of the genes, and its target is not found."""
    from scgpt_bench.data.on_disk import CellWriter

    generator, stored = np.random.default_rng(0), min(drops.STORED, len(genes) // 2)
    names, groups = np.unique(labels, return_inverse=True)
    raised = generator.random((len(names), len(genes))) < EFFECTS
    raised[names == "NT"] = False
    with CellWriter(path, len(genes)) as file:
        for start in range(0, len(labels), 1000):
            own = groups[start : start + 1000]
            counts = drops.random_counts(generator, len(own), len(genes), stored)
            counts.data += CHANGED * raised[np.repeat(own, stored), counts.indices]
            file.append(counts)
        batches = generator.choice(["a", "b", "c"], len(labels))
        file.obs = pd.DataFrame(
            {"gene": pd.Categorical(labels), "batch": pd.Categorical(batches)},
            index=[f"cell{i}" for i in range(len(labels))],
        )
        file.var = pd.DataFrame(index=genes)


def write_studies(folder: Path, cells: int, genes: int) -> None:
    """Write cells, tables and configurations of both studies into a folder to run them in."""
    names, generator = gene_names(genes), np.random.default_rng(1)
    number = perturbations_of(cells)
    share = np.r_[drops.CONTROL_SHARE, np.full(number, (1 - drops.CONTROL_SHARE) / number)]
    write_drop(folder / "large.h5ad", generator.choice(["NT", *names[:number]], cells, p=share), names)
    roles = [role for role, sizes in FEW.items() for _ in sizes]
    few = names[: len(roles)]
    of_few = np.repeat(["NT", *few], [FEW_CONTROLS, *(size for sizes in FEW.values() for size in sizes)])
    write_drop(folder / "few.h5ad", of_few, names)
    pd.DataFrame({"perturbation": few, "role": roles}).to_csv(folder / "few.tsv", sep="\t", index=False)
    (folder / "genes.txt").write_text("\n".join(names) + "\n")
    (folder / "list.txt").write_text("\n".join(names[number : number + 20]) + "\n")
    vectors = pd.DataFrame(generator.normal(size=(len(names), 64)), index=pd.Index(names, name="gene"))
    vectors.to_csv(folder / "vectors.tsv", sep="\t")
    shutil.copy(ROOT / "docs" / "examples" / "shrunken_mean.py", folder)
    columns = (ROOT / "config" / "datasets.tsv").read_text().splitlines()[0].split("\t")
    row = {
        "version": "1", "sha256": "unknown", "format": "h5ad", "values": "counts", "target_sum": 1e4,
        "perturbation_column": "gene", "control_label": "NT", "batch_column": "batch",
        "perturbation_kind": "interference", "status": "tried", "licence": "MIT", "citation": "generated",
    }  # fmt: skip
    rows = [
        row | {"name": name, "address": f"{name}.h5ad", "cells": size, "genes": genes, "perturbations": perturbations}
        for name, size, perturbations in (("large", cells, number), ("few", FEW_CELLS, len(few)))
    ]
    pd.DataFrame(rows).reindex(columns=columns).to_csv(folder / "datasets.tsv", sep="\t", index=False)
    for study, options in studies(genes).items():
        (folder / f"{study}.yaml").write_text(yaml.safe_dump(options, sort_keys=False))


def studies(genes: int) -> dict[str, dict[str, Any]]:
    """The configurations of both studies, by name."""
    common = {"dataset_table": "datasets.tsv", "hardware": {"gpu": 0, "threads": 2}}
    submission = {"prediction": "next", "genes": "genes.txt", "methods": ["tuned-simple"]}
    limits = {"genes": genes}
    large = {
        "study": LARGE,
        "datasets": ["large"],
        **common,
        "splits": {"training_sizes": [8]},
        "vectors": {"own": {"source": "file", "path": "vectors.tsv"}},
        "methods": SIMPLE
        | {"shrunken-mean": {"kind": "script", "script": "shrunken_mean.py", "options": {"share": 0.5}}},
        "official_scorers": ["cell_eval", "cell_eval2"],
        "predict": {
            "next": {
                "dataset": "large", "perturbations": "list.txt", "methods": ["tuned-simple"],
                "cells_per_perturbation": SUBMITTED,
            }
        },
        "submissions": {
            "vcc2025": {"challenge": 2025, **submission, "limits": limits},
            "vcc2026": {
                "challenge": 2026, **submission, "contexts": {"A": "all"},
                "limits": limits | {"cells_per_perturbation": SUBMITTED},
            },
        },
    }  # fmt: skip
    steps = {"epochs": 1, "batch_size": 8}
    finetuning = {"seeds": [0], "validation_cells": STARTED_FROM, **steps}
    scgpt = {
        "study": SCGPT,
        "datasets": ["few"],
        **common,
        "splits": {"run": [], "files": {"few": {"few": "few.tsv"}}, "minimum_cells": 2},
        "controls": {"cells_per_perturbation": STARTED_FROM},
        "inference": {"shards": 2},
        "checkpoints": {
            "untrained": {"source": "random"},
            "pretrained": {"source": "pretrain", "dataset": "few", "held_out": 0.2, **steps},
        },
        "methods": {
            "control-mean": {},
            "train-mean": {},
            "scgpt-zero-shot": {"checkpoint": "untrained"},
            "scgpt-embedding-ridge": {"checkpoint": "untrained"},
            "scgpt-finetuned": {"checkpoint": "pretrained", **finetuning},
            "scgpt-scratch": {"checkpoint": "untrained", "search": {"learning_rate": [1e-4]}, **finetuning},
        },
    }
    return {LARGE: large, SCGPT: scgpt}


def snakemake(folder: Path, study: str, *arguments: str, output: int | None = None) -> str:
    """Run a study in its folder; what Snakemake prints where ``output`` is a pipe.

    Jobs run side by side where what they ask for fits into memory.
    """
    memory = int(MEMORY_SHARE * psutil.virtual_memory().total / 1e6)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow" / "Snakefile")]
    command += ["--profile", str(ROOT / "profiles" / "local"), "--directory", str(folder), *arguments]
    command += ["--resources", f"mem_mb={memory}", "--configfile", str(folder / f"{study}.yaml")]
    return subprocess.run(command, cwd=ROOT, stdout=output, text=True, check=True).stdout


def measured(folder: Path, study: str, cells: int) -> pd.DataFrame:
    """What each rule of a finished study took, by Snakemake's benchmark files and the files that it wrote."""
    results = folder / "results" / study
    found = []
    for path in (results / "benchmarks").rglob("*.tsv"):
        rule = path.relative_to(results / "benchmarks").parts[0].removesuffix(".tsv")
        times = pd.read_csv(path, sep="\t", na_values="-").iloc[-1]
        found.append({"rule": rule, "s": times["s"], "MB": times["max_rss"]})
    by_rule = pd.DataFrame(found).groupby("rule")
    table = pd.DataFrame(
        {
            "jobs": by_rule.size(), "longest_s": by_rule["s"].max(), "all_s": by_rule["s"].sum(),
            "peak_MB": by_rule["MB"].max(),
        }
    )  # fmt: skip
    table["disk_MB"] = pd.Series(written(folder, study)).reindex(table.index) / 2**20
    return table.reset_index().assign(study=study, cells=cells)


def written(folder: Path, study: str) -> dict[str, int]:
    """Bytes of the output files of each rule, as ``snakemake --summary`` lists them."""
    lines = snakemake(folder, study, "--summary", "--quiet", output=subprocess.PIPE).splitlines()
    header = next(number for number, line in enumerate(lines) if line.startswith("output_file\t"))
    sizes: dict[str, int] = {}
    for row in csv.DictReader(lines[header:], delimiter="\t"):
        path = folder / row["output_file"]
        files = [path] if path.is_file() else [*path.rglob("*")]
        sizes[row["rule"]] = sizes.get(row["rule"], 0) + sum(file.stat().st_size for file in files if file.is_file())
    return sizes


def rehearse(folder: Path, cells: int, genes: int) -> Iterator[pd.DataFrame]:
    """Run both studies, the large one in both sizes, and tell what a million cells take; the table after each run."""
    tables: dict[int, pd.DataFrame] = {}
    for size in (cells // SMALLER, cells):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_studies(folder, size, genes)
        targets = [f"results/{LARGE}/report.html", f"results/{LARGE}/summary.html"]
        targets += [f"results/{LARGE}/submissions/vcc2025/tuned-simple.0.vcc"]
        targets += [f"results/{LARGE}/submissions/vcc2026/tuned-simple.0.h5ad"]
        print(f"{LARGE}: {size:,} cells x {genes:,} genes ...", file=sys.stderr, flush=True)
        snakemake(folder, LARGE, *targets)
        tables[size] = measured(folder, LARGE, size)
        yield tables[size].reindex(columns=COLUMNS)
    part, whole = tables.values()
    for quantity in ("all_s", "peak_MB", "disk_MB"):
        smaller = part.set_index("rule")[quantity].reindex(whole["rule"]).to_numpy()
        slope = np.maximum(whole[quantity] - smaller, 0) / (cells - cells // SMALLER)
        whole[f"{quantity}_at_1M"] = whole[quantity] + slope * (MILLION - cells)
    yield pd.concat([part, whole]).reindex(columns=COLUMNS)
    print(f"{SCGPT} ...", file=sys.stderr, flush=True)
    snakemake(folder, SCGPT)
    yield pd.concat([part, whole, measured(folder, SCGPT, FEW_CELLS)]).reindex(columns=COLUMNS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fraction", type=float, default=1.0, help="of the challenge's cells")
    parser.add_argument("--genes", type=int, default=drops.GENES)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "rehearsal", help="emptied before and after")
    parser.add_argument("--output", type=Path, help="table; default: results/rehearsal-<machine>.tsv")
    arguments = parser.parse_args()
    cells = round(arguments.fraction * drops.FULL)
    arguments.folder.parent.mkdir(parents=True, exist_ok=True)
    needed, free = disk_bytes(cells, arguments.genes), shutil.disk_usage(arguments.folder.parent).free
    size = f"{cells:,} cells x {arguments.genes:,} genes"
    print(f"{size} need about {needed / 1e9:.0f} GB of disk; {free / 1e9:.0f} are free", flush=True)
    if needed > free:
        raise SystemExit("error: not enough disk: choose a smaller fraction")
    output = arguments.output or run.RESULTS / f"rehearsal-{run.machine()}.tsv"
    for table in rehearse(arguments.folder, cells, arguments.genes):  # a later run that fails leaves what was measured
        table.to_csv(output, sep="\t", index=False, float_format="%.4g")
    print(table.to_string(index=False, float_format="{:.4g}".format))
    print(f"\nRules left out: {', '.join(sorted(LEFT_OUT))}\nWritten to {output}")
    shutil.rmtree(arguments.folder)


if __name__ == "__main__":
    main()
