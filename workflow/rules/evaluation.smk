# From predictions to pseudo-bulks, metrics, scores with intervals, and verdicts. No rule here knows a method.


rule truth:
    input:
        cells="results/{dataset}/cells.h5ad",
        split="results/{dataset}/{split}/split.tsv",
    output:
        "results/{dataset}/{split}/truth.h5ad",
    log:
        "logs/truth/{dataset}.{split}.log",
    benchmark:
        "results/benchmarks/truth/{dataset}.{split}.tsv"
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(16000),
        runtime=minutes(30),
    params:
        code=code("truth.py"),
    script:
        "../scripts/truth.py"


rule evaluate:
    input:
        predictions="results/{dataset}/{split}/{method}/{seed}/predictions.h5ad",
        truth="results/{dataset}/{split}/truth.h5ad",
        split="results/{dataset}/{split}/split.tsv",
    output:
        pseudobulk="results/{dataset}/{split}/{method}/{seed}/pseudobulk.h5ad",
        metrics="results/{dataset}/{split}/{method}/{seed}/metrics.tsv",
    log:
        "logs/evaluate/{dataset}.{split}.{method}.{seed}.log",
    benchmark:
        "results/benchmarks/evaluate/{dataset}.{split}.{method}.{seed}.tsv"
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(8000),
        runtime=minutes(10),
    params:
        code=code("evaluate.py"),
    script:
        "../scripts/evaluate.py"


rule scores:
    input:
        metrics=[*metrics_of_run(), *official_metrics_of_run()],
        splits=expand("results/{dataset}/{split}/split.tsv", dataset=config["datasets"], split=SPLITS),
    output:
        scores=report(
            "results/scores.tsv",
            category="Scores",
            labels={"table": "scores of every method, data set, split and metric"},
            caption="../report/score_table.rst",
        ),
        verdicts=report(
            "results/verdicts.tsv",
            category="Verdict",
            labels={"table": "every method against the best baseline"},
            caption="../report/verdict_table.rst",
        ),
        by_class=report(
            "results/scores_by_class.tsv",
            category="Scores",
            labels={"table": "scores by how many genes of a perturbation were seen in training"},
            caption="../report/scores_by_class.rst",
        ),
    log:
        "logs/scores.log",
    benchmark:
        "results/benchmarks/scores.tsv"
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=minutes(30),
    params:
        code=code("scores.py"),
        options=config["scores"],
        kinds=KINDS,
    script:
        "../scripts/scores.py"
