"""Fine-tune scGPT on the training perturbations; a restarted job goes on where the last one was."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from pathlib import Path

    import torch

    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.files import read_table
    from scgpt_bench.scgpt import finetuning, recipe, training

    torch.set_num_threads(snakemake.threads)
    options = dict(snakemake.params.options)
    del options["kind"]
    finetuning.finetune(
        open_h5ad(snakemake.input.cells),
        read_table(snakemake.input.split),
        read_table(snakemake.input.vocabulary),
        Path(snakemake.input.checkpoint[0]).parent,
        recipe.Options(**options),
        int(snakemake.wildcards.seed),
        Path(snakemake.output.model).parent,
        training.machine(snakemake.config["hardware"]),
    )
