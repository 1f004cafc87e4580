"""The smallest run that has every stage: planted cells, a pretrained and a fine-tuned model, about a minute."""

import hashlib
from pathlib import Path

import yaml

from snakemake_checkout import Checkout

MODEL = {"embsize": 16, "nlayers": 1, "nheads": 2, "d_hid": 16}
STUDY = {
    "study": "tiny",
    "datasets": ["planted"],
    "generated": {
        "planted": {
            "modules": 4,
            "genes_per_module": 8,
            "targets_per_module": 3,
            "cells_per_perturbation": 30,
            "control_cells": 150,
            "atlas_cells": 200,
            "atlas_states": 5,
            "truth_draws": 100,
        }
    },
    "splits": {"folds": 3, "minimum_cells": 20},
    "controls": {"cells_per_perturbation": 10},
    "hardware": {"gpu": 0, "threads": 1},
    "checkpoints": {
        "pretrained": {
            **{"source": "pretrain", "dataset": "planted", **MODEL, "include_zero_genes": True, "epochs": 1},
            **{"batch_size": 32, "warm_up": 2, "second_pass_after": None, "held_out": 0.1},
        },
    },
    "methods": {
        "train-mean": {},
        "technical-duplicate": {},
        "scgpt-zero-shot": {"checkpoint": "pretrained"},
        "scgpt-finetuned": {
            **{"checkpoint": "pretrained", "seeds": [0], "epochs": 2},
            **{"batch_size": 32, "validation_cells": 8},
        },
    },
}
TARGETS = ["results/tiny/scores.tsv", "results/tiny/verdicts.tsv"]


def write(checkout: Checkout, **inference) -> None:
    checkout.write("tiny.yaml", yaml.safe_dump({**STUDY, "inference": inference}))


def arguments(*more: str) -> list[str]:
    return [*TARGETS, *more, "--configfile", "tiny.yaml"]


def tables(folder: Path) -> dict[str, str]:
    """The checksum of every table of metrics, scores and verdicts, by path."""
    paths = [*folder.glob("results/*/*.tsv"), *folder.glob("results/*/*/*/*/*/metrics.tsv")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
