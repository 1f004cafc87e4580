# Figures and tables of the report: tables in, SVG, HTML or TSV out.


# Data


rule card_page:
    input:
        card="<results>/{dataset}/card.json",
        splits=expand("<results>/{{dataset}}/{split}/split.tsv", split=SPLITS),
    output:
        text=data_entry("figures/data_card.html", "data card", "data_card.rst"),
        table=data_entry("data_card.tsv", "data card, every perturbation", "data_card.rst"),
        reliability=data_entry("figures/reliability.svg", "reliability of responses", "reliability.rst"),
        knock_down=data_entry("figures/knock_down.svg", "do the targets move", "knock_down.rst"),
    log:
        "<logs>/card_page/{dataset}.log",
    benchmark:
        "<benchmarks>/card_page/{dataset}.tsv"
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=memory_of("card_page"),
        runtime=minutes_of("card_page"),
    params:
        code=code("card_page.py"),
        perturbation_kind=perturbation_kind_of_dataset,
        minimum_cells=config["splits"]["minimum_cells"],
    script:
        "../scripts/card_page.py"


rule audit_table:
    input:
        cells="<results>/{dataset}/cells.h5ad",
        split="<results>/{dataset}/{split}/split.tsv",
        identical="<results>/{dataset}/identical_cells.json",
    output:
        report(
            "<results>/{dataset}/{split}/audit.tsv",
            category="Data",
            subcategory="{dataset}",
            labels={"table": "leaks that were looked for", "split": "{split}"},
            caption="../report/audit.rst",
        ),
    log:
        "<logs>/audit_table/{dataset}.{split}.log",
    benchmark:
        "<benchmarks>/audit_table/{dataset}.{split}.tsv"
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=memory_of("audit_table"),
        runtime=minutes_of("audit_table"),
    params:
        code=code("audit_table.py"),
        how=how_whole_split_is_made,
        declared=lambda wildcards: RUN.origins(wildcards.dataset),
    script:
        "../scripts/audit_table.py"


rule figure_responses:
    input:
        "<results>/{dataset}/cells.h5ad",
    output:
        report(
            "<results>/{dataset}/figures/responses.svg",
            category="Data",
            subcategory="{dataset}",
            labels={"figure": "measured responses"},
            caption="../report/responses.rst",
        ),
    log:
        "<logs>/figure_responses/{dataset}.log",
    benchmark:
        "<benchmarks>/figure_responses/{dataset}.tsv"
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=memory_of("figure_responses"),
        runtime=minutes_of("figure_responses"),
    params:
        code=code("figure_responses.py"),
    script:
        "../scripts/figure_responses.py"


# Model


def checkpoints_with_vocabulary():
    """The checkpoints whose vocabulary is counted: random weights are a control, and left out where there are others."""
    random = checkpoints_from("random")
    return [name for name in config["checkpoints"] if name not in random] or random


rule vocabulary_coverage:
    input:
        vocabularies=expand(
            "<results>/{{dataset}}/vocabulary/{checkpoint}.tsv", checkpoint=checkpoints_with_vocabulary()
        ),
        cells="<results>/{dataset}/cells.h5ad",
    output:
        report(
            "<results>/{dataset}/vocabulary_coverage.tsv",
            category="Model",
            subcategory="{dataset}",
            labels={"table": "genes that the vocabulary knows"},
            caption="../report/vocabulary.rst",
        ),
    log:
        "<logs>/vocabulary_coverage/{dataset}.log",
    benchmark:
        "<benchmarks>/vocabulary_coverage/{dataset}.tsv"
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=memory_of("vocabulary_coverage"),
        runtime=minutes_of("vocabulary_coverage"),
    params:
        code=code("vocabulary_coverage.py"),
        checkpoints=checkpoints_with_vocabulary(),
    script:
        "../scripts/vocabulary_coverage.py"


def trainings(wildcards):
    """The split and the seed of every training of a method on a data set."""
    return [(split, seed) for split in SPLITS for _, seed in predictions([wildcards.method])]


def files_of_trainings(name):
    def files(wildcards):
        folder = f"<results>/{wildcards.dataset}"
        return [f"{folder}/{split}/{wildcards.method}/{seed}/model/{name}" for split, seed in trainings(wildcards)]

    return files


