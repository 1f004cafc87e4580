"""Set the scores of this run beside published ones."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.evaluation.published_results import beside_published, read_published
    from scgpt_bench.files import read_table, write_table

    published = read_published(snakemake.input.published)
    write_table(beside_published(read_table(snakemake.input.scores), published), snakemake.output[0])
