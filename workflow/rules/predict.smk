# Predictions of every method: predictions.h5ad, the same for whoever made it.


def function_of_method(wildcards):
    """What the script of a rule calls for a method."""
    return registry.KINDS[KINDS[wildcards.method]].function


def embeddings_of_method(wildcards):
    """The gene vectors that a baseline takes from a file: those of a checkpoint, or an entry of `vectors`."""
    options, folder = config["methods"][wildcards.method], f"<results>/{wildcards.dataset}"
    if options.get("checkpoint"):
        return [f"{folder}/vocabulary/{options['checkpoint']}.embeddings.h5ad"]
    from_file = options.get("vectors") and options["vectors"] not in vectors_from("contexts")
    return [f"{folder}/vectors/{options['vectors']}.h5ad"] if from_file else []


def context_vectors_of_method(wildcards):
    """How many principal components of other contexts are the gene vectors of a baseline, if they are its vectors."""
    vectors = config["methods"][wildcards.method].get("vectors")
    return config["vectors"][vectors]["components"] if vectors in vectors_from("contexts") else None


rule predict_baseline:
    input:
        cells="<results>/{dataset}/cells.h5ad",
        split="<results>/{dataset}/{split}/split.tsv",
        controls="<results>/{dataset}/{split}/controls.h5ad",
        embeddings=embeddings_of_method,
        audit="<results>/{dataset}/{split}/audit.json",
    output:
        predictions="<results>/{dataset}/{split}/{method}/{seed}/predictions.h5ad",
        method="<results>/{dataset}/{split}/{method}/{seed}/method.json",
    log:
        "<logs>/predict_baseline/{dataset}.{split}.{method}.{seed}.log",
    benchmark:
        "<benchmarks>/predict_baseline/{dataset}.{split}.{method}.{seed}.tsv"
    wildcard_constraints:
        method=names_pattern(methods_run_by("predict_baseline")),
    conda:
        environment_of("predict_baseline")
    resources:
        mem_mb=memory_of("predict_baseline"),
        runtime=minutes_of("predict_baseline"),
    params:
        code=code_without_plumbing("predict_baseline.py"),
        function=function_of_method,
        options=method_options,
        context_vectors=context_vectors_of_method,
    script:
        "../scripts/predict_baseline.py"


def planted_truth(wildcards):
    """The true means of a generated data set; nothing for any other."""
    if RUN.datasets[wildcards.dataset].address == GENERATED:
        return f"<results>/generated/{wildcards.dataset}/truth.h5ad"
    return []


rule predict_benchmark_control:
    input:
        cells="<results>/{dataset}/cells.h5ad",
        controls="<results>/{dataset}/{split}/controls.h5ad",
        truth="<results>/{dataset}/{split}/truth.h5ad",
        planted=planted_truth,
        audit="<results>/{dataset}/{split}/audit.json",
    output:
        predictions="<results>/{dataset}/{split}/{method}/{seed}/predictions.h5ad",
        method="<results>/{dataset}/{split}/{method}/{seed}/method.json",
    log:
        "<logs>/predict_benchmark_control/{dataset}.{split}.{method}.{seed}.log",
    benchmark:
        "<benchmarks>/predict_benchmark_control/{dataset}.{split}.{method}.{seed}.tsv"
    wildcard_constraints:
        method=names_pattern(methods_run_by("predict_benchmark_control")),
    conda:
        environment_of("predict_benchmark_control")
    resources:
        mem_mb=memory_of("predict_benchmark_control"),
        runtime=minutes_of("predict_benchmark_control"),
    params:
        code=code_without_plumbing("predict_benchmark_control.py"),
        function=function_of_method,
        options=method_options,
    script:
        "../scripts/predict_benchmark_control.py"


SHARD = ".{scatteritem}" if config["inference"]["shards"] > 1 else ""


def of_shard(path):
    """A file of a prediction; where there are shards, that of one, until they are gathered."""
    folder, name = path.rsplit("/", 1)
    return temp(f"{folder}/shards/{{scatteritem}}.{name}") if SHARD else path


def model_of_method(wildcards):
    """The fine-tuned model of a method; nothing for a method that uses the checkpoint as it is."""
    if wildcards.method not in methods_run_by("finetune"):
        return []
    folder = f"<results>/{wildcards.dataset}/{wildcards.split}/{wildcards.method}/{wildcards.seed}/model"
    return [f"{folder}/model.pt", f"{folder}/report.json"]


