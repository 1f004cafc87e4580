# scGPT: fine-tuning as GPU jobs, and prediction, whole or in shards (gather.smk).

SHARD = ".{scatteritem}" if config["inference"]["shards"] > 1 else ""


rule finetune:
    input:
        cells="results/{dataset}/cells.h5ad",
        split="results/{dataset}/{split}/split.tsv",
        checkpoint=checkpoint_of_method,
        vocabulary=vocabulary_of_method,
    output:
        model="results/{dataset}/{split}/{method}/{seed}/model/model.pt",
        report="results/{dataset}/{split}/{method}/{seed}/model/report.json",
        history="results/{dataset}/{split}/{method}/{seed}/model/history.tsv",
    log:
        "logs/finetune/{dataset}.{split}.{method}.{seed}.log",
    benchmark:
        "results/benchmarks/finetune/{dataset}.{split}.{method}.{seed}.tsv"
    wildcard_constraints:
        method=names_pattern(methods_of(FINETUNED)),
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
        code=code("finetune.py"),
        device=DEVICE,
        options=training_options,
    script:
        "../scripts/finetune.py"


rule predict_scgpt:
    input:
        controls="results/{dataset}/{split}/controls.h5ad",
        checkpoint=checkpoint_of_method,
        vocabulary=vocabulary_of_method,
        model=model_of_method,
    output:
        (
            temp("results/{dataset}/{split}/{method}/{seed}/shards/{scatteritem}.h5ad")
            if SHARD
            else "results/{dataset}/{split}/{method}/{seed}/predictions.h5ad"
        ),
    log:
        f"logs/predict_scgpt/{{dataset}}.{{split}}.{{method}}.{{seed}}{SHARD}.log",
    benchmark:
        f"results/benchmarks/predict_scgpt/{{dataset}}.{{split}}.{{method}}.{{seed}}{SHARD}.tsv"
    wildcard_constraints:
        method=names_pattern(methods_of(SCGPT)),
    conda:
        SCGPT_ENVIRONMENT
    threads: config["hardware"]["threads"]
    resources:
        gpu=min(1, config["hardware"]["gpu"]),  # it uses one: `shards` use several
        nodes=1,
        tasks_per_gpu=0,  # one task for all GPUs
        mem_mb=memory(8000),
        runtime=minutes(240),
    params:
        code=code("predict_scgpt.py"),
        device=DEVICE,
        options=method_options,
        activated=targets_go_up,
        batch_size=config["inference"]["batch_size"],
        keep_cells=config["inference"]["keep_cells"],
    script:
        "../scripts/predict_scgpt.py"
