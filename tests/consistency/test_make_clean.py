"""`make clean` removes results, and nothing by which Snakemake knows what the kept checkpoints were made from."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
KEPT = [
    ".snakemake/metadata/record",
    ".venv/installed",
    "resources/checkpoints/pretrained/best_model.pt",
]
REMOVED = [
    "logs/pretrain/pretrained.log",
    "results/benchmarks/pretrain/pretrained.tsv",
    "results/planted/cells.h5ad",
    "results/report.html",
]


def test_make_clean_keeps_checkpoints_and_the_records_of_what_they_were_made_from(tmp_path):
    for name in KEPT + REMOVED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    shutil.copy(ROOT / "Makefile", tmp_path)
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == sorted([*KEPT, "Makefile"])
