# Functions that choose the inputs of rules that read many predictions, data sets or the whole run.


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


def first_metrics_of_split(wildcards):
    """The metrics of each method's first seed on one data set and split."""
    return [path.replace("pseudobulk.h5ad", "metrics.tsv") for path in pseudobulks_of_split(wildcards)]


def scgpt_pseudobulks_of_split(wildcards):
    return first_pseudobulks(wildcards, methods_of(SCGPT))


def scgpt_pseudobulks_of_run():
    """The pseudo-bulks of every prediction of scGPT."""
    return [
        f"results/{dataset}/{split}/{method}/{seed}/pseudobulk.h5ad"
        for dataset in config["datasets"]
        for split in SPLITS
        for method, seed in predictions(methods_of(SCGPT))
    ]


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


def inputs_of_run():
    """The files that came from outside the workflow, or in their place the generated ones."""
    return [RUN.datasets[name].file for name in config["datasets"]] + [
        f"resources/checkpoints/{name}/{file}" for name in config["checkpoints"] for file in files_of_checkpoint(name)
    ]


def own_files_of_run():
    """The files and folders of the user's that the configuration names."""
    files = [config[table] for table in configuration.TABLES]
    datasets = [RUN.datasets[name] for name in config["datasets"]]
    files += [dataset.address for dataset in datasets if dataset.is_local]
    files += [dataset.guide_table for dataset in datasets if dataset.guide_table]
    files += [
        str(own_file(config["checkpoints"][name]["path"], file))
        for name in checkpoints_from("folder")
        for file in files_of_checkpoint(name)
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
    datasets = [RUN.datasets[name].file for name in config["datasets"] if RUN.datasets[name].address != GENERATED]
    return datasets + [
        f"resources/checkpoints/{name}/{file}"
        for name in checkpoints_from("catalogue")
        for file in files_of_checkpoint(name)
    ]
