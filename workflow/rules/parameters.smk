# Parameters: what a job depends on beside its inputs, and no more than that.
from scgpt_bench.files import remembered_sha256


def code(script):
    """Hashes of a script and the library modules it uses: an edit reruns the jobs that use it, and no others."""
    return sources.content_hashes(WORKFLOW / "scripts" / script)


def content_of_checkpoint_file(wildcards):
    """The checksum of a file. Another address or mirror is no other content."""
    return RUN.checkpoints[wildcards.checkpoint].files[wildcards.file].sha256


def checkpoint_options(wildcards):
    return config["checkpoints"][wildcards.checkpoint]


def split_options(wildcards):
    """What one split depends on beside the cells and its file. Running another fold changes no other."""
    if wildcards.split in config["splits"]["files"]:
        keys = ()
    elif wildcards.split.startswith("gears"):
        keys = ("minimum_cells",)
    else:
        keys = ("folds", "seed", "validation_share", "minimum_cells")
    return {key: config["splits"][key] for key in keys}


def missing_rules(wildcards):
    """What happens to perturbations and genes that a foreign prediction lacks."""
    options = config["methods"][wildcards.method]
    return {key: options[key] for key in ("missing_perturbations", "missing_genes")}


def labels_of_file(wildcards):
    """How a foreign prediction names things, in the words of the data-set table."""
    options = config["methods"][wildcards.method]
    keys = ("perturbation_column", "control_label", "combination_separator", "gene_symbol_column")
    return {"guide_prefix": None, "guide_suffix": None, **{key: options[key] for key in keys}}


def made_by(wildcards):
    """What is known of a foreign prediction beside its file."""
    options = config["methods"][wildcards.method]
    return {key: options[key] for key in ("kind", "options") if key in options}


def method_options(wildcards):
    """Kind and options of a method: what its predictions depend on, beside the seed."""
    options = config["methods"][wildcards.method]
    return {key: value for key, value in options.items() if key != "seeds"}


def training_options(wildcards):
    """The same, without what concerns only the prediction that follows."""
    return {key: value for key, value in method_options(wildcards).items() if key not in ("checkpoint", "genes_fed")}


# Contents of files that are the users' own. Snakemake notices a file that is newer than the results made from it; one
# that takes the place of another with its old time (`mv`, `rsync -t`) only differs by content.


def content_of_file(path, files_of=None):
    """The checksum of a file or folder, read again only where its size or time has changed; None for no file.

    Of a folder, of those files that `files_of` names, if it is given.
    """
    return remembered_sha256(path, "resources/checksums.json", files_of) if path else None


def content_of_guide_table(wildcards):
    return content_of_file(RUN.datasets[wildcards.dataset].guide_table)


def content_of_own_checkpoint_file(wildcards):
    return content_of_file(own_checkpoint_file(wildcards))


def content_of_split_file(wildcards):
    return content_of_file(split_file(wildcards))


def content_of_script(wildcards):
    return content_of_file(script_of_method(wildcards))


def content_of_file_to_import(wildcards):
    """Nothing for predictions by the method's own script, which the workflow makes and removes."""
    made_here = config["methods"][wildcards.method]["kind"] == "script"
    return None if made_here else content_of_file(file_to_import(wildcards))


def content_of_anchors(wildcards):
    return content_of_file(config["anchor_table"])


def content_of_genes(wildcards):
    return content_of_file(genes_of_submission(wildcards))


def contents_of_own_files(wildcards):
    return list(map(content_of_file, own_files_of_run()))
