# The configuration, validated, and what chooses environments and resources.
import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

# Of this workflow: where it is a module, `workflow.basedir` is the folder of the workflow that uses it.
WORKFLOW = Path(str(workflow.current_basedir)).parent
LIBRARY = WORKFLOW / "lib"


def search_path(environment):
    """PYTHONPATH with the library first, then what the user has there."""
    given = environment.get("PYTHONPATH", "").split(os.pathsep)
    others = [folder for folder in given if folder not in ("", str(LIBRARY))]
    return os.pathsep.join([str(LIBRARY), *others])


# Scripts run in an interpreter of their own, on a cluster on another machine: the variable reaches them.
os.environ.update(PYTHONPATH=search_path(os.environ))
sys.path.insert(0, str(LIBRARY))

from scgpt_bench import configuration, folders, sources
from scgpt_bench.data.catalogue import CHECKPOINT_FILES, GENE_INFO, GENERATED
from scgpt_bench.errors import InputError
from scgpt_bench.scgpt.checkpoint_folder import own_file


def validated(config):
    """The run that the configuration describes; a fault in it, or a folder that no job can run in, ends here."""
    source = ", ".join(map(str, workflow.configfiles)) or "--config"
    try:
        folders.refuse_unusable(WORKFLOW, "the workflow's folder")
        folders.refuse_unusable(workflow.basedir, "the folder of the Snakefile")
        folders.refuse_unusable(Path.cwd(), "the run's folder")
        folders.refuse_unusable(sys.executable, "the Python of Snakemake")
        return configuration.validate(config, source)
    except InputError as error:
        raise WorkflowError(str(error))


if any(workflow.modifier.modify_path(path) != path for path in ("results/x", "resources/x", "logs/x")):
    raise WorkflowError(
        "module: prefix or replace_prefix: found one; expected neither: scripts and the report know where results are, "
        "so give each study a folder of its own (snakemake --directory)"
    )

RUN = validated(config)
# Not changed in place: in a module it is the caller's. Scripts read the tables where they are found.
config = {**RUN.config, **RUN.tables}

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
    dataset=names_pattern(config["datasets"]),
    checkpoint=names_pattern(config["checkpoints"]),
    split=names_pattern(SPLITS),
    method=names_pattern(config["methods"]),
    metric=names_pattern(METRICS),
    seed=r"\d+",
    submission=names_pattern(config["submissions"]),
    scatteritem=rf"\d+-of-{config['inference']['shards']}",
    suffix="vcc|h5ad|h5mu|h5|rda|zip",


# Environments


# FlashAttention brings PyTorch's CUDA build, which conda installs only where it finds an NVIDIA driver: jobs without a
# GPU do without.
SCGPT_ENVIRONMENT = "../../envs/scgpt.yaml" if config["hardware"]["gpu"] else "../../envs/scgpt_cpu.yaml"
CENSUS_ENVIRONMENT = "../../envs/census.yaml" if config["hardware"]["gpu"] else "../../envs/census_cpu.yaml"

# A parameter of these jobs: another device computes other numbers. A word, since Snakemake compares the values of a
# job's parameters without their names, and True may be another one's.
DEVICE = "gpu" if config["hardware"]["gpu"] else "cpu"


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