rule figure_training_history:
    input:
        histories=files_of_trainings("history.tsv"),
        reports=files_of_trainings("report.json"),
    output:
        report(
            "<results>/{dataset}/figures/training_history_{method}.svg",
            category="Model",
            subcategory="{dataset}",
            labels={"method": "{method}", "figure": "training history"},
            caption="../report/training_history.rst",
        ),
    log:
        "<logs>/figure_training_history/{dataset}.{method}.log",
    benchmark:
        "<benchmarks>/figure_training_history/{dataset}.{method}.tsv"
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=memory_of("figure_training_history"),
        runtime=minutes_of("figure_training_history"),
    params:
        code=code("figure_training_history.py"),
        trainings=lambda wildcards: [f"{split}, seed {seed}" for split, seed in trainings(wildcards)],
    script:
        "../scripts/figure_training_history.py"


def first_files(methods, name):
    """A file of each method's first seed on one data set and split."""
    seeds = [f"{method}/{config['methods'][method]['seeds'][0]}" for method in methods]
    return lambda wildcards: [f"<results>/{wildcards.dataset}/{wildcards.split}/{seed}/{name}" for seed in seeds]


rule figure_load_report:
    input:
        records=first_files(methods_run_by("predict_scgpt"), "method.json"),
    output:
        report(
            "<results>/{dataset}/{split}/figures/load_report.svg",
            category="Model",
            subcategory="{dataset}",
            labels={"split": "{split}", "figure": "which weights are pretrained"},
            caption="../report/load_report.rst",
        ),
    log:
        "<logs>/figure_load_report/{dataset}.{split}.log",
    benchmark:
        "<benchmarks>/figure_load_report/{dataset}.{split}.tsv"
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=memory_of("figure_load_report"),
        runtime=minutes_of("figure_load_report"),
    params:
        code=code("figure_load_report.py"),
        methods=methods_run_by("predict_scgpt"),
    script:
        "../scripts/figure_load_report.py"


# Scores and verdicts


# scGPT methods whose weights are random, or trained from random ones. None of them is "the best scGPT method".
WITHOUT_PRETRAINING = registry.without_pretraining(config["methods"], checkpoints_from("random"))


def questions_of_run():
    """The splits that have an answer each, with those that they pool, by the name under which they are pooled."""
    pooled = {name: splits for name, splits in POOLED.items() if len(splits) > 1}
    of_pooled = {split for splits in pooled.values() for split in splits}
    return pooled | {split: [split] for split in SPLITS if split not in of_pooled}


rule figure_scores:
    input:
        "<results>/scores.tsv",
    output:
        entries(
            "<results>/{dataset}/{split}/figures/scores_NAME.svg",
            METRICS,
            label="metric",
            labels={"split": "{split}", "figure": "methods"},
            category="Scores",
            subcategory="{dataset}",
            caption="scores.rst",
        ),
    log:
        "<logs>/figure_scores/{dataset}.{split}.log",
    benchmark:
        "<benchmarks>/figure_scores/{dataset}.{split}.tsv"
    wildcard_constraints:
        split=names_pattern([*SPLITS, *questions_of_run()]),
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=memory_of("figure_scores"),
        runtime=minutes_of("figure_scores"),
    params:
        code=code("figure_scores.py"),
        metrics=METRICS,
        kinds=KINDS,
        without_pretraining=WITHOUT_PRETRAINING,
    script:
        "../scripts/figure_scores.py"


rule figure_skill:
    input:
        scores="<results>/scores.tsv",
        verdicts="<results>/verdicts.tsv",
    output:
        entries(
            "<results>/{dataset}/figures/skill_NAME.svg",
            [*questions_of_run()],
            label="split",
            labels={"figure": "skill by every metric"},
            category="Scores",
            subcategory="{dataset}",
            caption="skill.rst",
        ),
    log:
        "<logs>/figure_skill/{dataset}.log",
    benchmark:
        "<benchmarks>/figure_skill/{dataset}.tsv"
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=memory_of("figure_skill"),
        runtime=minutes_of("figure_skill"),
    params:
        code=code("figure_skill.py"),
        questions=[*questions_of_run()],
        kinds=KINDS,
        without_pretraining=WITHOUT_PRETRAINING,
    script:
        "../scripts/figure_skill.py"


def metrics_of_dataset(wildcards):
    """The metrics of every method, split and seed on one data set."""
    return metrics_of([wildcards.dataset])


def figures_of_pairs(name, heading, category):
    """A figure of one method against another for each question."""
    return entries(
        f"<results>/{{dataset}}/figures/{name}_NAME.svg",
        [*questions_of_run()],
        label="split",
        labels={"figure": heading},
        category=category,
        subcategory="{dataset}",
        caption=f"{name}.rst",
    )


