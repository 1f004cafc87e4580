# The configuration, validated, and what chooses environments and resources.
import functools
import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError


def folder_of_workflow():
    """This workflow's folder `workflow/`; of `github(...)`, Snakemake's copy, with all the files that jobs read.

    Where this is a module, `workflow.basedir` is the folder of the workflow that uses it.
    """
    here = workflow.current_basedir
    if here.is_local:
        return Path(str(here)).parent
    if here.branch:  # which may move during a run, and is asked for at every file
        raise WorkflowError(f"module: github: found branch={here.branch!r}; expected tag=... or commit=...")
    for name in here.hosted_repo.repo.git.ls_tree("-r", "--name-only", here.ref, "workflow", "config").splitlines():
        workflow.source_path(f"../../{name}")
    return Path(workflow.source_path("common.smk")).parents[1]


WORKFLOW = folder_of_workflow()
LIBRARY = WORKFLOW / "lib"
RESOURCES = WORKFLOW / "resources.tsv"


def search_path(environment):
    """PYTHONPATH with the library first, then what the user has there."""
    given = environment.get("PYTHONPATH", "").split(os.pathsep)
    others = [folder for folder in given if folder not in ("", str(LIBRARY))]
    return os.pathsep.join([str(LIBRARY), *others])


# Scripts run in an interpreter of their own, on a cluster on another machine: the variable reaches them.
os.environ.update(PYTHONPATH=search_path(os.environ))
sys.path.insert(0, str(LIBRARY))

from scgpt_bench import cluster, configuration, folders, resources, sizes, sources
from scgpt_bench.data.catalogue import CHECKPOINT_FILES, GENE_INFO, GENERATED
from scgpt_bench.data.download import stored_file
from scgpt_bench.data.names import ALL_SPLITS
from scgpt_bench.data.tenx_files import read_of_folder
from scgpt_bench.errors import InputError
from scgpt_bench.files import remembered_sha256
from scgpt_bench.methods import registry


def validated(config):
    """The run that the configuration describes; a fault in it, or a folder that no job can run in, ends here."""
    source = ", ".join(map(str, workflow.configfiles)) or "--config"
    try:
        folders.refuse_unusable(WORKFLOW, "the workflow's folder")
        folders.refuse_unusable(workflow.basedir, "the folder of the Snakefile")
        folders.refuse_unusable(Path.cwd(), "the run's folder")
        folders.refuse_unusable(sys.executable, "the Python of Snakemake")
        for path in workflow.configfiles:
            configuration.refuse_repeated_keys(path)
        return configuration.validate(config, source)
    except InputError as error:
        raise WorkflowError(str(error))


if provider := workflow.storage_settings.default_storage_provider:
    raise WorkflowError(
        f"--default-storage-provider: found {provider}; expected none: trainings save their state beside their results, "
        "and costs are read where the jobs wrote them (docs/scaling.md)"
    )
if any(workflow.modifier.modify_path(path) != path for path in ("results/x", "resources/x")):
    raise WorkflowError(
        "module: prefix or replace_prefix: found one; expected neither: scripts and the report know where results are, "
        "so give each study a folder of its own (snakemake --directory)"
    )

RUN = validated(config)
# Not changed in place: in a module it is the caller's. Scripts read the tables where they are found.
config = {**RUN.config, **RUN.tables}


# A study's results are its own; what is downloaded, in resources/, is shared.
pathvars:
    results=f"results/{config['study']}",
    logs="<results>/logs",
    benchmarks="<results>/benchmarks",


SPLITS = [*RUN.splits]
POOLED = RUN.pooled  # name -> the splits that are pooled under it
# Points of learning curves: name -> (split, perturbations to learn from). They have scores, but no verdicts.
SUBSETS = {
    f"{split}-train{size}": (split, size)
    for split in SPLITS
    for size in config["splits"]["training_sizes"]
    if size != "full"
}
# Predictions of what nobody measured are splits whose tested conditions have no cells: name -> entry of `predict`.
PREDICTED = {f"predicted-{name}": name for name in config["predict"]}
JUDGING = ["effect_pearson", "specific_pearson", "discrimination", "mse_unbiased"]  # give verdicts; headline first
METRICS = [*JUDGING, "pearson_delta", "mse", "pearson"]  # that have figures of their own

KINDS = {method: options["kind"] for method, options in config["methods"].items()}


def names_pattern(names):
    """A wildcard pattern that matches these names and nothing else."""
    return "|".join(map(re.escape, sorted(names))) or "(?!)"


def methods_run_by(rule):
    """The configured methods that a rule trains or predicts, as the registry of methods says."""
    return [method for method, kind in KINDS.items() if rule in registry.KINDS[kind].rules]


def checkpoints_from(source):
    """The configured checkpoints whose weights come from this source."""
    return [name for name, options in config["checkpoints"].items() if options["source"] == source]


def vectors_from(source):
    """The configured gene vectors that come from this source."""
    return [name for name, options in config["vectors"].items() if options["source"] == source]


wildcard_constraints:
    dataset=names_pattern(config["datasets"]),
    checkpoint=names_pattern(config["checkpoints"]),
    split=names_pattern([*SPLITS, *SUBSETS, *PREDICTED]),
    prediction=names_pattern(config["predict"]),
    method=names_pattern(config["methods"]),
    vectors=names_pattern(config["vectors"]),
    metric=names_pattern(METRICS),
    seed=r"\d+",
    submission=names_pattern(config["submissions"]),
    scatteritem=rf"\d+-of-{config['inference']['shards']}",
    suffix="vcc|h5ad|h5mu|h5|rda|zip",
    checksum="[0-9a-f]+|unverified|unknown",


