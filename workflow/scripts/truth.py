"""Average the measured cells of every condition; rank the genes of those tested and set up the space of their cells."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from functools import partial
    from pathlib import Path

    from scgpt_bench.data.conditions import conditions_of, controls_of
    from scgpt_bench.data.halves import TRUTH
    from scgpt_bench.data.mapped import mapped_rows
    from scgpt_bench.data.means import cells_of
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.evaluation import cell_metrics, differential_expression, pseudobulk
    from scgpt_bench.files import read_table, write_h5ad

    cells, controls = open_h5ad(snakemake.input.cells), open_h5ad(snakemake.input.controls)
    measured = pseudobulk.measured(cells)
    truth = pseudobulk.truth(measured, read_table(snakemake.input.split))
    read = partial(mapped_rows, folder=Path(snakemake.output[0]).with_suffix(".rows"))
    compared = cells_of(cells, [*conditions_of(truth.obs), *controls_of(cells.obs)], TRUTH, read)
    truth.layers["de_rank"] = differential_expression.de_ranks(compared, truth)
    truth.layers["de_rank_half_b"] = differential_expression.de_ranks(compared, truth, halved=True)
    cell_metrics.add_cell_space(truth, compared, controls, read=read, threads=snakemake.threads)
    cell_metrics.add_significant_genes(truth, compared, controls)
    write_h5ad(pseudobulk.add_untested(truth, measured), snakemake.output[0])
