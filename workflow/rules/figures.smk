# One figure a rule: tables in, SVG out, each an entry of the report.


rule figure_scores:
    input:
        "results/scores.tsv",
    output:
        entries(
            "results/{dataset}/{split}/figures/scores_<name>.svg",
            METRICS,
            label="metric",
            labels={"split": "{split}", "figure": "methods"},
            category="Scores",
            subcategory="{dataset}",
            caption="scores.rst",
        ),
    log:
        "logs/figure_scores/{dataset}.{split}.log",
    benchmark:
        "results/benchmarks/figure_scores/{dataset}.{split}.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        code=code("figure_scores.py"),
        metrics=METRICS,
        kinds=KINDS,
    script:
        "../scripts/figure_scores.py"


rule figure_differences:
    input:
        "results/verdicts.tsv",
    output:
        entries(
            "results/figures/differences_<name>.svg",
            METRICS,
            label="metric",
            labels={"figure": "difference to the best baseline"},
            category="Verdict",
            caption="differences.rst",
        ),
    log:
        "logs/figure_differences.log",
    benchmark:
        "results/benchmarks/figure_differences.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        code=code("figure_differences.py"),
        metrics=METRICS,
        kinds=KINDS,
    script:
        "../scripts/figure_differences.py"


rule figure_perturbations:
    input:
        metrics=metrics_of_split,
        card="results/{dataset}/card.json",
    output:
        report(
            "results/{dataset}/{split}/figures/perturbations.svg",
            category="Perturbations",
            subcategory="{dataset}",
            labels={"split": "{split}", "metric": "pearson_delta", "figure": "every perturbation"},
            caption="../report/perturbations.rst",
        ),
    log:
        "logs/figure_perturbations/{dataset}.{split}.log",
    benchmark:
        "results/benchmarks/figure_perturbations/{dataset}.{split}.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        code=code("figure_perturbations.py"),
        metric="pearson_delta",
        kinds=KINDS,
    script:
        "../scripts/figure_perturbations.py"


rule figure_predicted_against_true:
    input:
        pseudobulks=pseudobulks_of_split,
        truth="results/{dataset}/{split}/truth.h5ad",
    output:
        scatter=entries(
            "results/{dataset}/{split}/figures/predicted_against_true_<name>.svg",
            config["methods"],
            label="method",
            labels={"split": "{split}", "figure": "predicted against true"},
            category="Perturbations",
            subcategory="{dataset}",
            caption="predicted_against_true.rst",
        ),
        residual=entries(
            "results/{dataset}/{split}/figures/residual_<name>.svg",
            config["methods"],
            label="method",
            labels={"split": "{split}", "figure": "measured, predicted, residual"},
            category="Perturbations",
            subcategory="{dataset}",
            caption="residual.rst",
        ),
    log:
        "logs/figure_predicted_against_true/{dataset}.{split}.log",
    benchmark:
        "results/benchmarks/figure_predicted_against_true/{dataset}.{split}.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        code=code("figure_predicted_against_true.py"),
        kinds=KINDS,
        number=config["figures"]["perturbations"],
    script:
        "../scripts/figure_predicted_against_true.py"


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


rule figure_cost:
    input:
        "results/provenance.json",
    output:
        figures=entries(
            "results/figures/cost_by_<name>.svg",
            COST_BY,
            label="by",
            labels={"figure": "time, GPU time and memory"},
            category="Cost",
            caption="cost.rst",
        ),
        table=report(
            "results/cost.tsv",
            category="Cost",
            labels={"table": "cost of every rule and method"},
            caption="../report/cost_table.rst",
        ),
    log:
        "logs/figure_cost.log",
    benchmark:
        "results/benchmarks/figure_cost.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        code=code("figure_cost.py"),
        methods=list(KINDS),
        gpus=config["hardware"]["gpu"],
        rules_on_gpu=RULES_ON_GPU,
        by=COST_BY,
    script:
        "../scripts/figure_cost.py"


rule figure_stress:
    input:
        stress_of_method,
    output:
        report(
            "results/{dataset}/{split}/figures/stress_{method}.svg",
            category="Trust",
            subcategory="{dataset}",
            labels={"split": "{split}", "method": "{method}", "figure": "stress panel"},
            caption="../report/stress.rst",
        ),
    log:
        "logs/figure_stress/{dataset}.{split}.{method}.log",
    benchmark:
        "results/benchmarks/figure_stress/{dataset}.{split}.{method}.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        code=code("figure_stress.py"),
    script:
        "../scripts/figure_stress.py"
