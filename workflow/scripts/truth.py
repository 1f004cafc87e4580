"""Average the measured cells of every test perturbation, rank its genes, and set up the space that compares cells."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.conditions import controls_of, listed
    from scgpt_bench.data.means import cells_of
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.evaluation import cell_metrics, differential_expression, pseudobulk
    from scgpt_bench.files import read_table, write_h5ad

    cells = open_h5ad(snakemake.input.cells)
    truth = pseudobulk.truth(cells, read_table(snakemake.input.split))
    cells = cells_of(cells, [*controls_of(cells.obs), *listed(truth.obs)])
    truth.layers["de_rank"] = differential_expression.de_ranks(cells, truth, snakemake.threads)
    truth.layers["de_rank_half_b"] = differential_expression.de_ranks(cells, truth, snakemake.threads, halved=True)
    cell_metrics.add_cell_space(truth, cells)
    write_h5ad(truth, snakemake.output[0])
