# Checkpoints that are made here, with random weights or pretrained, and fine-tuning.
from scgpt_bench.scgpt import recipe_version, search

# conda installs PyTorch's CUDA build only where it finds an NVIDIA driver: jobs without a GPU have environments of their
# own.
BY_DEVICE = ("scgpt", "census", "gears")


def environment(name):
    """The file of an environment, for GPUs where jobs ask for them."""
    on_cpu = name in BY_DEVICE and not config["hardware"]["gpu"]
    return f"../../envs/{name}_cpu.yaml" if on_cpu else f"../../envs/{name}.yaml"


def environment_of(rule):
    """The environment of the methods that a rule trains or predicts, as the registry of methods says."""
    (name,) = {kind.environment for kind in registry.KINDS.values() if rule in kind.rules}
    return environment(name)


# A parameter of these jobs: another device computes other numbers. A word, since Snakemake compares the values of a
# job's parameters without their names, and True may be another one's.
DEVICE = "gpu" if config["hardware"]["gpu"] else "cpu"
TRAINED_ON = " in ".join(filter(None, [DEVICE, config["hardware"]["precision"]]))

# A training on several nodes is started on each by srun, from its own script; `mpi` keeps Slurm's executor from putting
# that script into one task. The executor asks for GPUs of the whole job (--gpus), which Slurm may share out unevenly.
NODES = config["hardware"]["nodes"]
ON_SEVERAL_NODES = {"mpi": "srun"} if NODES > 1 else {}
if NODES > 1 and config["hardware"]["gpu"]:
    ON_SEVERAL_NODES["slurm_extra"] = f"--gpus-per-node={config['hardware']['gpu']}"


def checkpoint_options(wildcards):
    return config["checkpoints"][wildcards.checkpoint]


rule initialize_checkpoint:
    output:
        multiext("<results>/checkpoints/{checkpoint}/", "best_model.pt", "args.json", "vocab.json"),
    log:
        "<logs>/initialize_checkpoint/{checkpoint}.log",
    benchmark:
        "<benchmarks>/initialize_checkpoint/{checkpoint}.tsv"
    wildcard_constraints:
        checkpoint=names_pattern(checkpoints_from("random")),
    conda:
        "../../envs/scgpt_cpu.yaml"
    resources:
        mem_mb=memory_of("initialize_checkpoint"),
        runtime=minutes_of("initialize_checkpoint"),
    params:
        code=code_without_plumbing("initialize_checkpoint.py"),
        options=checkpoint_options,
    script:
        "../scripts/initialize_checkpoint.py"


def cells_to_pretrain_on(wildcards):
    """The unperturbed cells that a checkpoint is pretrained on."""
    name = config["checkpoints"][wildcards.checkpoint]["dataset"]
    if RUN.datasets[name].address == GENERATED:
        return f"<results>/generated/{name}/atlas.h5ad"
    return f"<results>/{name}/cells.h5ad"


rule pretrain:
    input:
        cells_to_pretrain_on,
    output:
        multiext(
            "<results>/checkpoints/{checkpoint}/",
            "best_model.pt",
            "args.json",
            "vocab.json",
            "report.json",
            "history.tsv",
        ),
    log:
        "<logs>/pretrain/{checkpoint}.log",
    benchmark:
        "<benchmarks>/pretrain/{checkpoint}.tsv"
    wildcard_constraints:
        checkpoint=names_pattern(checkpoints_from("pretrain")),
    priority: 10  # the longest jobs start first, so that others fill the cores beside them
    conda:
        environment("scgpt")
    threads: config["hardware"]["threads"]
    resources:
        **ON_SEVERAL_NODES,
        gpu=config["hardware"]["gpu"] * NODES,
        nodes=NODES,
        tasks=NODES,
        tasks_per_gpu=0,  # one task for all GPUs of a node
        mem_mb=memory_of("pretrain", gpus=config["hardware"]["gpu"]),
        runtime=minutes_of("pretrain", gpus=config["hardware"]["gpu"] * NODES, resumes_within=1440),
    params:
        recipe=f"version {recipe_version.PRETRAINING}",
        device=TRAINED_ON,
        options=checkpoint_options,
    script:
        "../scripts/pretrain.py"


