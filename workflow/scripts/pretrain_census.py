"""Pretrain scGPT on cells of CELLxGENE Census."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from pathlib import Path

    import torch

    from scgpt_bench import nodes
    from scgpt_bench.scgpt import census, pretraining, training, vocabulary

    nodes.run_on_each_node(snakemake.config["hardware"]["nodes"], snakemake.threads)
    torch.set_num_threads(snakemake.threads)
    options = dict(snakemake.params.options)
    seed = options.pop("seed")
    options.pop("source")
    selection = {name: options.pop(name) for name in census.CensusCells.model_fields}
    symbols = [gene for gene in vocabulary.human_vocabulary() if gene not in vocabulary.SPECIAL_TOKENS]
    source = census.open_source(census.CensusCells(**selection), symbols)
    pretraining.pretrain(
        source,
        source.genes,
        Path(snakemake.output[0]).parent,
        pretraining.PretrainingOptions(**options),
        seed,
        training.machine(snakemake.config["hardware"]),
        name=source.name,
    )
