# What went in: data, checkpoints, training; one figure a rule, each an entry of the report.


rule figure_responses:
    input:
        "results/{dataset}/cells.h5ad",
    output:
        report(
            "results/{dataset}/figures/responses.svg",
            category="Data",
            subcategory="{dataset}",
            labels={"figure": "measured responses"},
            caption="../report/responses.rst",
        ),
    log:
        "logs/figure_responses/{dataset}.log",
    benchmark:
        "results/benchmarks/figure_responses/{dataset}.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory(8000),
        runtime=minutes(20),
    params:
        code=code("figure_responses.py"),
    script:
        "../scripts/figure_responses.py"


rule figure_vocabulary:
    input:
        vocabulary="results/{dataset}/vocabulary/{checkpoint}.tsv",
        cells="results/{dataset}/cells.h5ad",
    output:
        report(
            "results/{dataset}/figures/vocabulary_{checkpoint}.svg",
            category="Model",
            subcategory="{dataset}",
            labels={"checkpoint": "{checkpoint}", "figure": "vocabulary coverage"},
            caption="../report/vocabulary.rst",
        ),
    log:
        "logs/figure_vocabulary/{dataset}.{checkpoint}.log",
    benchmark:
        "results/benchmarks/figure_vocabulary/{dataset}.{checkpoint}.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory(8000),
        runtime=minutes(10),
    params:
        code=code("figure_vocabulary.py"),
    script:
        "../scripts/figure_vocabulary.py"


rule figure_training_history:
    input:
        history="results/{dataset}/{split}/{method}/{seed}/model/history.tsv",
        report="results/{dataset}/{split}/{method}/{seed}/model/report.json",
    output:
        report(
            "results/{dataset}/{split}/figures/training_history_{method}_{seed}.svg",
            category="Model",
            subcategory="{dataset}",
            labels={"split": "{split}", "method": "{method}", "seed": "{seed}", "figure": "training history"},
            caption="../report/training_history.rst",
        ),
    log:
        "logs/figure_training_history/{dataset}.{split}.{method}.{seed}.log",
    benchmark:
        "results/benchmarks/figure_training_history/{dataset}.{split}.{method}.{seed}.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        code=code("figure_training_history.py"),
    script:
        "../scripts/figure_training_history.py"


rule figure_load_report:
    input:
        pseudobulks=scgpt_pseudobulks_of_split,
    output:
        report(
            "results/{dataset}/{split}/figures/load_report.svg",
            category="Model",
            subcategory="{dataset}",
            labels={"split": "{split}", "figure": "which weights are pretrained"},
            caption="../report/load_report.rst",
        ),
    log:
        "logs/figure_load_report/{dataset}.{split}.log",
    benchmark:
        "results/benchmarks/figure_load_report/{dataset}.{split}.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        code=code("figure_load_report.py"),
        methods=methods_of(SCGPT),
    script:
        "../scripts/figure_load_report.py"
