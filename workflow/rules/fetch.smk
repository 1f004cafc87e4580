# Data drops: downloaded, or generated with a known truth.


rule fetch_dataset:
    output:
        "resources/datasets/{dataset}/source.{suffix}",
    log:
        "logs/fetch_dataset/{dataset}.{suffix}.log",
    benchmark:
        "results/benchmarks/fetch_dataset/{dataset}.{suffix}.tsv"
    retries: 0  # the download tries again by itself, where that can help
    localrule: True
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(240),
    params:
        code=code("fetch_dataset.py"),
        content=content_of_dataset,
    script:
        "../scripts/fetch_dataset.py"


rule generate_dataset:
    output:
        cells="resources/generated/{dataset}/cells.h5ad",
        atlas="resources/generated/{dataset}/atlas.h5ad",
        truth="resources/generated/{dataset}/truth.h5ad",
    log:
        "logs/generate_dataset/{dataset}.log",
    benchmark:
        "results/benchmarks/generate_dataset/{dataset}.tsv"
    conda:
        "../../envs/scgpt_cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(30),
    params:
        code=code("generate_dataset.py"),
        options=generator_options,
    script:
        "../scripts/generate_dataset.py"
