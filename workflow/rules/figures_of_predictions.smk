# What the predictions are worth, one figure a rule: tables in, SVG out, each an entry of the report.


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
        metrics=first_metrics_of_split,
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
