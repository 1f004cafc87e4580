"""Score what doing nothing and what the noise-free truth would predict of every test condition."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.evaluation.reference_scores import reference_scores
    from scgpt_bench.files import read_h5ad, write_table

    write_table(reference_scores(read_h5ad(snakemake.input.truth)), snakemake.output[0])
