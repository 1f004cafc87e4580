"""Take the measured cells of a point of a learning curve from its whole split, which has the same test conditions."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.evaluation.pseudobulk import replace_centroid
    from scgpt_bench.files import read_h5ad, read_table, write_h5ad

    truth = read_h5ad(snakemake.input.truth)
    replace_centroid(truth, read_table(snakemake.input.split))
    write_h5ad(truth, snakemake.output[0])
