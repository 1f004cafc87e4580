# What nobody measured: lists of perturbations, predicted by methods that learn from everything that was.


def methods_of_prediction(prediction):
    """The methods that predict what nobody measured: those that are named, or all that can."""
    return configuration.methods_of_prediction(config, prediction)


def of_prediction(name):
    """A file of the split of a prediction; of all seeds of a method, where they make it."""

    def files(wildcards):
        folder = f"<results>/{prediction_of(wildcards)['dataset']}/predicted-{wildcards.prediction}"
        if "{seed}" not in name:
            return f"{folder}/{name}"
        seeds = [wildcards.seed] if wildcards.get("seed") else config["methods"][wildcards.method]["seeds"]
        return [f"{folder}/{wildcards.method}/{name.format(seed=seed)}" for seed in seeds]

    return files


# Predictions lie where those of every split do. Here they are found by the name of the list, without a second copy.
rule link_prediction:
    input:
        predictions=of_prediction("{seed}/predictions.h5ad"),
        method=of_prediction("{seed}/method.json"),
    output:
        predictions="<results>/predicted/{prediction}/{method}/{seed}/predictions.h5ad",
        method="<results>/predicted/{prediction}/{method}/{seed}/method.json",
    log:
        "<logs>/link_prediction/{prediction}.{method}.{seed}.log",
    benchmark:
        "<benchmarks>/link_prediction/{prediction}.{method}.{seed}.tsv"
    localrule: True
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=memory_of("link_prediction"),
        runtime=minutes_of("link_prediction"),
    params:
        code=code("link_prediction.py"),
    script:
        "../scripts/link_prediction.py"


rule predicted_changes:
    input:
        controls=of_prediction("controls.h5ad"),
        predictions=of_prediction("{seed}/predictions.h5ad"),
    output:
        changes="<results>/predicted/{prediction}/{method}/changes.parquet",
        largest=report(
            "<results>/predicted/{prediction}/{method}/largest_changes.tsv",
            category="Predicted",
            labels={"prediction": "{prediction}", "method": "{method}", "table": "largest predicted changes"},
            caption="../report/largest_changes.rst",
        ),
    log:
        "<logs>/predicted_changes/{prediction}.{method}.log",
    benchmark:
        "<benchmarks>/predicted_changes/{prediction}.{method}.tsv"
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=memory_of("predicted_changes"),
        runtime=minutes_of("predicted_changes"),
    params:
        code=code("predicted_changes.py"),
    script:
        "../scripts/predicted_changes.py"


def of_methods(name):
    """This file of every method of a prediction."""

    def files(wildcards):
        folder, methods = f"<results>/predicted/{wildcards.prediction}", methods_of_prediction(wildcards.prediction)
        return [f"{folder}/{method}/{name}" for method in methods]

    return files


def records_of_prediction(wildcards):
    """The record of each method, of its first seed."""
    methods = methods_of_prediction(wildcards.prediction)
    folder = f"<results>/predicted/{wildcards.prediction}"
    return [f"{folder}/{method}/{config['methods'][method]['seeds'][0]}/method.json" for method in methods]


rule rank_predictions:
    input:
        changes=of_methods("changes.parquet"),
        records=records_of_prediction,
        signature=lambda wildcards: prediction_of(wildcards)["signature"] or [],
    output:
        report(
            "<results>/predicted/{prediction}/ranking.tsv",
            category="Predicted",
            labels={"prediction": "{prediction}", "table": "ranking of perturbations"},
            caption="../report/ranking.rst",
        ),
    log:
        "<logs>/rank_predictions/{prediction}.log",
    benchmark:
        "<benchmarks>/rank_predictions/{prediction}.tsv"
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=memory_of("rank_predictions"),
        runtime=minutes_of("rank_predictions"),
    params:
        code=code("rank_predictions.py"),
        content=lambda wildcards: content_of_file(prediction_of(wildcards)["signature"]),
        methods=lambda wildcards: methods_of_prediction(wildcards.prediction),
    script:
        "../scripts/rank_predictions.py"


def measured_for_prediction(name):
    """A file of every method and seed in every split of measured conditions of the list's data set."""
    return lambda wildcards: files_of(name, [prediction_of(wildcards)["dataset"]], config["methods"])


def of_measured_splits(name):
    """A file of every split of measured conditions of the list's data set."""
    return lambda wildcards: [f"<results>/{prediction_of(wildcards)['dataset']}/{split}/{name}" for split in SPLITS]


rule trust_in_predictions:
    input:
        metrics=measured_for_prediction("metrics.tsv"),
        control_blocks=measured_for_prediction("control_blocks.tsv"),
        measured=measured_for_prediction("method.json"),
        references=of_measured_splits("reference_scores.tsv"),
        splits=of_measured_splits("split.tsv"),
        split=of_prediction("split.tsv"),
        records=records_of_prediction,
    output:
        report(
            "<results>/predicted/{prediction}/trust.tsv",
            category="Predicted",
            labels={"prediction": "{prediction}", "table": "what methods scored where the answer was measured"},
            caption="../report/trust_in_predictions.rst",
        ),
    log:
        "<logs>/trust_in_predictions/{prediction}.log",
    benchmark:
        "<benchmarks>/trust_in_predictions/{prediction}.tsv"
    conda:
        "../../envs/evaluation.yaml"
    resources:
        mem_mb=memory_of("trust_in_predictions"),
        runtime=minutes_of("trust_in_predictions"),
    params:
        code=code("trust_in_predictions.py"),
        study=study(),
        methods=lambda wildcards: methods_of_prediction(wildcards.prediction),
    script:
        "../scripts/trust_in_predictions.py"


rule predicted_page:
    input:
        trust="<results>/predicted/{prediction}/trust.tsv",
        ranking="<results>/predicted/{prediction}/ranking.tsv",
        asked=of_prediction("asked.tsv"),
        records=records_of_prediction,
    output:
        report(
            "<results>/predicted/{prediction}/page.html",
            category="Predicted",
            labels={"prediction": "{prediction}", "figure": "what is predicted, and how far to trust it"},
            caption="../report/predicted_page.rst",
        ),
    log:
        "<logs>/predicted_page/{prediction}.log",
    benchmark:
        "<benchmarks>/predicted_page/{prediction}.tsv"
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=memory_of("predicted_page"),
        runtime=minutes_of("predicted_page"),
    params:
        code=code("predicted_page.py"),
        templates=sources.folder_hash(LIBRARY / "scgpt_bench" / "report"),
        dataset=lambda wildcards: prediction_of(wildcards)["dataset"],
        methods=lambda wildcards: methods_of_prediction(wildcards.prediction),
    script:
        "../scripts/predicted_page.py"


def predictions_of_unmeasured():
    """What a study makes of its lists."""
    made = []
    for prediction, options in config["predict"].items():
        folder, methods = f"<results>/predicted/{prediction}", methods_of_prediction(prediction)
        made += [f"{folder}/{name}" for name in ("page.html", "trust.tsv", "ranking.tsv")]
        made.append(f"<results>/{options['dataset']}/predicted-{prediction}/asked.tsv")
        made += [f"{folder}/{method}/largest_changes.tsv" for method in methods]
        made += [f"{folder}/{method}/{seed}/predictions.h5ad" for method, seed in predictions(methods)]
    return made
