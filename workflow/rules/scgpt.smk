# scGPT: fine-tuning as GPU jobs, and prediction in shards of whole perturbations that a cluster runs side by side.


scattergather:
    shard=config["inference"]["shards"],


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
        "../../envs/scgpt.yaml"
    threads: config["hardware"]["threads"]
    resources:
        gpu=config["hardware"]["gpu"],
        mem_mb=memory(16000),
        runtime=minutes(1440),
    params:
        code=code("finetune.py"),
        options=training_options,
        save_minutes=config["hardware"]["save_minutes"],
    script:
        "../scripts/finetune.py"


rule predict_scgpt:
    input:
        controls="results/{dataset}/{split}/controls.h5ad",
        checkpoint=checkpoint_of_method,
        vocabulary=vocabulary_of_method,
        model=model_of_method,
    output:
        temp("results/{dataset}/{split}/{method}/{seed}/shards/{scatteritem}.h5ad"),
    log:
        "logs/predict_scgpt/{dataset}.{split}.{method}.{seed}.{scatteritem}.log",
    benchmark:
        "results/benchmarks/predict_scgpt/{dataset}.{split}.{method}.{seed}.{scatteritem}.tsv"
    wildcard_constraints:
        method=names_pattern(methods_of(SCGPT)),
    conda:
        "../../envs/scgpt.yaml"
    threads: config["hardware"]["threads"]
    resources:
        gpu=config["hardware"]["gpu"],
        mem_mb=memory(8000),
        runtime=minutes(240),
    params:
        code=code("predict_scgpt.py"),
        options=method_options,
        batch_size=config["inference"]["batch_size"],
        keep_cells=config["inference"]["keep_cells"],
    script:
        "../scripts/predict_scgpt.py"


rule gather_predictions:
    input:
        shards=gather.shard("results/{{dataset}}/{{split}}/{{method}}/{{seed}}/shards/{scatteritem}.h5ad"),
        controls="results/{dataset}/{split}/controls.h5ad",
    output:
        "results/{dataset}/{split}/{method}/{seed}/predictions.h5ad",
    log:
        "logs/gather_predictions/{dataset}.{split}.{method}.{seed}.log",
    benchmark:
        "results/benchmarks/gather_predictions/{dataset}.{split}.{method}.{seed}.tsv"
    wildcard_constraints:
        method=names_pattern(methods_of(SCGPT)),
    conda:
        "../../envs/evaluation.yaml"
    threads: 1
    resources:
        mem_mb=memory(8000),
        runtime=minutes(30),
    params:
        code=code("gather_predictions.py"),
        keep_cells=config["inference"]["keep_cells"],
    script:
        "../scripts/gather_predictions.py"
