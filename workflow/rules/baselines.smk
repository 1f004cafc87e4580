# Simple predictors on identical cells, splits and controls, and the floor and ceiling between which all are read.


rule predict_baseline:
    input:
        cells="results/{dataset}/cells.h5ad",
        split="results/{dataset}/{split}/split.tsv",
        controls="results/{dataset}/{split}/controls.h5ad",
        embeddings=embeddings_of_method,
    output:
        "results/{dataset}/{split}/{method}/{seed}/predictions.h5ad",
    log:
        "logs/predict_baseline/{dataset}.{split}.{method}.{seed}.log",
    benchmark:
        "results/benchmarks/predict_baseline/{dataset}.{split}.{method}.{seed}.tsv"
    wildcard_constraints:
        method=names_pattern(methods_of(BASELINES | EMBEDDING)),
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(8000),
        runtime=minutes(30),
    params:
        code=code("predict_baseline.py"),
        options=method_options,
    script:
        "../scripts/predict_baseline.py"


rule predict_benchmark_control:
    input:
        cells="results/{dataset}/cells.h5ad",
        controls="results/{dataset}/{split}/controls.h5ad",
        truth="results/{dataset}/{split}/truth.h5ad",
        planted=planted_truth,
    output:
        "results/{dataset}/{split}/{method}/{seed}/predictions.h5ad",
    log:
        "logs/predict_benchmark_control/{dataset}.{split}.{method}.{seed}.log",
    benchmark:
        "results/benchmarks/predict_benchmark_control/{dataset}.{split}.{method}.{seed}.tsv"
    wildcard_constraints:
        method=names_pattern(methods_of(BENCHMARK_CONTROLS)),
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(8000),
        runtime=minutes(30),
    params:
        code=code("predict_benchmark_control.py"),
        options=method_options,
    script:
        "../scripts/predict_benchmark_control.py"