# Resources and parameters: what a job depends on beside its inputs, and no more than that


def needs_of(rule):
    """What the jobs of a rule need: its rows of the table."""
    try:
        return resources.of_rule(resources.read(RESOURCES), rule, RESOURCES)
    except InputError as error:
        raise WorkflowError(str(error))


SIZES = sizes.Sizes(RUN, SUBSETS, PREDICTED)


def memory_of(rule, gpus=0):
    """Megabytes that a job of a rule asks for, by the size of its data; they double with each attempt."""
    need = needs_of(rule)
    return lambda wildcards, attempt: need.memory_mb(SIZES, wildcards, gpus) * 2 ** (attempt - 1)


def minutes_of(rule, gpus=0, resumes_within=None):
    """Minutes that a job of a rule asks for, by the size of its data; they double with each attempt.

    A training that resumes asks for the same again, and for no more than `resumes_within`.
    """
    need = needs_of(rule)
    if resumes_within:
        return lambda wildcards, threads: min(resumes_within, need.runtime(SIZES, wildcards, threads, gpus))
    return lambda wildcards, threads, attempt: need.runtime(SIZES, wildcards, threads, gpus) * 2 ** (attempt - 1)


def code(script):
    """Hashes of a script and the library modules it uses: an edit reruns the jobs that use it, and no others.

    Asked for by job, and computed once: Snakemake reads the workflow again for every job of a cluster, which needs the
    hashes of one script.
    """
    hashes = functools.cache(lambda: sources.content_hashes(WORKFLOW / "scripts" / script))
    return lambda wildcards: hashes()


def code_without_plumbing(script):
    """The same up to the predictions: no training or prediction runs again for plumbing (`sources.PLUMBING`)."""
    hashes = functools.cache(lambda: sources.content_hashes(WORKFLOW / "scripts" / script, plumbing=False))
    return lambda wildcards: hashes()


def content_of_file(path, files_of=None):
    """The checksum of a user's own file or folder; None for no file. Of a folder, of those files that `files_of` names.

    Snakemake notices a file that is newer than the results made from it; one that takes the place of another with its
    old time (`mv`, `rsync -t`) only differs by content. It is read again only where its size or time has changed.
    """
    return remembered_sha256(path, "resources/checksums", files_of) if path else None


def perturbation_kind_of_dataset(wildcards):
    return RUN.datasets[wildcards.dataset].perturbation_kind


# Files that several rules read


def predictions(methods):
    """(method, seed) of every prediction of these methods."""
    return [(method, seed) for method in methods for seed in config["methods"][method]["seeds"]]


def files_of(name, datasets, methods, splits=SPLITS):
    """This file of every split and seed of these methods on these data sets."""
    return [
        f"<results>/{dataset}/{split}/{method}/{seed}/{name}"
        for dataset in datasets
        for split in splits
        for method, seed in predictions(methods)
    ]


def metrics_of(datasets):
    """The metrics of every split, method and seed on these data sets."""
    return files_of("metrics.tsv", datasets, config["methods"])


def metrics_of_run():
    """The metrics of every data set, split, method and seed."""
    return metrics_of(config["datasets"])


def drop_file(name):
    """The cells of a data set as they come in: downloaded, copied or generated."""
    dataset = RUN.datasets[name]
    if dataset.address == GENERATED:
        return f"<results>/generated/{name}/cells.h5ad"
    content = None
    if dataset.is_local and not dataset.sha256:
        of_folder = dataset.format == "10x_mtx" and Path(dataset.address).is_dir()
        content = content_of_file(dataset.address, read_of_folder if of_folder else None)
    return stored_file(dataset, content)


def files_of_checkpoint(name):
    """A checkpoint's files by their names; its genes' identifiers are one where it comes with them."""
    options = config["checkpoints"][name]
    names = [*CHECKPOINT_FILES]
    if options["source"] == "catalogue":
        names = RUN.checkpoints[name].files
    elif options["source"] == "folder" and Path(options["path"], GENE_INFO).is_file():
        names.append(GENE_INFO)
    return {file: configuration.file_of_checkpoint(RUN, name, file, "<results>") for file in names}


def checkpoint_to_read(name):
    """The three files without which no checkpoint can be read."""
    files = files_of_checkpoint(name)
    return [files[file] for file in CHECKPOINT_FILES]


def file_of_vectors(name, dataset=None):
    """What gene vectors are made from: the user's file, a download or, for a data set, the cells of another one."""
    options = config["vectors"][name]
    if options["source"] == "catalogue":
        return stored_file(RUN.vectors[name])
    return options["path"] if options["source"] == "file" else f"<results>/{options['datasets'][dataset]}/cells.h5ad"


# Entries of the report


def entries(pattern, names, label, labels, caption, **options):
    """One entry of the report per name: files of one job that differ in a label."""
    options["caption"] = f"../report/{caption}"
    return [report(pattern.replace("NAME", name), labels={**labels, label: name}, **options) for name in names]


def data_entry(path, heading, caption):
    """Text, figure or table about the data themselves."""
    options = {"category": "Data", "subcategory": "{dataset}", "caption": f"../report/{caption}"}
    return report(f"<results>/{{dataset}}/{path}", labels={"figure": heading}, **options)
