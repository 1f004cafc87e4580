# Functions that choose the inputs of rules.


def drop_file(name):
    """Where the cells of a data set come from: a download, or the generator."""
    dataset = RUN.datasets[name]
    if dataset.address == GENERATED:
        return f"resources/generated/{name}/cells.h5ad"
    return f"resources/datasets/{name}/source.{dataset.suffix}"


def drop_of_dataset(wildcards):
    """The file of a data set and, where guide calls come in one of their own, that."""
    table = RUN.datasets[wildcards.dataset].guide_table
    return [drop_file(wildcards.dataset), *([table] if table else [])]


def drop_to_check(wildcards):
    """A local file is looked at where it lies; anything else is fetched first, and its checksum checked."""
    address = RUN.datasets[wildcards.dataset].address
    return address if Path(address).is_file() else drop_file(wildcards.dataset)


def checks_of_run():
    """What is understood of one data set, or of every one that is run."""
    return [f"results/{name}/check.txt" for name in DATASETS]


def own_checkpoint_file(wildcards):
    """The same file in the folder of a checkpoint of one's own."""
    return f"{config['checkpoints'][wildcards.checkpoint]['path']}/{wildcards.file}"


def cells_to_pretrain_on(wildcards):
    """The unperturbed cells that a checkpoint is pretrained on."""
    name = config["checkpoints"][wildcards.checkpoint]["dataset"]
    if RUN.datasets[name].address == GENERATED:
        return f"resources/generated/{name}/atlas.h5ad"
    return f"results/{name}/cells.h5ad"


def checkpoint_of_method(wildcards):
    """The three files of the checkpoint that a method starts from."""
    name = config["methods"][wildcards.method]["checkpoint"]
    return multiext(f"resources/checkpoints/{name}/", "best_model.pt", "args.json", "vocab.json")


def model_of_method(wildcards):
    """The fine-tuned model of a method; nothing for an arm that uses the checkpoint as it is."""
    if wildcards.method not in methods_of(FINETUNED):
        return []
    folder = f"results/{wildcards.dataset}/{wildcards.split}/{wildcards.method}/{wildcards.seed}/model"
    return [f"{folder}/model.pt", f"{folder}/report.json"]


def embeddings_of_method(wildcards):
    """The gene embeddings that a baseline takes from a checkpoint, if it does."""
    name = config["methods"][wildcards.method].get("checkpoint")
    return [f"results/{wildcards.dataset}/vocabulary/{name}.embeddings.h5ad"] if name else []


def planted_truth(wildcards):
    """The true means of a generated data set; nothing for any other."""
    if RUN.datasets[wildcards.dataset].address == GENERATED:
        return f"resources/generated/{wildcards.dataset}/truth.h5ad"
    return []


def vocabulary_of_method(wildcards):
    """The data set's genes in the vocabulary of the method's checkpoint."""
    name = config["methods"][wildcards.method]["checkpoint"]
    return f"results/{wildcards.dataset}/vocabulary/{name}.tsv"


def split_file(wildcards):
    """The file of a fixed split; nothing for a split that is dealt here."""
    return config["splits"]["files"].get(wildcards.split, {}).get(wildcards.dataset, [])


def script_of_method(wildcards):
    return config["methods"][wildcards.method]["script"]


def file_to_import(wildcards):
    """Predictions made elsewhere, or by the method's own script."""
    options = config["methods"][wildcards.method]
    if options["kind"] == "script":
        return f"results/{wildcards.dataset}/{wildcards.split}/{wildcards.method}/{wildcards.seed}/unchecked.h5ad"
    return options["files"][wildcards.dataset][wildcards.split].replace("{seed}", wildcards.seed)


def predictions(methods):
    """(method, seed) of every prediction of these methods."""
    return [(method, seed) for method in methods for seed in config["methods"][method]["seeds"]]


def metrics_of_split(wildcards):
    """The metrics of every method and seed on one data set and split."""
    folder = f"results/{wildcards.dataset}/{wildcards.split}"
    return [f"{folder}/{method}/{seed}/metrics.tsv" for method, seed in predictions(config["methods"])]


def first_pseudobulks(wildcards, methods):
    """The pseudo-bulks of each method's first seed on one data set and split."""
    folder = f"results/{wildcards.dataset}/{wildcards.split}"
    return [f"{folder}/{method}/{config['methods'][method]['seeds'][0]}/pseudobulk.h5ad" for method in methods]


def pseudobulks_of_split(wildcards):
    return first_pseudobulks(wildcards, config["methods"])


def scgpt_pseudobulks_of_split(wildcards):
    return first_pseudobulks(wildcards, methods_of(SCGPT))


def metrics_of(datasets):
    """The metrics of every split, method and seed on these data sets."""
    return [
        f"results/{dataset}/{split}/{method}/{seed}/metrics.tsv"
        for dataset in datasets
        for split in SPLITS
        for method, seed in predictions(config["methods"])
    ]


def metrics_of_run():
    """The metrics of every data set, split, method and seed."""
    return metrics_of(config["datasets"])


