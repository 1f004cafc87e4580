# What comes in: data sets, downloaded or generated with a known truth, checkpoints, and gene vectors.
from scgpt_bench.scgpt.checkpoint_folder import own_file


rule fetch_dataset:
    output:
        "resources/datasets/{dataset}/{checksum}/source.{suffix}",
    log:
        "<logs>/fetch_dataset/{dataset}.{checksum}.{suffix}.log",
    benchmark:
        "<benchmarks>/fetch_dataset/{dataset}.{checksum}.{suffix}.tsv"
    wildcard_constraints:
        dataset=names_pattern(RUN.drops),
    retries: 0  # the download tries again by itself, where that can help
    localrule: True
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=memory_of("fetch_dataset"),
        runtime=minutes_of("fetch_dataset"),
    params:
        code=code_without_plumbing("fetch_dataset.py"),
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
    wildcard_constraints:
        dataset=names_pattern(RUN.drops),
    conda:
        "../../envs/scgpt_cpu.yaml"
    resources:
        mem_mb=memory_of("generate_dataset"),
        runtime=minutes_of("generate_dataset"),
    params:
        code=code_without_plumbing("generate_dataset.py"),
        options=generator_options,
    script:
        "../scripts/generate_dataset.py"


rule fetch_checkpoint:
    output:
        "resources/checkpoints/{checksum}/{checkpoint}/{file}",
    log:
        "<logs>/fetch_checkpoint/{checkpoint}.{checksum}.{file}.log",
    benchmark:
        "<benchmarks>/fetch_checkpoint/{checkpoint}.{checksum}.{file}.tsv"
    wildcard_constraints:
        checkpoint=names_pattern(checkpoints_from("catalogue")),
    retries: 0  # the download tries again by itself, where that can help
    localrule: True
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=memory_of("fetch_checkpoint"),
        runtime=minutes_of("fetch_checkpoint"),
    params:
        code=code_without_plumbing("fetch_checkpoint.py"),
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
        mem_mb=memory_of("copy_checkpoint"),
        runtime=minutes_of("copy_checkpoint"),
    params:
        code=code_without_plumbing("copy_checkpoint.py"),
        content=lambda wildcards: content_of_file(own_checkpoint_file(wildcards)),
    script:
        "../scripts/copy_checkpoint.py"


rule fetch_vectors:
    output:
        "resources/vectors/{vectors}/{checksum}/{file}",
    log:
        "<logs>/fetch_vectors/{vectors}.{checksum}.{file}.log",
    benchmark:
        "<benchmarks>/fetch_vectors/{vectors}.{checksum}.{file}.tsv"
    retries: 0  # the download tries again by itself, where that can help
    localrule: True
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=memory_of("fetch_vectors"),
        runtime=minutes_of("fetch_vectors"),
    params:
        code=code_without_plumbing("fetch_vectors.py"),
    script:
        "../scripts/fetch_vectors.py"


def downloads_of_run():
    """The files that the workflow downloads."""
    datasets = [drop_file(name) for name in RUN.drops if RUN.datasets[name].address != GENERATED]
    checkpoints = map(files_of_checkpoint, checkpoints_from("catalogue"))
    vectors = map(file_of_vectors, vectors_from("catalogue"))
    return [*datasets, *(path for files in checkpoints for path in files.values()), *vectors]


# Everything that comes over the network, for a login node; afterwards no other job needs one.
rule prefetch:
    input:
        downloads_of_run(),
    localrule: True
