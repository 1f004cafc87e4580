"""Write the table of docs/scaling.md: what 1, 10 and 100 million cells take, by the coefficients of resources.tsv.

python docs/write_scaling.py          rewrites it, between its markers
python docs/write_scaling.py --check  exits 1 when it is not up to date
"""

import dataclasses
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "lib"))

from scgpt_bench import configuration, resources, sizes  # noqa: E402

PAGE = ROOT / "docs" / "scaling.md"
MARKERS = re.compile(r"(<!-- table -->\n).*?(<!-- end -->\n)", re.DOTALL)
DATASET = "vcc_2025_train"
CELLS, PERTURBATIONS = (1_000_000, 10_000_000, 100_000_000), 10_000
STUDY = {
    "study": "scaling",
    "datasets": [DATASET],
    "harmonize": {"maximum_genes": 5000},
    "checkpoints": {"untrained": {"source": "random"}},
    "methods": {"train-mean": {}, "scgpt-finetuned": {"checkpoint": "untrained", "seeds": [0]}},
}
STEPS = {  # of the page: the rule and the method whose job it is
    "harmonize": ("harmonize", None),
    "card": ("card", None),
    "draw control cells": ("sample_controls", None),
    "measured means (`truth`)": ("truth", None),
    "a simple method": ("predict_baseline", "train-mean"),
    "metrics of a method": ("evaluate", "train-mean"),
    "`cell_eval`, reference": ("cell_eval_reference", None),
    "`cell_eval2`, a method": ("cell_eval2", "train-mean"),
    "one fine-tuning": ("finetune", "scgpt-finetuned"),
    "its predictions": ("predict_scgpt", "scgpt-finetuned"),
}


def sizes_of(cells: int) -> sizes.Sizes:
    """A study of so many cells in the form of the Virtual Cell Challenge, on a GPU."""
    run = configuration.validate(STUDY, "docs/write_scaling.py")
    row = dataclasses.replace(run.datasets[DATASET], cells=cells, perturbations=PERTURBATIONS)
    return sizes.Sizes(dataclasses.replace(run, datasets={**run.datasets, DATASET: row}), {}, {})


def rounded(number: float) -> str:
    """Two digits are more than an extrapolation has."""
    return f"{float(f'{number:.2g}'):,.10g}"


def table() -> str:
    needs = resources.read(ROOT / "workflow" / "resources.tsv")
    lines = ["| one job | " + " | ".join(f"{cells // 10**6} M cells" for cells in CELLS) + " |"]
    lines.append("| --- |" + " --- |" * len(CELLS))
    studies, disk = [sizes_of(cells) for cells in CELLS], []
    for name, (rule, method) in STEPS.items():
        shown = []
        for study in studies:
            job = {"dataset": DATASET, "split": "fold0", **({"method": method} if method else {})}
            on_gpu = int("gpu_minutes" in needs[rule].terms)
            hours = needs[rule].minutes(study, job, gpus=on_gpu) / 60
            memory = needs[rule].expected("memory_mb", study, job) / 1000
            shown.append(f"{rounded(hours)} {'GPU h' if on_gpu else 'h'}, {rounded(memory)} GB")
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    for name, rule in (("disk: `cells.h5ad`", "harmonize"), ("disk: predictions of a method", "predict_baseline")):
        job = {"dataset": DATASET, "split": "fold0", "method": "train-mean"}
        disk = [f"{rounded(needs[rule].expected('disk_mb', study, job) / 1000)} GB" for study in studies]
        lines.append(f"| {name} | " + " | ".join(disk) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    before = PAGE.read_text()
    after = MARKERS.sub(lambda found: f"{found[1]}\n{table()}\n\n{found[2]}", before)
    if sys.argv[1:] == ["--check"]:
        sys.exit(after != before and "docs/scaling.md is not up to date: run docs/write_scaling.py")
    PAGE.write_text(after)
