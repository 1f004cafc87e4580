"""Fetch one file: from a mirror folder, a local path or its public address, checked by SHA-256."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.download import fetch

    fetch(destination=snakemake.output[0], mirrors=snakemake.params.mirrors, **snakemake.params.file)
