# The Virtual Cell Challenge's own scorers, as they are, and the files that the challenge takes.


rule cell_eval_reference:
    input:
        cells="<results>/{dataset}/cells.h5ad",
        split="<results>/{dataset}/{split}/split.tsv",
    output:
        directory("<results>/{dataset}/{split}/official/cell_eval"),
    log:
        "<logs>/cell_eval_reference/{dataset}.{split}.log",
    benchmark:
        "<benchmarks>/cell_eval_reference/{dataset}.{split}.tsv"
    conda:
        "../../envs/cell_eval.yaml"
    threads: config["hardware"]["threads"]
    resources:
        mem_mb=memory_of("cell_eval_reference"),
        runtime=minutes_of("cell_eval_reference"),
    params:
        code=code("cell_eval_reference.py"),
    script:
        "../scripts/cell_eval_reference.py"


rule cell_eval:
    input:
        cells="<results>/{dataset}/cells.h5ad",
        split="<results>/{dataset}/{split}/split.tsv",
        predictions="<results>/{dataset}/{split}/{method}/{seed}/predictions.h5ad",
        method="<results>/{dataset}/{split}/{method}/{seed}/method.json",
        reference="<results>/{dataset}/{split}/official/cell_eval",
    output:
        table="<results>/{dataset}/{split}/{method}/{seed}/official_cell_eval.tsv",
        summary="<results>/{dataset}/{split}/{method}/{seed}/official_cell_eval.json",
    log:
        "<logs>/cell_eval/{dataset}.{split}.{method}.{seed}.log",
    benchmark:
        "<benchmarks>/cell_eval/{dataset}.{split}.{method}.{seed}.tsv"
    conda:
        "../../envs/cell_eval.yaml"
    threads: config["hardware"]["threads"]
    resources:
        mem_mb=memory_of("cell_eval"),
        runtime=minutes_of("cell_eval"),
    params:
        code=code("run_cell_eval.py"),
    script:
        "../scripts/run_cell_eval.py"


rule cell_eval2_reference:
    input:
        cells="<results>/{dataset}/cells.h5ad",
        split="<results>/{dataset}/{split}/split.tsv",
    output:
        directory("<results>/{dataset}/{split}/official/cell_eval2"),
    log:
        "<logs>/cell_eval2_reference/{dataset}.{split}.log",
    benchmark:
        "<benchmarks>/cell_eval2_reference/{dataset}.{split}.tsv"
    conda:
        "../../envs/cell_eval2.yaml"
    threads: config["hardware"]["threads"]
    resources:
        mem_mb=memory_of("cell_eval2_reference"),
        runtime=minutes_of("cell_eval2_reference"),
    params:
        code=code("cell_eval2_reference.py"),
    script:
        "../scripts/cell_eval2_reference.py"


rule cell_eval2:
    input:
        cells="<results>/{dataset}/cells.h5ad",
        split="<results>/{dataset}/{split}/split.tsv",
        predictions="<results>/{dataset}/{split}/{method}/{seed}/predictions.h5ad",
        method="<results>/{dataset}/{split}/{method}/{seed}/method.json",
        reference="<results>/{dataset}/{split}/official/cell_eval2",
    output:
        table="<results>/{dataset}/{split}/{method}/{seed}/official_cell_eval2.tsv",
        summary="<results>/{dataset}/{split}/{method}/{seed}/official_cell_eval2.json",
    log:
        "<logs>/cell_eval2/{dataset}.{split}.{method}.{seed}.log",
    benchmark:
        "<benchmarks>/cell_eval2/{dataset}.{split}.{method}.{seed}.tsv"
    conda:
        "../../envs/cell_eval2.yaml"
    threads: config["hardware"]["threads"]
    resources:
        mem_mb=memory_of("cell_eval2"),
        runtime=minutes_of("cell_eval2"),
    params:
        code=code("run_cell_eval2.py"),
    script:
        "../scripts/run_cell_eval2.py"


def parts_of_submission(wildcards):
    """The parts of a joined data set whose control cells fill in the genes that it lacks, if the submission says so."""
    options = config["submissions"][wildcards.submission]
    filled = options["missing_genes"] == "control-cell"
    return RUN.datasets[config["predict"][options["prediction"]]["dataset"]].parts if filled else ()


def prediction_of_submission(wildcards):
    """The predictions for the list of a submission, what the list asks for, and the cells that they start from."""
    prediction = config["submissions"][wildcards.submission]["prediction"]
    dataset = f"<results>/{config['predict'][prediction]['dataset']}"
    folder = f"{dataset}/predicted-{prediction}"
    return {
        "parts": [f"<results>/parts/{part}/cells.h5ad" for part in parts_of_submission(wildcards)],
        "cells": f"{dataset}/cells.h5ad",
        "asked": f"{folder}/asked.tsv",
        "predictions": f"{folder}/{wildcards.method}/{wildcards.seed}/predictions.h5ad",
    }


def genes_of_submission(wildcards):
    """The challenge's list of genes."""
    return config["submissions"][wildcards.submission]["genes"]


def submission_options(wildcards):
    """Challenge, contexts and limits of a submission."""
    options = config["submissions"][wildcards.submission]
    return {key: options[key] for key in ("challenge", "contexts", "limits")}


rule vcc_submission:
    input:
        unpack(prediction_of_submission),
        genes=genes_of_submission,
    output:
        "<results>/submissions/{submission}/{method}.{seed}.{suffix}",
    log:
        "<logs>/vcc_submission/{submission}.{method}.{seed}.{suffix}.log",
    benchmark:
        "<benchmarks>/vcc_submission/{submission}.{method}.{seed}.{suffix}.tsv"
    conda:
        "../../envs/cell_eval.yaml"
    resources:
        mem_mb=memory_of("vcc_submission"),
        runtime=minutes_of("vcc_submission"),
    params:
        code=code("vcc_submission.py"),
        content=lambda wildcards: content_of_file(genes_of_submission(wildcards)),
        submission=submission_options,
        parts=parts_of_submission,
    script:
        "../scripts/vcc_submission.py"
