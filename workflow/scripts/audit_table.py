"""List what was checked of a split, and what is known of where weights, vectors and predictions come from."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import pandas as pd

    from scgpt_bench.data.audit import audit, declarations
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.files import read_json, read_table, write_table

    checks = audit(
        read_table(snakemake.input.split),
        open_h5ad(snakemake.input.cells).obs,
        read_json(snakemake.input.identical, "identical cells"),
        dataset=snakemake.wildcards.dataset,
        split_name=snakemake.wildcards.split,
        how=snakemake.params.how,
    )
    write_table(pd.DataFrame([*checks, *declarations(**snakemake.params.declared)]), snakemake.output[0])
