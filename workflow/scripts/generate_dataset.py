"""Generate a planted Perturb-seq experiment: cells, an atlas for pretraining, and the true mean responses."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data import planted
    from scgpt_bench.files import write_h5ad

    experiment = planted.generate(snakemake.params.options)
    write_h5ad(experiment.cells, snakemake.output.cells)
    write_h5ad(experiment.atlas, snakemake.output.atlas)
    write_h5ad(experiment.truth, snakemake.output.truth)