rule predict_scgpt:
    input:
        controls="<results>/{dataset}/{split}/controls.h5ad",
        checkpoint=checkpoint_of_method,
        vocabulary=vocabulary_of_method,
        model=model_of_method,
        audit="<results>/{dataset}/{split}/audit.json",
    output:
        predictions=of_shard("<results>/{dataset}/{split}/{method}/{seed}/predictions.h5ad"),
        method=of_shard("<results>/{dataset}/{split}/{method}/{seed}/method.json"),
    log:
        f"<logs>/predict_scgpt/{{dataset}}.{{split}}.{{method}}.{{seed}}{SHARD}.log",
    benchmark:
        f"<benchmarks>/predict_scgpt/{{dataset}}.{{split}}.{{method}}.{{seed}}{SHARD}.tsv"
    wildcard_constraints:
        method=names_pattern(methods_run_by("predict_scgpt")),
    conda:
        environment_of("predict_scgpt")
    threads: config["hardware"]["threads"]
    resources:
        gpu=min(1, config["hardware"]["gpu"]),  # it uses one: `shards` use several
        nodes=1,
        tasks_per_gpu=0,  # one task for all GPUs
        mem_mb=memory_of("predict_scgpt", gpus=min(1, config["hardware"]["gpu"])),
        runtime=minutes_of("predict_scgpt", gpus=min(1, config["hardware"]["gpu"])),
    params:
        code=code_without_plumbing("predict_scgpt.py"),
        device=DEVICE,
        function=function_of_method,
        options=method_options,
        batch_size=config["inference"]["batch_size"],
        keep_cells=config["inference"]["keep_cells"],
        precision=config["hardware"]["precision"],
    script:
        "../scripts/predict_scgpt.py"


# Shards are of whole perturbations, and a cluster predicts them side by side.
if SHARD:

    scattergather:
        shard=config["inference"]["shards"],

    rule gather_predictions:
        input:
            shards=gather.shard(
                "<results>/{{dataset}}/{{split}}/{{method}}/{{seed}}/shards/{scatteritem}.predictions.h5ad"
            ),
            methods=gather.shard("<results>/{{dataset}}/{{split}}/{{method}}/{{seed}}/shards/{scatteritem}.method.json"),
        output:
            predictions="<results>/{dataset}/{split}/{method}/{seed}/predictions.h5ad",
            method="<results>/{dataset}/{split}/{method}/{seed}/method.json",
        log:
            "<logs>/gather_predictions/{dataset}.{split}.{method}.{seed}.log",
        benchmark:
            "<benchmarks>/gather_predictions/{dataset}.{split}.{method}.{seed}.tsv"
        wildcard_constraints:
            method=names_pattern(methods_run_by("predict_scgpt")),
        conda:
            "../../envs/evaluation.yaml"
        resources:
            mem_mb=memory_of("gather_predictions"),
            runtime=minutes_of("gather_predictions"),
        params:
            code=code_without_plumbing("gather_predictions.py"),
        script:
            "../scripts/gather_predictions.py"


def graph_of_method(wildcards):
    """The graph of genes of a method: a download, or a file of the user's."""
    return file_of_vectors(config["methods"][wildcards.method]["graph"])


def own_graph_of_method(wildcards):
    """The user's file; nothing for a download, which goes by its checksum."""
    return config["vectors"][config["methods"][wildcards.method]["graph"]].get("path")


rule predict_gears:
    input:
        cells="<results>/{dataset}/cells.h5ad",
        split="<results>/{dataset}/{split}/split.tsv",
        controls="<results>/{dataset}/{split}/controls.h5ad",
        graph=graph_of_method,
        audit="<results>/{dataset}/{split}/audit.json",
    output:
        predictions="<results>/{dataset}/{split}/{method}/{seed}/predictions.h5ad",
        method="<results>/{dataset}/{split}/{method}/{seed}/method.json",
    log:
        "<logs>/predict_gears/{dataset}.{split}.{method}.{seed}.log",
    benchmark:
        "<benchmarks>/predict_gears/{dataset}.{split}.{method}.{seed}.tsv"
    wildcard_constraints:
        method=names_pattern(methods_run_by("predict_gears")),
    priority: 10  # it trains, and the longest jobs start first
    conda:
        environment_of("predict_gears")
    threads: config["hardware"]["threads"]
    resources:
        gpu=min(1, config["hardware"]["gpu"]),  # it uses one
        nodes=1,
        tasks_per_gpu=0,  # one task for all GPUs
        mem_mb=memory_of("predict_gears", gpus=min(1, config["hardware"]["gpu"])),
        runtime=minutes_of("predict_gears", gpus=min(1, config["hardware"]["gpu"])),
    params:
        code=code_without_plumbing("predict_gears.py"),
        content=lambda wildcards: content_of_file(own_graph_of_method(wildcards)),
        device=DEVICE,
        options=method_options,
    script:
        "../scripts/predict_gears.py"


