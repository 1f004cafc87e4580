# From predictions to pseudo-bulks, metrics, scores with intervals, and verdicts. No rule here knows a method.


rule truth:
    input:
        cells="<results>/{dataset}/cells.h5ad",
        split="<results>/{dataset}/{split}/split.tsv",
        controls="<results>/{dataset}/{split}/controls.h5ad",
    output:
        "<results>/{dataset}/{split}/truth.h5ad",
    log:
        "<logs>/truth/{dataset}.{split}.log",
    benchmark:
        "<benchmarks>/truth/{dataset}.{split}.tsv"
    wildcard_constraints:
        split=names_pattern(SPLITS),
    conda:
        "../../envs/evaluation.yaml"
    threads: config["hardware"]["threads"]
    resources:
        mem_mb=memory_of("truth"),
        runtime=minutes_of("truth"),
    params:
        code=code("truth.py"),
    script:
        "../scripts/truth.py"


rule subset_truth:
    input:
        truth=lambda wildcards: f"<results>/{wildcards.dataset}/{whole_split(wildcards)}/truth.h5ad",
        split="<results>/{dataset}/{split}/split.tsv",
    output:
        "<results>/{dataset}/{split}/truth.h5ad",
    log:
        "<logs>/subset_truth/{dataset}.{split}.log",
    benchmark:
        "<benchmarks>/subset_truth/{dataset}.{split}.tsv"
    wildcard_constraints:
        split=names_pattern(SUBSETS),
    conda:
        "../../envs/evaluation.yaml"
    resources:
        mem_mb=memory_of("subset_truth"),
        runtime=minutes_of("subset_truth"),
    params:
        code=code("subset_truth.py"),
    script:
        "../scripts/subset_truth.py"


rule reference_scores:
    input:
        truth="<results>/{dataset}/{split}/truth.h5ad",
    output:
        "<results>/{dataset}/{split}/reference_scores.tsv",
    log:
        "<logs>/reference_scores/{dataset}.{split}.log",
    benchmark:
        "<benchmarks>/reference_scores/{dataset}.{split}.tsv"
    conda:
        "../../envs/evaluation.yaml"
    resources:
        mem_mb=memory_of("reference_scores"),
        runtime=minutes_of("reference_scores"),
    params:
        code=code("reference_scores.py"),
    script:
        "../scripts/reference_scores.py"


rule evaluate:
    input:
        predictions="<results>/{dataset}/{split}/{method}/{seed}/predictions.h5ad",
        method="<results>/{dataset}/{split}/{method}/{seed}/method.json",
        truth="<results>/{dataset}/{split}/truth.h5ad",
        split="<results>/{dataset}/{split}/split.tsv",
    output:
        pseudobulk="<results>/{dataset}/{split}/{method}/{seed}/pseudobulk.h5ad",
        metrics="<results>/{dataset}/{split}/{method}/{seed}/metrics.tsv",
        control_blocks="<results>/{dataset}/{split}/{method}/{seed}/control_blocks.tsv",
    log:
        "<logs>/evaluate/{dataset}.{split}.{method}.{seed}.log",
    benchmark:
        "<benchmarks>/evaluate/{dataset}.{split}.{method}.{seed}.tsv"
    conda:
        "../../envs/evaluation.yaml"
    resources:
        mem_mb=memory_of("evaluate"),
        runtime=minutes_of("evaluate"),
    params:
        code=code("evaluate.py"),
    script:
        "../scripts/evaluate.py"


def scorers_of(dataset):
    """The official scorers of a data set: cell_eval2 compares raw counts, and is left out where there are none."""
    counts = RUN.datasets[dataset].values == "counts"
    return [scorer for scorer in config["official_scorers"] if counts or scorer != "cell_eval2"]


def official_metrics_of_run():
    """What the official scorers say of every data set, split, method and seed."""
    return [
        f"<results>/{dataset}/{split}/{method}/{seed}/official_{scorer}.tsv"
        for dataset in config["datasets"]
        for split in SPLITS
        for method, seed in predictions(config["methods"])
        for scorer in scorers_of(dataset)
    ]


