"""Fetch one drop: from a mirror folder, a local path or its public address, checked by checksum."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.catalogue import read_datasets
    from scgpt_bench.data.download import fetch

    # Read here and not handed over: another address or mirror of the same content is no reason to fetch it again.
    dataset = read_datasets(snakemake.config["dataset_table"])[snakemake.wildcards.dataset]
    checks = {"sha256": dataset.sha256, "md5": dataset.md5, "size": dataset.bytes, "form": dataset.format}
    fetch(dataset.address, destination=snakemake.output[0], mirrors=snakemake.config["mirrors"], **checks)
