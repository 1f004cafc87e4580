# Functions that choose the inputs of rules about one data set or one prediction.


def drop_of_dataset(wildcards):
    """The file of a data set and, where guide calls come in one of their own, that."""
    dataset = RUN.datasets[wildcards.dataset]
    return [dataset.file, *([dataset.guide_table] if dataset.guide_table else [])]


def own_checkpoint_file(wildcards):
    """The same file in the folder of a checkpoint of one's own."""
    return str(own_file(config["checkpoints"][wildcards.checkpoint]["path"], wildcards.file))


def files_of_checkpoint(name):
    """The names of a checkpoint's files; its genes' identifiers are one where it comes with them."""
    options = config["checkpoints"][name]
    if options["source"] == "catalogue":
        return [*RUN.checkpoints[name].files]
    if options["source"] == "folder" and Path(options["path"], GENE_INFO).is_file():
        return [*CHECKPOINT_FILES, GENE_INFO]
    return [*CHECKPOINT_FILES]


def gene_info_of_checkpoint(wildcards):
    """The Ensembl identifiers of a checkpoint's genes; nothing for one without."""
    name = wildcards.checkpoint
    return f"resources/checkpoints/{name}/{GENE_INFO}" if GENE_INFO in files_of_checkpoint(name) else []


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
