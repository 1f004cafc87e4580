# The Virtual Cell Challenge's own scorers, as they are, and the files that the challenge takes.


rule cell_eval_reference:
    input:
        cells="results/{dataset}/cells.h5ad",
        split="results/{dataset}/{split}/split.tsv",
    output:
        directory("results/{dataset}/{split}/official/cell_eval"),
    log:
        "logs/cell_eval_reference/{dataset}.{split}.log",
    benchmark:
        "results/benchmarks/cell_eval_reference/{dataset}.{split}.tsv"
    conda:
        "../../envs/cell_eval.yaml"
    threads: config["hardware"]["threads"]
    resources:
        mem_mb=memory(32000),
        runtime=minutes(120),
    params:
        code=code("cell_eval_reference.py"),
    script:
        "../scripts/cell_eval_reference.py"


rule cell_eval:
    input:
        cells="results/{dataset}/cells.h5ad",
        split="results/{dataset}/{split}/split.tsv",
        predictions="results/{dataset}/{split}/{method}/{seed}/predictions.h5ad",
        reference="results/{dataset}/{split}/official/cell_eval",
    output:
        table="results/{dataset}/{split}/{method}/{seed}/official_cell_eval.tsv",
        summary="results/{dataset}/{split}/{method}/{seed}/official_cell_eval.json",
    log:
        "logs/cell_eval/{dataset}.{split}.{method}.{seed}.log",
    benchmark:
        "results/benchmarks/cell_eval/{dataset}.{split}.{method}.{seed}.tsv"
    conda:
        "../../envs/cell_eval.yaml"
    threads: config["hardware"]["threads"]
    resources:
        mem_mb=memory(32000),
        runtime=minutes(120),
    params:
        code=code("run_cell_eval.py"),
    script:
        "../scripts/run_cell_eval.py"


rule cell_eval2_reference:
    input:
        cells="results/{dataset}/cells.h5ad",
        split="results/{dataset}/{split}/split.tsv",
    output:
        directory("results/{dataset}/{split}/official/cell_eval2"),
    log:
        "logs/cell_eval2_reference/{dataset}.{split}.log",
    benchmark:
        "results/benchmarks/cell_eval2_reference/{dataset}.{split}.tsv"
    conda:
        "../../envs/cell_eval2.yaml"
    threads: config["hardware"]["threads"]
    resources:
        mem_mb=memory(32000),
        runtime=minutes(240),
    params:
        code=code("cell_eval2_reference.py"),
    script:
        "../scripts/cell_eval2_reference.py"


rule cell_eval2:
    input:
        cells="results/{dataset}/cells.h5ad",
        split="results/{dataset}/{split}/split.tsv",
        predictions="results/{dataset}/{split}/{method}/{seed}/predictions.h5ad",
        reference="results/{dataset}/{split}/official/cell_eval2",
    output:
        table="results/{dataset}/{split}/{method}/{seed}/official_cell_eval2.tsv",
        summary="results/{dataset}/{split}/{method}/{seed}/official_cell_eval2.json",
    log:
        "logs/cell_eval2/{dataset}.{split}.{method}.{seed}.log",
    benchmark:
        "results/benchmarks/cell_eval2/{dataset}.{split}.{method}.{seed}.tsv"
    conda:
        "../../envs/cell_eval2.yaml"
    threads: config["hardware"]["threads"]
    resources:
        mem_mb=memory(32000),
        runtime=minutes(120),
    params:
        code=code("run_cell_eval2.py"),
    script:
        "../scripts/run_cell_eval2.py"


rule vcc_submission:
    input:
        unpack(parts_of_submission),
        genes=genes_of_submission,
    output:
        "results/submissions/{submission}/{split}.{method}.{seed}.{suffix}",
    log:
        "logs/vcc_submission/{submission}.{split}.{method}.{seed}.{suffix}.log",
    benchmark:
        "results/benchmarks/vcc_submission/{submission}.{split}.{method}.{seed}.{suffix}.tsv"
    conda:
        "../../envs/cell_eval.yaml"
    threads: 1
    resources:
        mem_mb=memory(64000),
        runtime=minutes(240),
    params:
        code=code("vcc_submission.py"),
        content=content_of_genes,
        submission=submission_options,
    script:
        "../scripts/vcc_submission.py"
