"""Fetch a public file of gene vectors: from a mirror folder or its address, checked by checksum."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from pathlib import Path

    from scgpt_bench.data.catalogue import read_vector_files
    from scgpt_bench.data.containers import FORMATS_OF_VECTORS
    from scgpt_bench.data.download import fetch

    # Read here and not handed over: another address or mirror of the same content is no reason to fetch it again.
    vectors = read_vector_files(snakemake.config["vector_table"])[snakemake.wildcards.vectors]
    checks = {"sha256": vectors.sha256, "md5": vectors.md5, "size": vectors.bytes}
    form = FORMATS_OF_VECTORS.get(Path(snakemake.output[0]).suffix)  # any, if it is compressed
    fetch(vectors.address, destination=snakemake.output[0], mirrors=snakemake.config["mirrors"], form=form, **checks)
