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
        mem_mb=memory(8000),
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
        runtime=minutes(30),
    params:
        code=code("evaluate.py"),
    script:
        "../scripts/evaluate.py"


rule scores:
    input:
        metrics_of_run(),
        official_metrics_of_run(),
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


rule stress_panel:
    input:
        predictions="results/{dataset}/{split}/{method}/{seed}/predictions.h5ad",
        truth="results/{dataset}/{split}/truth.h5ad",
        split="results/{dataset}/{split}/split.tsv",
    output:
        "results/{dataset}/{split}/{method}/{seed}/stress.tsv",
    log:
        "logs/stress_panel/{dataset}.{split}.{method}.{seed}.log",
    benchmark:
        "results/benchmarks/stress_panel/{dataset}.{split}.{method}.{seed}.tsv"
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(8000),
        runtime=minutes(60),
    params:
        code=code("stress_panel.py"),
        activated=targets_go_up,
    script:
        "../scripts/stress_panel.py"


rule anchors:
    input:
        scores="results/scores.tsv",
        anchors=config["anchor_table"],
    output:
        report(
            "results/anchors.tsv",
            category="Trust",
            labels={"table": "published figures beside those of this run"},
            caption="../report/anchors.rst",
        ),
    log:
        "logs/anchors.log",
    benchmark:
        "results/benchmarks/anchors.tsv"
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        code=code("anchors.py"),
    script:
        "../scripts/anchors.py"


rule convention_ledger:
    input:
        scores="results/scores.tsv",
    output:
        ledger=report(
            "results/ledger.tsv",
            category="Trust",
            labels={"table": "what every metric means"},
            caption="../report/ledger.rst",
        ),
        calibration=report(
            "results/calibration.tsv",
            category="Trust",
            labels={"table": "how often verdicts are wrong"},
            caption="../report/calibration.rst",
        ),
    log:
        "logs/convention_ledger.log",
    benchmark:
        "results/benchmarks/convention_ledger.tsv"
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        code=code("convention_ledger.py"),
    script:
        "../scripts/convention_ledger.py"
