# How far the scores can be trusted: what games a metric, what others published, what every metric means, what of
# them rests on unreliable responses, and what a new version of the data changes.


def targets_go_up(wildcards):
    return perturbation_kind_of_dataset(wildcards) == "activation"


rule metric_robustness:
    input:
        predictions="<results>/{dataset}/{split}/{method}/{seed}/predictions.h5ad",
        truth="<results>/{dataset}/{split}/truth.h5ad",
        split="<results>/{dataset}/{split}/split.tsv",
    output:
        "<results>/{dataset}/{split}/{method}/{seed}/metric_robustness.tsv",
    log:
        "<logs>/metric_robustness/{dataset}.{split}.{method}.{seed}.log",
    benchmark:
        "<benchmarks>/metric_robustness/{dataset}.{split}.{method}.{seed}.tsv"
    conda:
        "../../envs/evaluation.yaml"
    resources:
        mem_mb=memory_of("metric_robustness"),
        runtime=minutes_of("metric_robustness"),
    params:
        code=code("metric_robustness.py"),
        activated=targets_go_up,
    script:
        "../scripts/metric_robustness.py"


rule published_results:
    input:
        scores="<results>/scores.tsv",
        published=config["published_results_table"],
    output:
        report(
            "<results>/published_results.tsv",
            category="Trust",
            labels={"table": "published figures beside those of this run"},
            caption="../report/published_results.rst",
        ),
    log:
        "<logs>/published_results.log",
    benchmark:
        "<benchmarks>/published_results.tsv"
    conda:
        "../../envs/evaluation.yaml"
    resources:
        mem_mb=memory_of("published_results"),
        runtime=minutes_of("published_results"),
    params:
        code=code("published_results.py"),
        content=lambda wildcards: content_of_file(config["published_results_table"]),
    script:
        "../scripts/published_results.py"


rule metric_definitions:
    input:
        scores="<results>/scores.tsv",
    output:
        definitions=report(
            "<results>/metric_definitions.tsv",
            category="Trust",
            labels={"table": "what every metric means"},
            caption="../report/metric_definitions.rst",
        ),
        calibration=report(
            "<results>/calibration.tsv",
            category="Trust",
            labels={"table": "how often verdicts are wrong"},
            caption="../report/calibration.rst",
        ),
    log:
        "<logs>/metric_definitions.log",
    benchmark:
        "<benchmarks>/metric_definitions.tsv"
    conda:
        "../../envs/evaluation.yaml"
    resources:
        mem_mb=memory_of("metric_definitions"),
        runtime=minutes_of("metric_definitions"),
    params:
        code=code("metric_definitions.py"),
    script:
        "../scripts/metric_definitions.py"


rule reliable_scores:
    input:
        metrics=[*metrics_of_run(), *official_metrics_of_run()],
        control_blocks=files_of("control_blocks.tsv", config["datasets"], config["methods"]),
        records=files_of("method.json", config["datasets"], config["methods"]),
        references=of_splits("reference_scores.tsv"),
        splits=of_splits("split.tsv"),
        cards=expand("<results>/{dataset}/card.json", dataset=config["datasets"]),
        scores="<results>/scores.tsv",
        verdicts="<results>/verdicts.tsv",
    output:
        report(
            "<results>/reliable_scores.tsv",
            category="Scores",
            labels={"table": "scores with and without perturbations of unreliable response"},
            caption="../report/reliable_scores.rst",
        ),
    log:
        "<logs>/reliable_scores.log",
    benchmark:
        "<benchmarks>/reliable_scores.tsv"
    conda:
        "../../envs/evaluation.yaml"
    resources:
        mem_mb=memory_of("reliable_scores"),
        runtime=minutes_of("reliable_scores"),
    params:
        code=code("reliable_scores.py"),
        study=study(),
    script:
        "../scripts/reliable_scores.py"


def last_two():
    """The last two versions of every data set of which more than one is run, by the name of the last."""
    versions = {}
    for name, dataset in RUN.datasets.items():
        if name in config["datasets"]:
            versions.setdefault(dataset.series, []).append(name)
    return {names[-1]: names[-2:] for names in versions.values() if len(names) > 1}


def cards_of_last_two(wildcards):
    return [f"<results>/{name}/card.json" for name in last_two()[wildcards.dataset]]


def metrics_of_last_two(wildcards):
    return metrics_of(last_two()[wildcards.dataset])


rule drop_comparison:
    input:
        cards=cards_of_last_two,
        metrics=metrics_of_last_two,
        scores="<results>/scores.tsv",
        verdicts="<results>/verdicts.tsv",
    output:
        text=data_entry("figures/drop_comparison.html", "cells since the last version", "drop_comparison.rst"),
        table=data_entry("drop_comparison.tsv", "scores since the last version", "drop_comparison.rst"),
        figure=data_entry("figures/drop_comparison.svg", "comparison with the last version", "drop_comparison.rst"),
    log:
        "<logs>/drop_comparison/{dataset}.log",
    benchmark:
        "<benchmarks>/drop_comparison/{dataset}.tsv"
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=memory_of("drop_comparison"),
        runtime=minutes_of("drop_comparison"),
    params:
        code=code("drop_comparison.py"),
        pooled=POOLED,
        metric=JUDGING[0],
        kinds=KINDS,
    script:
        "../scripts/drop_comparison.py"
