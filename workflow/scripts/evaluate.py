"""Average the predicted cells of every test perturbation and compare them with the measured ones."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import pandas as pd

    from scgpt_bench.evaluation import cell_metrics, metrics, pseudobulk
    from scgpt_bench.files import read_h5ad, read_table, write_h5ad, write_table
    from scgpt_bench.methods import predictions

    truth = read_h5ad(snakemake.input.truth)
    split = read_table(snakemake.input.split)
    predicted = predictions.read_predictions(snakemake.input.predictions, truth.var_names, split)
    means = pseudobulk.pseudobulk(predicted)
    table = pd.concat([metrics.score(means, truth), cell_metrics.energy_distance(predicted, truth)])
    write_h5ad(means, snakemake.output.pseudobulk)
    write_table(table, snakemake.output.metrics)