rule pretrain_census:
    output:
        multiext(
            "<results>/checkpoints/{checkpoint}/",
            "best_model.pt",
            "args.json",
            "vocab.json",
            "report.json",
            "history.tsv",
        ),
    log:
        "<logs>/pretrain_census/{checkpoint}.log",
    benchmark:
        "<benchmarks>/pretrain_census/{checkpoint}.tsv"
    wildcard_constraints:
        checkpoint=names_pattern(checkpoints_from("census")),
    conda:
        environment("census")
    threads: config["hardware"]["threads"]
    resources:
        **ON_SEVERAL_NODES,
        gpu=config["hardware"]["gpu"] * NODES,
        nodes=NODES,
        tasks=NODES,
        tasks_per_gpu=0,  # one task for all GPUs of a node
        mem_mb=memory_of("pretrain_census", gpus=config["hardware"]["gpu"]),
        runtime=minutes_of("pretrain_census", gpus=config["hardware"]["gpu"] * NODES, resumes_within=1440),
    params:
        recipe=f"version {recipe_version.PRETRAINING}",
        device=TRAINED_ON,
        options=checkpoint_options,
    script:
        "../scripts/pretrain_census.py"


def checkpoint_of_method(wildcards):
    """The three files of the checkpoint that a method starts from."""
    return checkpoint_to_read(config["methods"][wildcards.method]["checkpoint"])


def vocabulary_of_method(wildcards):
    """The data set's genes in the vocabulary of the method's checkpoint."""
    name = config["methods"][wildcards.method]["checkpoint"]
    return f"<results>/{wildcards.dataset}/vocabulary/{name}.tsv"


def method_options(wildcards):
    """Kind and options of a method: what its predictions depend on, beside the seed."""
    options = config["methods"][wildcards.method]
    return {key: value for key, value in options.items() if key != "seeds"}


def training_options(wildcards):
    """The same, without what concerns only the prediction that follows."""
    unused = ("checkpoint", "genes_fed", "search")
    return {key: value for key, value in method_options(wildcards).items() if key not in unused}


# Of each method with a search: its candidate recipes. They are trained with its first seed.
CANDIDATES = {
    method: search.candidates(config["methods"][method]["search"])
    for method in methods_run_by("finetune")
    if config["methods"][method]["search"]
}


def of_candidates(name):
    """This file of all candidates of a method, for its first seed; nothing for a method without a search.

    Nothing for a prediction either: it takes what was chosen where there were conditions to choose by.
    """

    def files(wildcards):
        folder = f"<results>/{wildcards.dataset}/{wildcards.split}/{wildcards.method}"
        first = config["methods"][wildcards.method]["seeds"][0]
        if int(wildcards.get("seed", first)) != first or wildcards.split in PREDICTED:
            return []
        return [f"{folder}/{first}/search/{each}/{name}" for each in CANDIDATES.get(wildcards.method, ())]

    return files


def chosen_recipe(wildcards):
    """What the search of the split chose; for a prediction, that of the first split: it has no conditions to choose by."""
    split = SPLITS[0] if wildcards.split in PREDICTED else wildcards.split
    folder = f"<results>/{wildcards.dataset}/{split}/{wildcards.method}"
    return f"{folder}/chosen_recipe.json" if wildcards.method in CANDIDATES else []


def reports_of_splits(wildcards):
    """What says how long to train on all that was measured; nothing for a split with conditions to validate on.

    Where a recipe is searched, only the split that it comes from: others may have chosen one that takes longer.
    """
    if wildcards.split not in PREDICTED:
        return []
    splits = SPLITS[:1] if wildcards.method in CANDIDATES else SPLITS
    return files_of("model/report.json", [wildcards.dataset], [wildcards.method], splits)