def script_of_method(wildcards):
    return config["methods"][wildcards.method]["script"]


rule predict_by_script:
    input:
        script=script_of_method,
        cells="<results>/{dataset}/cells.h5ad",
        split="<results>/{dataset}/{split}/split.tsv",
        controls="<results>/{dataset}/{split}/controls.h5ad",
        audit="<results>/{dataset}/{split}/audit.json",
    output:
        temp("<results>/{dataset}/{split}/{method}/{seed}/unchecked.h5ad"),
    log:
        "<logs>/predict_by_script/{dataset}.{split}.{method}.{seed}.log",
    benchmark:
        "<benchmarks>/predict_by_script/{dataset}.{split}.{method}.{seed}.tsv"
    wildcard_constraints:
        method=names_pattern(methods_run_by("predict_by_script")),
    conda:
        environment_of("predict_by_script")
    threads: config["hardware"]["threads"]
    resources:
        gpu=config["hardware"]["gpu"],
        nodes=1,
        tasks_per_gpu=0,  # one task for all GPUs
        mem_mb=memory_of("predict_by_script", gpus=config["hardware"]["gpu"]),
        runtime=minutes_of("predict_by_script", gpus=config["hardware"]["gpu"]),
    params:
        code=code_without_plumbing("predict_by_script.py"),
        content=lambda wildcards: content_of_file(script_of_method(wildcards)),
        interpreter=lambda wildcards: config["methods"][wildcards.method]["interpreter"],
        options=lambda wildcards: config["methods"][wildcards.method]["options"],
    script:
        "../scripts/predict_by_script.py"


def file_to_import(wildcards):
    """Predictions made elsewhere, or by the method's own script."""
    options = config["methods"][wildcards.method]
    if wildcards.method in methods_run_by("predict_by_script"):
        return f"<results>/{wildcards.dataset}/{wildcards.split}/{wildcards.method}/{wildcards.seed}/unchecked.h5ad"
    return options["files"][wildcards.dataset][wildcards.split].replace("{seed}", wildcards.seed)


def content_of_file_to_import(wildcards):
    """Nothing for predictions by the method's own script, which the workflow makes and removes."""
    made_here = wildcards.method in methods_run_by("predict_by_script")
    return None if made_here else content_of_file(file_to_import(wildcards))


def labels_of_file(wildcards):
    """How a foreign prediction names things, in the words of the data-set table."""
    options = config["methods"][wildcards.method]
    keys = ("perturbation_column", "control_label", "combination_separator", "gene_symbol_column")
    return {"guide_prefix": None, "guide_suffix": None, **{key: options[key] for key in keys}}


def missing_rules(wildcards):
    """What happens to perturbations and genes that a foreign prediction lacks."""
    options = config["methods"][wildcards.method]
    return {key: options[key] for key in ("missing_perturbations", "missing_genes")}


def made_by(wildcards):
    """What is known of a foreign prediction beside its file."""
    options = config["methods"][wildcards.method]
    return {key: options[key] for key in ("kind", "options") if key in options}


rule import_predictions:
    input:
        file=file_to_import,
        controls="<results>/{dataset}/{split}/controls.h5ad",
        audit="<results>/{dataset}/{split}/audit.json",
    output:
        predictions="<results>/{dataset}/{split}/{method}/{seed}/predictions.h5ad",
        method="<results>/{dataset}/{split}/{method}/{seed}/method.json",
    log:
        "<logs>/import_predictions/{dataset}.{split}.{method}.{seed}.log",
    benchmark:
        "<benchmarks>/import_predictions/{dataset}.{split}.{method}.{seed}.tsv"
    wildcard_constraints:
        method=names_pattern(methods_run_by("import_predictions")),
    conda:
        environment_of("import_predictions")
    resources:
        mem_mb=memory_of("import_predictions"),
        runtime=minutes_of("import_predictions"),
    params:
        code=code_without_plumbing("import_predictions.py"),
        content=content_of_file_to_import,
        dataset=dataset_row,
        labels=labels_of_file,
        missing=missing_rules,
        made_by=made_by,
    script:
        "../scripts/import_predictions.py"