rule figure_pairs:
    input:
        metrics=metrics_of_dataset,
        verdicts="<results>/verdicts.tsv",
    output:
        simple=figures_of_pairs("against_simple", "scGPT against the best simple method", "Verdict"),
        pretraining=figures_of_pairs("against_twin", "each method against its twin", "Pretraining") if PAIRS else [],
    log:
        "<logs>/figure_pairs/{dataset}.log",
    benchmark:
        "<benchmarks>/figure_pairs/{dataset}.tsv"
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=memory_of("figure_pairs"),
        runtime=minutes_of("figure_pairs"),
    params:
        code=code("figure_pairs.py"),
        metric=JUDGING[0],
        questions=questions_of_run(),
        scgpt=[method for method, kind in KINDS.items() if registry.group_of(kind) == registry.SCGPT],
        pairs=PAIRS,
        kinds=KINDS,
    script:
        "../scripts/figure_pairs.py"


rule figure_contrasts:
    input:
        "<results>/contrasts.tsv",
    output:
        entries(
            "<results>/figures/contrasts_NAME.svg",
            JUDGING,
            label="metric",
            labels={"figure": "difference from the twin"},
            category="Pretraining",
            caption="contrasts_figure.rst",
        ),
    log:
        "<logs>/figure_contrasts.log",
    benchmark:
        "<benchmarks>/figure_contrasts.tsv"
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=memory_of("figure_contrasts"),
        runtime=minutes_of("figure_contrasts"),
    params:
        code=code("figure_contrasts.py"),
        metrics=JUDGING,
        kinds=KINDS,
        without_pretraining=WITHOUT_PRETRAINING,
    script:
        "../scripts/figure_contrasts.py"


rule figure_differences:
    input:
        "<results>/verdicts.tsv",
    output:
        entries(
            "<results>/figures/differences_NAME.svg",
            JUDGING,
            label="metric",
            labels={"figure": "difference from the best simple method"},
            category="Verdict",
            caption="differences.rst",
        ),
    log:
        "<logs>/figure_differences.log",
    benchmark:
        "<benchmarks>/figure_differences.tsv"
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=memory_of("figure_differences"),
        runtime=minutes_of("figure_differences"),
    params:
        code=code("figure_differences.py"),
        metrics=JUDGING,
        kinds=KINDS,
        without_pretraining=WITHOUT_PRETRAINING,
    script:
        "../scripts/figure_differences.py"


rule figure_learning_curves:
    input:
        "<results>/learning_curves.tsv",
        "<results>/crossings.tsv",
    output:
        entries(
            "<results>/{dataset}/figures/learning_curves_NAME.svg",
            JUDGING,
            label="metric",
            labels={"figure": "score by number of perturbations"},
            category="Learning curves",
            subcategory="{dataset}",
            caption="learning_curves.rst",
        ),
    log:
        "<logs>/figure_learning_curves/{dataset}.log",
    benchmark:
        "<benchmarks>/figure_learning_curves/{dataset}.tsv"
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=memory_of("figure_learning_curves"),
        runtime=minutes_of("figure_learning_curves"),
    params:
        code=code("figure_learning_curves.py"),
        metrics=JUDGING,
        kinds=KINDS,
        pooled=POOLED,
    script:
        "../scripts/figure_learning_curves.py"


# Contexts


rule transfer:
    input:
        "<results>/{dataset}/cells.h5ad",
    output:
        table=report(
            "<results>/{dataset}/transfer.tsv",
            category="Contexts",
            subcategory="{dataset}",
            labels={"table": "how far measured changes carry over"},
            caption="../report/transfer.rst",
        ),
        ceiling=report(
            "<results>/{dataset}/figures/transfer.svg",
            category="Contexts",
            subcategory="{dataset}",
            labels={"figure": "how far measured changes carry over"},
            caption="../report/transfer.rst",
        ),
        perturbations=report(
            "<results>/{dataset}/figures/carried_over.svg",
            category="Contexts",
            subcategory="{dataset}",
            labels={"figure": "measured changes in two contexts"},
            caption="../report/carried_over.rst",
        ),
    log:
        "<logs>/transfer/{dataset}.log",
    benchmark:
        "<benchmarks>/transfer/{dataset}.tsv"
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=memory_of("transfer"),
        runtime=minutes_of("transfer"),
    params:
        code=code("transfer.py"),
        minimum_reliability=config["card"]["minimum_reliability"],
        perturbations=config["figures"]["perturbations"],
    script:
        "../scripts/transfer.py"


def contexts_of_splits():
    """The context that each split holds out, by the name under which these splits are pooled."""
    of_contexts = {name: splits for name, splits in POOLED.items() if name != ALL_SPLITS}
    return {name: {split: RUN.splits[split]["context"] for split in splits} for name, splits in of_contexts.items()}


