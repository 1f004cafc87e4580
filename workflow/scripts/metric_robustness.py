"""Score cheap transformations of one method's predictions."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.evaluation.metric_robustness import metric_robustness
    from scgpt_bench.files import read_h5ad, read_table, write_table
    from scgpt_bench.predictions import read_predictions

    truth = read_h5ad(snakemake.input.truth)
    split = read_table(snakemake.input.split)
    predictions = read_predictions(snakemake.input.predictions, truth.var_names, split)
    write_table(metric_robustness(predictions, truth, activated=snakemake.params.activated), snakemake.output[0])
