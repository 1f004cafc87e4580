# Which perturbations are trained on, which are tested, and the control cells that every method starts from.


rule split:
    input:
        cells="results/{dataset}/cells.h5ad",
        file=split_file,
    output:
        "results/{dataset}/{split}/split.tsv",
    log:
        "logs/split/{dataset}.{split}.log",
    benchmark:
        "results/benchmarks/split/{dataset}.{split}.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        code=code("split.py"),
        content=content_of_split_file,
        options=split_options,
        series=series_of_dataset,
    script:
        "../scripts/split.py"


rule sample_controls:
    input:
        cells="results/{dataset}/cells.h5ad",
        split="results/{dataset}/{split}/split.tsv",
    output:
        "results/{dataset}/{split}/controls.h5ad",
    log:
        "logs/sample_controls/{dataset}.{split}.log",
    benchmark:
        "results/benchmarks/sample_controls/{dataset}.{split}.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(8000),
        runtime=minutes(30),
    params:
        code=code("sample_controls.py"),
        options=config["controls"],
        series=series_of_dataset,
    script:
        "../scripts/sample_controls.py"