def last_two():
    """The last two versions of every data set of which more than one is run, by the name of the last."""
    versions = {}
    for name, dataset in RUN.datasets.items():
        if name in config["datasets"]:
            versions.setdefault(dataset.series, []).append(name)
    return {names[-1]: names[-2:] for names in versions.values() if len(names) > 1}


def cards_of_last_two(wildcards):
    return [f"results/{name}/card.json" for name in last_two()[wildcards.dataset]]


def metrics_of_last_two(wildcards):
    return metrics_of(last_two()[wildcards.dataset])


def scorers_of(dataset):
    """The official scorers of a data set: cell_eval2 compares raw counts, and is left out where there are none."""
    counts = RUN.datasets[dataset].values == "counts"
    return [scorer for scorer in config["official_scorers"] if counts or scorer != "cell_eval2"]


def official_metrics_of_run():
    """What the official scorers say of every data set, split, method and seed."""
    return [
        f"results/{dataset}/{split}/{method}/{seed}/official_{scorer}.tsv"
        for dataset in config["datasets"]
        for split in SPLITS
        for method, seed in predictions(config["methods"])
        for scorer in scorers_of(dataset)
    ]


def submission_options(wildcards):
    """Challenge, contexts and limits of a submission."""
    options = config["submissions"][wildcards.submission]
    return {key: options[key] for key in ("challenge", "contexts", "limits")}


def genes_of_submission(wildcards):
    """The challenge's list of genes."""
    return config["submissions"][wildcards.submission]["genes"]


def parts_of_submission(wildcards):
    """The cells, splits and predictions of every context of a submission."""
    folders = [f"results/{dataset}" for dataset in config["submissions"][wildcards.submission]["contexts"].values()]
    prediction = f"{wildcards.split}/{wildcards.method}/{wildcards.seed}/predictions.h5ad"
    return {
        "cells": [f"{folder}/cells.h5ad" for folder in folders],
        "splits": [f"{folder}/{wildcards.split}/split.tsv" for folder in folders],
        "predictions": [f"{folder}/{prediction}" for folder in folders],
    }


def submissions_of_run():
    """The files for the Virtual Cell Challenge."""
    suffixes = {2025: "vcc", 2026: "h5ad"}
    return [
        f"results/submissions/{name}/{split}.{method}.{seed}.{suffixes[options['challenge']]}"
        for name, options in config["submissions"].items()
        for split in SPLITS
        for method, seed in predictions(options["methods"])
    ]


def inputs_of_run():
    """The files that came from outside the workflow, or in their place the generated ones."""
    return list(map(drop_file, config["datasets"])) + [
        f"resources/checkpoints/{name}/{file}"
        for name in config["checkpoints"]
        for file in ("best_model.pt", "args.json", "vocab.json")
    ]


def own_files_of_run():
    """The files of the user's that the configuration names."""
    files = [config[table] for table in ("dataset_table", "checkpoint_table", "anchor_table")]
    files += [RUN.datasets[name].address for name in config["datasets"] if RUN.datasets[name].is_local]
    files += [
        f"{config['checkpoints'][name]['path']}/{file}"
        for name in checkpoints_from("folder")
        for file in ("best_model.pt", "args.json", "vocab.json")
    ]
    files += [file for split in config["splits"]["files"].values() for file in split.values()]
    files += [config["methods"][name]["script"] for name in methods_of({"script"})]
    files += [
        file.replace("{seed}", str(seed))
        for name, seed in predictions(methods_of({"imported"}))
        for splits in config["methods"][name]["files"].values()
        for split, file in splits.items()
        if split in SPLITS
    ]
    return files + [options["genes"] for options in config["submissions"].values()]


def downloads_of_run():
    """The files that the workflow downloads."""
    datasets = [drop_file(name) for name in config["datasets"] if RUN.datasets[name].address != GENERATED]
    return datasets + [
        f"resources/checkpoints/{name}/{file}"
        for name in checkpoints_from("catalogue")
        for file in ("best_model.pt", "args.json", "vocab.json")
    ]


def benchmarks_of_run():
    """What the heavy jobs cost, as Snakemake measured it."""
    number = config["inference"]["shards"]
    steps = {
        "predict_baseline": (methods_of(BASELINES | EMBEDDING), [""]),
        "import_predictions": (methods_of(FOREIGN), [""]),
        "predict_benchmark_control": (methods_of(BENCHMARK_CONTROLS), [""]),
        "finetune": (methods_of(FINETUNED), [""]),
        "predict_scgpt": (methods_of(SCGPT), [f".{index + 1}-of-{number}" for index in range(number)]),
        "evaluate": (config["methods"], [""]),
    }
    jobs = [f"{step}/{dataset}" for step in ("harmonize", "card") for dataset in config["datasets"]]
    jobs += [f"pretrain/{name}" for name in checkpoints_from("pretrain")]
    jobs += [f"pretrain_census/{name}" for name in checkpoints_from("census")]
    jobs += [
        f"{step}/{dataset}.{split}.{method}.{seed}{part}"
        for dataset in config["datasets"]
        for split in SPLITS
        for step, (methods, parts) in steps.items()
        for method, seed in predictions(methods)
        for part in parts
    ]
    return [f"results/benchmarks/{job}.tsv" for job in jobs]
