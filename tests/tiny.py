"""The smallest run that has every stage: that of .test/config/config.yaml, about a minute."""

import hashlib
from pathlib import Path

import yaml

from snakemake_checkout import ROOT, Checkout

STUDY = yaml.safe_load((ROOT / ".test" / "config" / "config.yaml").read_text())
MODEL = {size: STUDY["checkpoints"]["pretrained"][size] for size in ("embsize", "nlayers", "nheads", "d_hid")}
TARGETS = ["results/tiny/scores.tsv", "results/tiny/verdicts.tsv"]


def write(checkout: Checkout, **inference) -> None:
    checkout.write("tiny.yaml", yaml.safe_dump({**STUDY, "inference": inference}))


def arguments(*more: str) -> list[str]:
    return [*TARGETS, *more, "--configfile", "tiny.yaml"]


def tables(folder: Path) -> dict[str, str]:
    """The checksum of every table of metrics, scores and verdicts, by path; not that of the times."""
    paths = [*folder.glob("results/*/*.tsv"), *folder.glob("results/*/*/*/*/*/metrics.tsv")]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.name != "cost.tsv"
    }
