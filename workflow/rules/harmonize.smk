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