rule figure_contexts:
    input:
        "<results>/scores.tsv",
    output:
        entries(
            "<results>/{dataset}/figures/contexts_NAME.svg",
            JUDGING,
            label="metric",
            labels={"figure": "score in each context"},
            category="Contexts",
            subcategory="{dataset}",
            caption="contexts.rst",
        ),
    log:
        "<logs>/figure_contexts/{dataset}.log",
    benchmark:
        "<benchmarks>/figure_contexts/{dataset}.tsv"
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=memory_of("figure_contexts"),
        runtime=minutes_of("figure_contexts"),
    params:
        code=code("figure_contexts.py"),
        metrics=JUDGING,
        held_out=contexts_of_splits(),
        kinds=KINDS,
    script:
        "../scripts/figure_contexts.py"


# Perturbations


def metrics_of_split(wildcards):
    """The metrics of every method and seed on one data set and split."""
    folder = f"<results>/{wildcards.dataset}/{wildcards.split}"
    return [f"{folder}/{method}/{seed}/metrics.tsv" for method, seed in predictions(config["methods"])]


rule figure_perturbations:
    input:
        metrics=metrics_of_split,
        card="<results>/{dataset}/card.json",
    output:
        report(
            "<results>/{dataset}/{split}/figures/perturbations.svg",
            category="Perturbations",
            subcategory="{dataset}",
            labels={"split": "{split}", "metric": JUDGING[0], "figure": "every perturbation"},
            caption="../report/perturbations.rst",
        ),
    log:
        "<logs>/figure_perturbations/{dataset}.{split}.log",
    benchmark:
        "<benchmarks>/figure_perturbations/{dataset}.{split}.tsv"
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=memory_of("figure_perturbations"),
        runtime=minutes_of("figure_perturbations"),
    params:
        code=code("figure_perturbations.py"),
        metric=JUDGING[0],
        kinds=KINDS,
    script:
        "../scripts/figure_perturbations.py"


rule perturbations:
    input:
        metrics=metrics_of_split,
        first_metrics=first_files(config["methods"], "metrics.tsv"),
        pseudobulks=first_files(config["methods"], "pseudobulk.h5ad"),
        records=first_files(config["methods"], "method.json"),
        truth="<results>/{dataset}/{split}/truth.h5ad",
        cells="<results>/{dataset}/cells.h5ad",
        controls="<results>/{dataset}/{split}/controls.h5ad",
        card="<results>/{dataset}/card.json",
    output:
        table=report(
            "<results>/{dataset}/{split}/perturbations.tsv",
            category="Perturbations",
            subcategory="{dataset}",
            labels={"split": "{split}", "metric": JUDGING[0], "table": "index: every perturbation"},
            caption="../report/perturbation_table.rst",
        ),
        view=report(
            "<results>/{dataset}/{split}/perturbations.json.gz",
            category="Perturbations",
            subcategory="{dataset}",
            labels={"split": "{split}", "figure": "one perturbation, gene by gene"},
            caption="../report/perturbation_view.rst",
        ),
    log:
        "<logs>/perturbations/{dataset}.{split}.log",
    benchmark:
        "<benchmarks>/perturbations/{dataset}.{split}.tsv"
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=memory_of("perturbations"),
        runtime=minutes_of("perturbations"),
    params:
        code=code("perturbations.py"),
        metric=JUDGING[0],
        kinds=KINDS,
    script:
        "../scripts/perturbations.py"


# Trust


def robustness_of_method(wildcards):
    """The metric robustness of a method's first seed."""
    seed = config["methods"][wildcards.method]["seeds"][0]
    return f"<results>/{wildcards.dataset}/{wildcards.split}/{wildcards.method}/{seed}/metric_robustness.tsv"


rule figure_metric_robustness:
    input:
        robustness_of_method,
    output:
        report(
            "<results>/{dataset}/{split}/figures/metric_robustness_{method}.svg",
            category="Trust",
            subcategory="{dataset}",
            labels={"split": "{split}", "method": "{method}", "figure": "metric robustness"},
            caption="../report/metric_robustness.rst",
        ),
    log:
        "<logs>/figure_metric_robustness/{dataset}.{split}.{method}.log",
    benchmark:
        "<benchmarks>/figure_metric_robustness/{dataset}.{split}.{method}.tsv"
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=memory_of("figure_metric_robustness"),
        runtime=minutes_of("figure_metric_robustness"),
    params:
        code=code("figure_metric_robustness.py"),
    script:
        "../scripts/figure_metric_robustness.py"
