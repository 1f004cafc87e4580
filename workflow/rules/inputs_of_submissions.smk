# Functions that choose parameters and inputs of the files for the Virtual Cell Challenge.


def submission_options(wildcards):
    """Challenge, contexts and limits of a submission."""
    options = config["submissions"][wildcards.submission]
    return {key: options[key] for key in ("challenge", "contexts", "limits")}


def genes_of_submission(wildcards):
    """The challenge's list of genes."""
    return config["submissions"][wildcards.submission]["genes"]


def parts_of_submission(wildcards):
    """The cells, splits and predictions of every context of a submission."""
    folders = [f"results/{dataset}" for dataset in config["submissions"][wildcards.submission]["contexts"].values()]
    prediction = f"{wildcards.split}/{wildcards.method}/{wildcards.seed}/predictions.h5ad"
    return {
        "cells": [f"{folder}/cells.h5ad" for folder in folders],
        "splits": [f"{folder}/{wildcards.split}/split.tsv" for folder in folders],
        "predictions": [f"{folder}/{prediction}" for folder in folders],
    }


def submissions_of_run():
    """The files for the Virtual Cell Challenge."""
    suffixes = {2025: "vcc", 2026: "h5ad"}
    return [
        f"results/submissions/{name}/{split}.{method}.{seed}.{suffixes[options['challenge']]}"
        for name, options in config["submissions"].items()
        for split in SPLITS
        for method, seed in predictions(options["methods"])
    ]
