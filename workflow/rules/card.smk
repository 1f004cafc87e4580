# How good the data are, before any model, and what that does to the scores.


rule card:
    input:
        "results/{dataset}/cells.h5ad",
    output:
        "results/{dataset}/card.json",
    log:
        "logs/card/{dataset}.log",
    benchmark:
        "results/benchmarks/card/{dataset}.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(6000),
        runtime=minutes(120),
    params:
        code=code("card.py"),
        perturbation_kind=perturbation_kind_of_dataset,
        minimum_reliability=config["card"]["minimum_reliability"],
    script:
        "../scripts/card.py"


rule card_page:
    input:
        card="results/{dataset}/card.json",
        splits=expand("results/{{dataset}}/{split}/split.tsv", split=SPLITS),
    output:
        text=data_entry("figures/data_card.html", "data card", "data_card.rst"),
        table=data_entry("data_card.tsv", "data card, every perturbation", "data_card.rst"),
        reliability=data_entry("figures/reliability.svg", "reliability of responses", "reliability.rst"),
        knock_down=data_entry("figures/knock_down.svg", "do the targets move", "knock_down.rst"),
    log:
        "logs/card_page/{dataset}.log",
    benchmark:
        "results/benchmarks/card_page/{dataset}.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        code=code("card_page.py"),
        perturbation_kind=perturbation_kind_of_dataset,
        checkpoints=pretraining_as_declared(),
        minimum_cells=config["splits"]["minimum_cells"],
    script:
        "../scripts/card_page.py"


rule reliable_scores:
    input:
        metrics=[*metrics_of_run(), *official_metrics_of_run()],
        cards=expand("results/{dataset}/card.json", dataset=config["datasets"]),
        scores="results/scores.tsv",
        verdicts="results/verdicts.tsv",
    output:
        report(
            "results/reliable_scores.tsv",
            category="Scores",
            labels={"table": "scores with and without perturbations of unreliable response"},
            caption="../report/reliable_scores.rst",
        ),
    log:
        "logs/reliable_scores.log",
    benchmark:
        "results/benchmarks/reliable_scores.tsv"
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=minutes(30),
    params:
        code=code("reliable_scores.py"),
        options=config["scores"],
        kinds=KINDS,
    script:
        "../scripts/reliable_scores.py"


rule drop_comparison:
    input:
        cards=cards_of_last_two,
        metrics=metrics_of_last_two,
        scores="results/scores.tsv",
        verdicts="results/verdicts.tsv",
    output:
        text=data_entry("figures/drop_comparison.html", "cells since the last drop", "drop_comparison.rst"),
        table=data_entry("drop_comparison.tsv", "scores since the last drop", "drop_comparison.rst"),
        figure=data_entry("figures/drop_comparison.svg", "comparison with the last drop", "drop_comparison.rst"),
    log:
        "logs/drop_comparison/{dataset}.log",
    benchmark:
        "results/benchmarks/drop_comparison/{dataset}.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        code=code("drop_comparison.py"),
        metric="pearson_delta",
    script:
        "../scripts/drop_comparison.py"
