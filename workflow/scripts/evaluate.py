"""Average the predicted cells of every test condition and compare them with the measured ones."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.evaluation import control_blocks
    from scgpt_bench.evaluation.floor import every_metric
    from scgpt_bench.evaluation.pseudobulk import pseudobulk
    from scgpt_bench.files import read_h5ad, read_table, write_h5ad, write_table
    from scgpt_bench.method_record import read_record
    from scgpt_bench.predictions import read_predictions

    truth = read_h5ad(snakemake.input.truth)
    split = read_table(snakemake.input.split)
    predicted = read_predictions(snakemake.input.predictions, truth.var_names, split)
    record, means = read_record(snakemake.input.method), pseudobulk(predicted)
    write_h5ad(means, snakemake.output.pseudobulk)
    write_table(every_metric(predicted, truth, record), snakemake.output.metrics)
    write_table(control_blocks.of_prediction(means, truth, record), snakemake.output.control_blocks)