def of_splits(name, splits=SPLITS):
    """This file of every data set and split."""
    return [f"<results>/{dataset}/{split}/{name}" for dataset in config["datasets"] for split in splits]


def study():
    """What scores and verdicts are told about the run, beside its tables."""
    return {
        "kinds": KINDS,
        "pooled": POOLED,
        "untrained": registry.untrained(config["methods"], checkpoints_from("random")),
        "margin": config["scores"]["margin"],
        "family": config["scores"]["family"],
    }


# Methods that are compared as a question of its own.
PAIRS = registry.contrasts(config["methods"], checkpoints_from("random"))


rule scores:
    input:
        metrics=[*metrics_of_run(), *official_metrics_of_run()],
        control_blocks=files_of("control_blocks.tsv", config["datasets"], config["methods"]),
        records=files_of("method.json", config["datasets"], config["methods"]),
        references=of_splits("reference_scores.tsv"),
        splits=of_splits("split.tsv"),
    output:
        scores=report(
            "<results>/scores.tsv",
            category="Scores",
            labels={"table": "scores of every method, data set, split and metric"},
            caption="../report/score_table.rst",
        ),
        verdicts=report(
            "<results>/verdicts.tsv",
            category="Verdict",
            labels={"table": "every method against the best simple method"},
            caption="../report/verdict_table.rst",
        ),
        contrasts=report(
            "<results>/contrasts.tsv",
            category="Pretraining",
            labels={"table": "what pretraining and input values are worth"},
            caption="../report/contrasts.rst",
        ),
        by_class=report(
            "<results>/scores_by_class.tsv",
            category="Scores",
            labels={"table": "scores by how many genes of a perturbation were seen in training"},
            caption="../report/scores_by_class.rst",
        ),
    log:
        "<logs>/scores.log",
    benchmark:
        "<benchmarks>/scores.tsv"
    conda:
        "../../envs/evaluation.yaml"
    resources:
        mem_mb=memory_of("scores"),
        runtime=minutes_of("scores"),
    params:
        code=code("scores.py"),
        study=study(),
        pairs=PAIRS,
    script:
        "../scripts/scores.py"


def methods_with_curves():
    """The methods that have learning curves: neither benchmark controls nor predictions that are given as files."""
    given = methods_run_by("import_predictions")
    own = [method for method in config["methods"] if method not in given or "script" in config["methods"][method]]
    return [method for method in own if registry.group_of(KINDS[method]) != registry.BENCHMARK_CONTROL]


rule learning_curves:
    input:
        metrics=files_of("metrics.tsv", config["datasets"], methods_with_curves(), [*SPLITS, *SUBSETS]),
        control_blocks=files_of("control_blocks.tsv", config["datasets"], methods_with_curves(), [*SPLITS, *SUBSETS]),
        records=files_of("method.json", config["datasets"], methods_with_curves(), [*SPLITS, *SUBSETS]),
        references=of_splits("reference_scores.tsv", [*SPLITS, *SUBSETS]),
        splits=of_splits("split.tsv", [*SPLITS, *SUBSETS]),
    output:
        curves=report(
            "<results>/learning_curves.tsv",
            category="Learning curves",
            labels={"table": "scores by number of perturbations"},
            caption="../report/learning_curve_table.rst",
        ),
        crossings=report(
            "<results>/crossings.tsv",
            category="Learning curves",
            labels={"table": "when each method overtakes the best simple one"},
            caption="../report/crossings.rst",
        ),
    log:
        "<logs>/learning_curves.log",
    benchmark:
        "<benchmarks>/learning_curves.tsv"
    conda:
        "../../envs/evaluation.yaml"
    resources:
        mem_mb=memory_of("learning_curves"),
        runtime=minutes_of("learning_curves"),
    params:
        code=code("learning_curves.py"),
        study=study(),
        subsets=SUBSETS,
    script:
        "../scripts/learning_curves.py"
