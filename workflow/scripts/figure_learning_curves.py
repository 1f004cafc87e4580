"""Draw the learning curves of one data set; one figure per metric."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.figures.learning_curves import learning_curves
    from scgpt_bench.figures.style import save
    from scgpt_bench.files import read_table

    curves, crossings = (
        table[table["dataset"] == snakemake.wildcards.dataset] for table in map(read_table, snakemake.input)
    )
    for metric, path in zip(snakemake.params.metrics, snakemake.output, strict=True):
        save(learning_curves(curves, crossings, metric, snakemake.params.kinds, snakemake.params.pooled), path)
