# What the report says in words and in tables, beside the figures.


rule summary:
    input:
        scores="results/scores.tsv",
        verdicts="results/verdicts.tsv",
        by_class="results/scores_by_class.tsv",
        splits=expand("results/{dataset}/{split}/split.tsv", dataset=config["datasets"], split=SPLITS),
        pseudobulks=pseudobulks_of_run(),
        cards=expand("results/{dataset}/card.json", dataset=config["datasets"]),
    output:
        "results/summary.html",
    log:
        "logs/summary.log",
    benchmark:
        "results/benchmarks/summary.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        code=code("summary.py"),
        templates=sources.folder_hash(LIBRARY / "scgpt_bench" / "report"),
        kinds=KINDS,
        checkpoints={name: options["source"] for name, options in config["checkpoints"].items()},
        generated=[name for name in config["datasets"] if RUN.datasets[name].address == GENERATED],
        published=published_recipe(),
    script:
        "../scripts/summary.py"


rule perturbation_table:
    input:
        metrics=metrics_of_split,
        truth="results/{dataset}/{split}/truth.h5ad",
        card="results/{dataset}/card.json",
    output:
        report(
            "results/{dataset}/{split}/perturbations.tsv",
            category="Perturbations",
            subcategory="{dataset}",
            labels={"split": "{split}", "metric": "pearson_delta", "table": "every perturbation, number by number"},
            caption="../report/perturbation_table.rst",
        ),
    log:
        "logs/perturbation_table/{dataset}.{split}.log",
    benchmark:
        "results/benchmarks/perturbation_table/{dataset}.{split}.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        code=code("perturbation_table.py"),
        metric="pearson_delta",
    script:
        "../scripts/perturbation_table.py"
