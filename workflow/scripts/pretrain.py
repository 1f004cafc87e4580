"""Pretrain scGPT on unperturbed cells."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from pathlib import Path

    import torch

    from scgpt_bench.data.conditions import controls_of
    from scgpt_bench.data.halves import INPUT
    from scgpt_bench.data.means import cells_of
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.scgpt import pretraining, training, vocabulary

    torch.set_num_threads(snakemake.threads)
    cells = open_h5ad(snakemake.input[0])
    cells = cells_of(cells, controls_of(cells.obs), INPUT)
    # Genes that scGPT's own vocabulary lacks are padded by every checkpoint, and by this one.
    cells = cells[:, cells.var_names.isin(vocabulary.human_vocabulary())]
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
