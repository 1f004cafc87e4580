"""Pretrain scGPT on unperturbed cells."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from pathlib import Path

    import torch

    from scgpt_bench import nodes
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.scgpt import pretraining, training

    nodes.run_on_each_node(snakemake.config["hardware"]["nodes"], snakemake.threads)
    torch.set_num_threads(snakemake.threads)
    cells = pretraining.unperturbed(open_h5ad(snakemake.input[0]))
    options = dict(snakemake.params.options)
    seed = options.pop("seed")
    for key in ("source", "dataset"):
        options.pop(key)
    pretraining.pretrain(
        pretraining.MatrixSource(cells.X.tocsr()),
        list(cells.var_names),
        Path(snakemake.output[0]).parent,
        pretraining.Options(**options),
        seed,
        training.machine(snakemake.config["hardware"]),
        name=snakemake.input[0],
    )
