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
    folder, machine = Path(snakemake.output[0]).parent, training.machine(snakemake.config["hardware"])
    fabric = machine.fabric()
    read = training.shared_rows(fabric, folder / "cells")
    source, genes = pretraining.unperturbed(open_h5ad(snakemake.input[0]), read)
    options = dict(snakemake.params.options)
    seed = options.pop("seed")
    for key in ("source", "dataset"):
        options.pop(key)
    pretraining.pretrain(
        source, genes, folder, pretraining.PretrainingOptions(**options), seed, machine, snakemake.input[0], fabric
    )
