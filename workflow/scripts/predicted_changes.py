"""Tabulate the predicted change of every gene, and its spread over seeds."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.controls import open_controls
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.files import atomic_write, write_table
    from scgpt_bench.unmeasured import changes

    predictions = [open_h5ad(path) for path in snakemake.input.predictions]
    found = changes.changes(predictions, open_controls(snakemake.input.controls))
    with atomic_write(snakemake.output.changes) as partial:
        largest = changes.write(found, partial)
    write_table(largest, snakemake.output.largest)
