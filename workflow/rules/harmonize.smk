# From whatever comes in to one contract: results/<dataset>/cells.h5ad.


rule harmonize:
    input:
        drop_of_dataset,
    output:
        "results/{dataset}/cells.h5ad",
    log:
        "logs/harmonize/{dataset}.log",
    benchmark:
        "results/benchmarks/harmonize/{dataset}.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(16000),
        runtime=minutes(60),
    params:
        code=code("harmonize.py"),
        content=content_of_guide_table,
        dataset=dataset_row,
        options=config["harmonize"],
    script:
        "../scripts/harmonize.py"


# The time is a parameter, so that asking again says it again.
rule check_drop:
    input:
        drop_to_check,
    output:
        "results/{dataset}/check.txt",
    log:
        "logs/check_drop/{dataset}.log",
    benchmark:
        "results/benchmarks/check_drop/{dataset}.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(8000),
        runtime=minutes(30),
    params:
        code=code("check_drop.py"),
        dataset=dataset_row,
        options=config["harmonize"],
        asked=time.time(),
        vocabularies=[f"resources/checkpoints/{name}/vocab.json" for name in config["checkpoints"]],
    script:
        "../scripts/check_drop.py"
