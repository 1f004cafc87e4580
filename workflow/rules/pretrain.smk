# Checkpoints that this workflow pretrains, on unperturbed cells of a data set or on CELLxGENE Census.


rule pretrain:
    input:
        cells_to_pretrain_on,
    output:
        multiext(
            "resources/checkpoints/{checkpoint}/",
            "best_model.pt",
            "args.json",
            "vocab.json",
            "report.json",
            "history.tsv",
        ),
    log:
        "logs/pretrain/{checkpoint}.log",
    benchmark:
        "results/benchmarks/pretrain/{checkpoint}.tsv"
    wildcard_constraints:
        checkpoint=names_pattern(checkpoints_from("pretrain")),
    priority: 10  # the longest jobs start first, so that others fill the cores beside them
    conda:
        SCGPT_ENVIRONMENT
    threads: config["hardware"]["threads"]
    resources:
        gpu=config["hardware"]["gpu"],
        nodes=1,
        tasks_per_gpu=0,  # one task for all GPUs
        mem_mb=memory(16000 * max(1, config["hardware"]["gpu"])),
        runtime=1440,  # also when it is tried again, since it resumes
    params:
        code=code("pretrain.py"),
        device=DEVICE,
        options=checkpoint_options,
    script:
        "../scripts/pretrain.py"


rule pretrain_census:
    output:
        multiext(
            "resources/checkpoints/{checkpoint}/",
            "best_model.pt",
            "args.json",
            "vocab.json",
            "report.json",
            "history.tsv",
        ),
    log:
        "logs/pretrain_census/{checkpoint}.log",
    benchmark:
        "results/benchmarks/pretrain_census/{checkpoint}.tsv"
    wildcard_constraints:
        checkpoint=names_pattern(checkpoints_from("census")),
    conda:
        CENSUS_ENVIRONMENT
    threads: config["hardware"]["threads"]
    resources:
        gpu=config["hardware"]["gpu"],
        nodes=1,
        tasks_per_gpu=0,  # one task for all GPUs
        mem_mb=memory(64000),
        runtime=10080,  # also when it is tried again, since it resumes
    params:
        code=code("pretrain_census.py"),
        device=DEVICE,
        options=checkpoint_options,
    script:
        "../scripts/pretrain_census.py"
