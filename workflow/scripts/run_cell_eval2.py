"""Score a prediction with the scorer of the Virtual Cell Challenge 2026."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.evaluation.official import cell_eval2, sides
    from scgpt_bench.files import read_table, write_json, write_table
    from scgpt_bench.predictions import read_predictions

    cells, split = open_h5ad(snakemake.input.cells, layers=["counts"]), read_table(snakemake.input.split)
    predictions = read_predictions(snakemake.input.predictions, cells.var_names, split)
    compared = sides.count_sides(cells, predictions, split)
    table, summary = cell_eval2.evaluate(compared, snakemake.input.reference, snakemake.threads)
    write_table(table, snakemake.output.table)
    write_json(summary, snakemake.output.summary)
