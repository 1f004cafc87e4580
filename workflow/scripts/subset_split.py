"""Keep a part of the perturbations that a split trains and validates on: one point of a learning curve."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.splits import subset
    from scgpt_bench.files import read_table, write_table

    split = read_table(snakemake.input[0])
    write_table(subset(split, snakemake.params.size, dataset=snakemake.params.series), snakemake.output[0])
