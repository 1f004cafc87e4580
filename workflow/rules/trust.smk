# How far the scores can be trusted: what games a metric, what others published, what every metric means.


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
        content=content_of_anchors,
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
