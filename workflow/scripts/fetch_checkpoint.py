"""Fetch one file of a checkpoint: from a mirror folder, a local path or its public address, checked by SHA-256."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.catalogue import read_checkpoints
    from scgpt_bench.data.containers import FORMATS_OF_CHECKPOINT
    from scgpt_bench.data.download import fetch

    # Read here and not handed over: another address or mirror of the same content is no reason to fetch it again.
    checkpoint = read_checkpoints(snakemake.config["checkpoint_table"])[snakemake.wildcards.checkpoint]
    file = checkpoint.files[snakemake.wildcards.file]
    mirrors = snakemake.config["mirrors"]
    form = FORMATS_OF_CHECKPOINT[file.file]
    fetch(file.address, file.sha256, snakemake.output[0], mirrors=mirrors, size=file.bytes, form=form)
