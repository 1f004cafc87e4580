"""Make a table a page of the report: sortable, searchable, offline."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.figures.tables import page
    from scgpt_bench.files import read_table, whole

    with whole(snakemake.output[0]) as partial:
        partial.write_text(page(read_table(snakemake.input[0]), snakemake.params.title))
