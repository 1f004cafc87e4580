"""Refuse a split with a leak, before any model."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.audit import audit
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.files import read_json, read_table, write_json

    checks = audit(
        read_table(snakemake.input.split),
        open_h5ad(snakemake.input.cells).obs,
        read_json(snakemake.input.identical, "identical cells"),
        dataset=snakemake.wildcards.dataset,
        split_name=snakemake.wildcards.split,
        how=snakemake.params.how,
    )
    write_json(checks, snakemake.output[0])
