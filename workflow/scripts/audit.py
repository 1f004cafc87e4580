"""Refuse a split with a leak, before any model."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import pandas as pd

    from scgpt_bench.data.audit import audit
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.files import read_json, read_table, write_table

    checks = audit(
        read_table(snakemake.input.split),
        open_h5ad(snakemake.input.cells).obs,
        read_json(snakemake.input.identical, "identical cells"),
        dataset=snakemake.wildcards.dataset,
        split_name=snakemake.wildcards.split,
        how=snakemake.params.how,
        declared=snakemake.params.declared,
    )
    write_table(pd.DataFrame(checks), snakemake.output[0])
