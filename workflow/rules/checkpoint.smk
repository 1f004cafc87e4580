# scGPT checkpoints, and the genes of each data set in their vocabulary.


rule fetch_checkpoint:
    output:
        "resources/checkpoints/{checkpoint}/{file}",
    log:
        "logs/fetch_checkpoint/{checkpoint}.{file}.log",
    benchmark:
        "results/benchmarks/fetch_checkpoint/{checkpoint}.{file}.tsv"
    wildcard_constraints:
        checkpoint=names_pattern(checkpoints_from("catalogue")),
    retries: 0  # the download tries again by itself, where that can help
    localrule: True
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(60),
    params:
        code=code("fetch_checkpoint.py"),
        content=content_of_checkpoint_file,
    script:
        "../scripts/fetch_checkpoint.py"


rule copy_checkpoint:
    input:
        own_checkpoint_file,
    output:
        "resources/checkpoints/{checkpoint}/{file}",
    log:
        "logs/copy_checkpoint/{checkpoint}.{file}.log",
    benchmark:
        "results/benchmarks/copy_checkpoint/{checkpoint}.{file}.tsv"
    wildcard_constraints:
        checkpoint=names_pattern(checkpoints_from("folder")),
    localrule: True
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(60),
    params:
        code=code("copy_checkpoint.py"),
        content=content_of_own_checkpoint_file,
    script:
        "../scripts/copy_checkpoint.py"


rule initialize_checkpoint:
    output:
        multiext("resources/checkpoints/{checkpoint}/", "best_model.pt", "args.json", "vocab.json"),
    log:
        "logs/initialize_checkpoint/{checkpoint}.log",
    benchmark:
        "results/benchmarks/initialize_checkpoint/{checkpoint}.tsv"
    wildcard_constraints:
        checkpoint=names_pattern(checkpoints_from("random")),
    conda:
        "../../envs/scgpt_cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=minutes(10),
    params:
        code=code("initialize_checkpoint.py"),
        options=checkpoint_options,
    script:
        "../scripts/initialize_checkpoint.py"


rule align_vocabulary:
    input:
        cells="results/{dataset}/cells.h5ad",
        vocabulary="resources/checkpoints/{checkpoint}/vocab.json",
        gene_info=gene_info_of_checkpoint,
    output:
        "results/{dataset}/vocabulary/{checkpoint}.tsv",
    log:
        "logs/align_vocabulary/{dataset}.{checkpoint}.log",
    benchmark:
        "results/benchmarks/align_vocabulary/{dataset}.{checkpoint}.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        code=code("align_vocabulary.py"),
    script:
        "../scripts/align_vocabulary.py"


rule gene_embeddings:
    input:
        cells="results/{dataset}/cells.h5ad",
        checkpoint=multiext("resources/checkpoints/{checkpoint}/", "best_model.pt", "args.json", "vocab.json"),
        vocabulary="results/{dataset}/vocabulary/{checkpoint}.tsv",
    output:
        "results/{dataset}/vocabulary/{checkpoint}.embeddings.h5ad",
    log:
        "logs/gene_embeddings/{dataset}.{checkpoint}.log",
    benchmark:
        "results/benchmarks/gene_embeddings/{dataset}.{checkpoint}.tsv"
    conda:
        "../../envs/scgpt_cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=minutes(10),
    params:
        code=code("gene_embeddings.py"),
    script:
        "../scripts/gene_embeddings.py"
