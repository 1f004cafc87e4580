# Predictions of scGPT in shards of whole perturbations, which a cluster runs side by side.
# Included if there are several.


scattergather:
    shard=config["inference"]["shards"],


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
        runtime=minutes(10),
    params:
        code=code("gather_predictions.py"),
        keep_cells=config["inference"]["keep_cells"],
    script:
        "../scripts/gather_predictions.py"
