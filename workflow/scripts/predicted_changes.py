"""Tabulate the predicted change of every gene, and its spread over seeds."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.files import atomic_write, read_h5ad, write_table
    from scgpt_bench.unmeasured import changes

    predictions = [open_h5ad(path) for path in snakemake.input.predictions]
    found = changes.changes(predictions, read_h5ad(snakemake.input.controls))
    write_table(changes.largest(found), snakemake.output.largest)
    with atomic_write(snakemake.output.changes) as partial:
        found.to_parquet(partial, index=False)
