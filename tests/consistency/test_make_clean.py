"""`make clean` removes results, and nothing by which Snakemake knows what the kept files were made from."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
KEPT = [
    ".snakemake/metadata/record",
    ".venv/installed",
    "resources/checkpoints/pretrained/best_model.pt",
    "results/benchmarks/pretrain/pretrained.tsv",
]
REMOVED = ["logs/pretrain/pretrained.log", "results/planted/cells.h5ad", "results/report.html"]


def test_make_clean_keeps_what_a_checkpoint_was_made_from_and_what_it_cost(tmp_path):
    for name in KEPT + REMOVED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    shutil.copy(ROOT / "Makefile", tmp_path)
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == sorted([*KEPT, "Makefile"])
