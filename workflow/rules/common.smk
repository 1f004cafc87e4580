# The configuration, validated, and the functions that choose parameters and resources.
import os
import re
import sys
import time
from pathlib import Path

from snakemake.exceptions import WorkflowError

LIBRARY = Path(workflow.basedir) / "lib"
# Scripts run in an interpreter of their own, on a cluster on another machine: the variable reaches them.
os.environ.update(PYTHONPATH=str(LIBRARY))
sys.path.insert(0, str(LIBRARY))

from scgpt_bench import configuration, sources
from scgpt_bench.data.catalogue import GENERATED
from scgpt_bench.errors import InputError


def validated(config):
    """The run that the configuration describes; a fault in it ends here with one line."""
    source = ", ".join(map(str, workflow.configfiles)) or "--config"
    try:
        return configuration.validate(config, source)
    except InputError as error:
        raise WorkflowError(str(error))


RUN = validated(config)
config.update(RUN.config)

# `check_data` may name a data set that is not run.
DATASETS = [config["dataset"]] if config["dataset"] else config["datasets"]
SPLITS = [
    *(f"fold{fold}" for fold in config["splits"]["run"]),
    *(f"gears{seed}" for seed in config["splits"]["gears_seeds"]),
    *config["splits"]["files"],
]
METRICS = ["pearson_delta", "mse", "mae", "pearson"]  # that have figures of their own

# Kinds of methods, by the rule that runs them.
BASELINES = {"control-mean", "train-mean", "additive", "ridge", "knn", "target-only"}
EMBEDDING = {"scgpt-embedding-ridge"}
BENCHMARK_CONTROLS = {"shuffled", "technical-duplicate", "oracle"}
FLAGGED = {"scgpt-zero-shot"}
PROMPTED = {"scgpt-knockout", "scgpt-generate"}
FINETUNED = {"scgpt-finetuned", "scgpt-scratch"}
SCGPT = FLAGGED | PROMPTED | FINETUNED
FOREIGN = {"imported", "script"}  # made by other programs
JUDGED = SCGPT | EMBEDDING | FOREIGN


def names_pattern(names):
    """A wildcard pattern that matches these names and nothing else."""
    return "|".join(map(re.escape, sorted(names))) or "(?!)"


def methods_of(kinds):
    """The configured methods of these kinds."""
    return [name for name, options in config["methods"].items() if options["kind"] in kinds]


def checkpoints_from(source):
    """The configured checkpoints whose weights come from this source."""
    return [name for name, options in config["checkpoints"].items() if options["source"] == source]


wildcard_constraints:
    dataset=names_pattern({*config["datasets"], *DATASETS}),
    checkpoint=names_pattern(config["checkpoints"]),
    split=names_pattern(SPLITS),
    method=names_pattern(config["methods"]),
    metric=names_pattern(METRICS),
    seed=r"\d+",
    submission=names_pattern(config["submissions"]),
    suffix="vcc|h5ad|h5mu|h5|rda|zip",


# Parameters


def code(script):
    """Hashes of a script and the library modules it uses: an edit reruns the jobs that use it, and no others."""
    return sources.content_hashes(Path(workflow.basedir) / "scripts" / script)


def content_of_checkpoint_file(wildcards):
    """The checksum of a file. Another address or mirror is no other content."""
    return RUN.checkpoints[wildcards.checkpoint].files[wildcards.file].sha256


def checkpoint_options(wildcards):
    return config["checkpoints"][wildcards.checkpoint]


def split_options(wildcards):
    """What one split depends on beside the cells and its file: another fold that is run leaves the others as they are."""
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
    return {"guide_suffix": None, **{key: options[key] for key in keys}}


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


# Environments


# FlashAttention brings PyTorch's CUDA build, which conda installs only where it finds an NVIDIA driver: jobs without a
# GPU do without. Another `hardware.gpu` may be another environment, and then reruns these jobs: another device computes
# other numbers.
SCGPT_ENVIRONMENT = "../../envs/scgpt.yaml" if config["hardware"]["gpu"] else "../../envs/scgpt_cpu.yaml"
CENSUS_ENVIRONMENT = "../../envs/census.yaml" if config["hardware"]["gpu"] else "../../envs/census_cpu.yaml"


# Resources


def memory(megabytes):
    """Memory in MB that doubles with each attempt."""

    def with_attempt(wildcards, attempt):
        return megabytes * 2 ** (attempt - 1)

    return with_attempt


def minutes(number):
    """Run time in minutes that doubles with each attempt."""

    def with_attempt(wildcards, attempt):
        return number * 2 ** (attempt - 1)

    return with_attempt
