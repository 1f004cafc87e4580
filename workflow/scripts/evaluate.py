"""Average the predicted cells of every test perturbation and compare them with the measured ones."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import pandas as pd

    from scgpt_bench import predictions
    from scgpt_bench.evaluation import cell_metrics, floor, metrics, pseudobulk
    from scgpt_bench.files import read_h5ad, read_table, write_h5ad, write_table

    truth = read_h5ad(snakemake.input.truth)
    split = read_table(snakemake.input.split)
    predicted = predictions.read_predictions(snakemake.input.predictions, truth.var_names, split)

    def every_metric(cells):
        of_means = metrics.score(pseudobulk.pseudobulk(cells), truth)
        return pd.concat([of_means, cell_metrics.energy_distance(cells, truth)])

    table = floor.mean_over_shuffles(predicted, truth, every_metric)
    write_h5ad(pseudobulk.pseudobulk(predicted), snakemake.output.pseudobulk)
    write_table(table, snakemake.output.metrics)
