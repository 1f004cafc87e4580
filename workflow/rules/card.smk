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
        page=card_entry("data_card.html", "data card"),
        reliability=card_entry("reliability.svg", "reliability of responses"),
        knock_down=card_entry("knock_down.svg", "do the targets move"),
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
    script:
        "../scripts/card_page.py"


rule reliable_scores:
    input:
        metrics=metrics_of_run(),
        cards=expand("results/{dataset}/card.json", dataset=config["datasets"]),
        scores="results/scores.tsv",
        verdicts="results/verdicts.tsv",
    output:
        "results/reliable_scores.tsv",
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
        kinds={method: options["kind"] for method, options in config["methods"].items()},
    script:
        "../scripts/reliable_scores.py"


rule drop_comparison:
    input:
        cards=cards_of_last_two,
        metrics=metrics_of_last_two,
        scores="results/scores.tsv",
        verdicts="results/verdicts.tsv",
    output:
        table="results/{dataset}/drop_comparison.tsv",
        page=drop_entry("drop_comparison.html", "comparison with the last drop, table"),
        figure=drop_entry("drop_comparison.svg", "comparison with the last drop"),
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
