# What comes in: data drops, downloaded or generated with a known truth, and checkpoints, downloaded or copied.
from scgpt_bench.data.catalogue import UNVERIFIED, is_remote
from scgpt_bench.data.download import recorded_sha256
from scgpt_bench.data.tenx_files import read_of_folder
from scgpt_bench.scgpt.checkpoint_folder import own_file


def content_of_dataset(wildcards):
    """The checksum of a drop. Another address, or a SHA-256 written down later, is no other content."""
    dataset = RUN.datasets[wildcards.dataset]
    if is_remote(dataset.address):
        recorded = recorded_sha256(dataset.file, dataset.md5)
        return (dataset.md5 or UNVERIFIED) if dataset.sha256 in (None, recorded) else dataset.sha256
    only = read_of_folder if dataset.format == "10x_mtx" and Path(dataset.address).is_dir() else None
    return dataset.sha256 or content_of_file(dataset.address, only)


rule fetch_dataset:
    output:
        "resources/datasets/{dataset}/source.{suffix}",
    log:
        "<logs>/fetch_dataset/{dataset}.{suffix}.log",
    benchmark:
        "<benchmarks>/fetch_dataset/{dataset}.{suffix}.tsv"
    retries: 0  # the download tries again by itself, where that can help
    localrule: True
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=doubling(1000),
        runtime=doubling(240),
    params:
        code=code_without_plumbing("fetch_dataset.py"),
        content=content_of_dataset,
    script:
        "../scripts/fetch_dataset.py"


def generator_options(wildcards):
    dataset = RUN.datasets[wildcards.dataset]
    return {**config["generated"][dataset.name], "target_sum": dataset.target_sum}


rule generate_dataset:
    output:
        cells="<results>/generated/{dataset}/cells.h5ad",
        atlas="<results>/generated/{dataset}/atlas.h5ad",
        truth="<results>/generated/{dataset}/truth.h5ad",
    log:
        "<logs>/generate_dataset/{dataset}.log",
    benchmark:
        "<benchmarks>/generate_dataset/{dataset}.tsv"
    conda:
        "../../envs/scgpt_cpu.yaml"
    resources:
        mem_mb=doubling(2000),
        runtime=doubling(30),
    params:
        code=code_without_plumbing("generate_dataset.py"),
        options=generator_options,
    script:
        "../scripts/generate_dataset.py"


def content_of_checkpoint_file(wildcards):
    """The checksum of a file. Another address or mirror is no other content."""
    return RUN.checkpoints[wildcards.checkpoint].files[wildcards.file].sha256


rule fetch_checkpoint:
    output:
        "resources/checkpoints/{checkpoint}/{file}",
    log:
        "<logs>/fetch_checkpoint/{checkpoint}.{file}.log",
    benchmark:
        "<benchmarks>/fetch_checkpoint/{checkpoint}.{file}.tsv"
    wildcard_constraints:
        checkpoint=names_pattern(checkpoints_from("catalogue")),
    retries: 0  # the download tries again by itself, where that can help
    localrule: True
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=doubling(1000),
        runtime=doubling(60),
    params:
        code=code_without_plumbing("fetch_checkpoint.py"),
        content=content_of_checkpoint_file,
    script:
        "../scripts/fetch_checkpoint.py"


def own_checkpoint_file(wildcards):
    """The same file in the folder of a checkpoint of one's own."""
    return str(own_file(config["checkpoints"][wildcards.checkpoint]["path"], wildcards.file))


rule copy_checkpoint:
    input:
        own_checkpoint_file,
    output:
        "<results>/checkpoints/{checkpoint}/{file}",
    log:
        "<logs>/copy_checkpoint/{checkpoint}.{file}.log",
    benchmark:
        "<benchmarks>/copy_checkpoint/{checkpoint}.{file}.tsv"
    wildcard_constraints:
        checkpoint=names_pattern(checkpoints_from("folder")),
    localrule: True
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=doubling(1000),
        runtime=doubling(60),
    params:
        code=code_without_plumbing("copy_checkpoint.py"),
        content=lambda wildcards: content_of_file(own_checkpoint_file(wildcards)),
    script:
        "../scripts/copy_checkpoint.py"


def downloads_of_run():
    """The files that the workflow downloads."""
    datasets = [RUN.datasets[name].file for name in config["datasets"] if RUN.datasets[name].address != GENERATED]
    checkpoints = map(files_of_checkpoint, checkpoints_from("catalogue"))
    return datasets + [path for files in checkpoints for path in files.values()]


# Everything that comes over the network, for a login node; afterwards no other job needs one.
rule prefetch:
    input:
        downloads_of_run(),
    localrule: True
