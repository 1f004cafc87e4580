"""Set the scores of this run beside published ones."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.evaluation.anchors import beside_anchors, read_anchors
    from scgpt_bench.files import read_table, write_table

    anchors = read_anchors(snakemake.input.anchors)
    write_table(beside_anchors(read_table(snakemake.input.scores), anchors), snakemake.output[0])
