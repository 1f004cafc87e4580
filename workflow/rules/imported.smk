# Predictions of other programs: a file that someone made elsewhere, or a script of one's own that the workflow runs.


rule predict_by_script:
    input:
        script=script_of_method,
        cells="results/{dataset}/cells.h5ad",
        split="results/{dataset}/{split}/split.tsv",
        controls="results/{dataset}/{split}/controls.h5ad",
    output:
        temp("results/{dataset}/{split}/{method}/{seed}/unchecked.h5ad"),
    log:
        "logs/predict_by_script/{dataset}.{split}.{method}.{seed}.log",
    benchmark:
        "results/benchmarks/predict_by_script/{dataset}.{split}.{method}.{seed}.tsv"
    wildcard_constraints:
        method=names_pattern(methods_of({"script"})),
    conda:
        "../../envs/evaluation.yaml"
    threads: config["hardware"]["threads"]
    resources:
        gpu=config["hardware"]["gpu"],
        nodes=1,
        tasks_per_gpu=0,  # one task for all GPUs
        mem_mb=memory(16000),
        runtime=minutes(1440),
    params:
        code=code("predict_by_script.py"),
        content=content_of_script,
        options=method_options,
    script:
        "../scripts/predict_by_script.py"


rule import_predictions:
    input:
        file=file_to_import,
        cells="results/{dataset}/cells.h5ad",
        split="results/{dataset}/{split}/split.tsv",
        controls="results/{dataset}/{split}/controls.h5ad",
    output:
        "results/{dataset}/{split}/{method}/{seed}/predictions.h5ad",
    log:
        "logs/import_predictions/{dataset}.{split}.{method}.{seed}.log",
    benchmark:
        "results/benchmarks/import_predictions/{dataset}.{split}.{method}.{seed}.tsv"
    wildcard_constraints:
        method=names_pattern(methods_of(FOREIGN)),
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(8000),
        runtime=minutes(60),
    params:
        code=code("import_predictions.py"),
        content=content_of_file_to_import,
        dataset=dataset_row,
        labels=labels_of_file,
        missing=missing_rules,
        made_by=made_by,
    script:
        "../scripts/import_predictions.py"