rule finetune:
    input:
        cells="<results>/{dataset}/cells.h5ad",
        split="<results>/{dataset}/{split}/split.tsv",
        checkpoint=checkpoint_of_method,
        vocabulary=vocabulary_of_method,
        chosen=chosen_recipe,
        candidates=of_candidates("model.pt"),
        reports=reports_of_splits,
        audit="<results>/{dataset}/{split}/audit.json",
    output:
        model="<results>/{dataset}/{split}/{method}/{seed}/model/model.pt",
        report="<results>/{dataset}/{split}/{method}/{seed}/model/report.json",
        history="<results>/{dataset}/{split}/{method}/{seed}/model/history.tsv",
    log:
        "<logs>/finetune/{dataset}.{split}.{method}.{seed}.log",
    benchmark:
        "<benchmarks>/finetune/{dataset}.{split}.{method}.{seed}.tsv"
    wildcard_constraints:
        method=names_pattern(methods_run_by("finetune")),
    priority: 10  # the longest jobs start first, so that others fill the cores beside them
    conda:
        environment_of("finetune")
    threads: config["hardware"]["threads"]
    resources:
        **ON_SEVERAL_NODES,
        gpu=config["hardware"]["gpu"] * NODES,
        nodes=NODES,
        tasks=NODES,
        tasks_per_gpu=0,  # one task for all GPUs of a node
        mem_mb=memory_of("finetune", gpus=config["hardware"]["gpu"]),
        runtime=minutes_of("finetune", gpus=config["hardware"]["gpu"] * NODES, resumes_within=1440),
    params:
        recipe=f"version {recipe_version.FINETUNING}",
        device=TRAINED_ON,
        is_subset=lambda wildcards: wildcards.split in SUBSETS,
        options=training_options,
    script:
        "../scripts/finetune.py"


use rule finetune as finetune_candidate with:
    input:
        cells="<results>/{dataset}/cells.h5ad",
        split="<results>/{dataset}/{split}/split.tsv",
        checkpoint=checkpoint_of_method,
        vocabulary=vocabulary_of_method,
        audit="<results>/{dataset}/{split}/audit.json",
    output:
        model="<results>/{dataset}/{split}/{method}/{seed}/search/{candidate}/model.pt",
        report="<results>/{dataset}/{split}/{method}/{seed}/search/{candidate}/report.json",
        history="<results>/{dataset}/{split}/{method}/{seed}/search/{candidate}/history.tsv",
    log:
        "<logs>/finetune_candidate/{dataset}.{split}.{method}.{seed}.{candidate}.log",
    benchmark:
        "<benchmarks>/finetune_candidate/{dataset}.{split}.{method}.{seed}.{candidate}.tsv"
    wildcard_constraints:
        split=names_pattern([*SPLITS, *SUBSETS]),
        method=names_pattern(CANDIDATES),
        candidate=names_pattern({name for names in CANDIDATES.values() for name in names}),
    params:
        options=lambda wildcards: training_options(wildcards) | CANDIDATES[wildcards.method][wildcards.candidate],


rule choose_recipe:
    input:
        reports=of_candidates("report.json"),
        histories=of_candidates("history.tsv"),
    output:
        chosen="<results>/{dataset}/{split}/{method}/chosen_recipe.json",
        table=report(
            "<results>/{dataset}/{split}/{method}/search.tsv",
            category="Model",
            subcategory="{dataset}",
            labels={"split": "{split}", "method": "{method}", "table": "search of the recipe"},
            caption="../report/search.rst",
        ),
    log:
        "<logs>/choose_recipe/{dataset}.{split}.{method}.log",
    benchmark:
        "<benchmarks>/choose_recipe/{dataset}.{split}.{method}.tsv"
    wildcard_constraints:
        method=names_pattern(CANDIDATES),
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=memory_of("choose_recipe"),
        runtime=minutes_of("choose_recipe"),
    params:
        code=code_without_plumbing("choose_recipe.py"),
        candidates=lambda wildcards: CANDIDATES[wildcards.method],
    script:
        "../scripts/choose_recipe.py"
