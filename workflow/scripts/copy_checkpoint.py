"""Copy one file of a checkpoint of one's own to where the workflow keeps checkpoints."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.download import fetch

    fetch(snakemake.input[0], None, snakemake.output[0])
