"""Put the shards of a prediction together, in the order of the drawn control cells (or of names, of mean cells)."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.files import read_h5ad
    from scgpt_bench.method_record import joined, read_record, write_record
    from scgpt_bench.predictions import gather, mean_cell_obs, write_predictions

    record = joined([read_record(path) for path in snakemake.input.methods])
    rows = read_h5ad(snakemake.input.controls, backed=True).obs
    if not snakemake.params.keep_cells:
        rows = mean_cell_obs(rows)
    predictions = gather([read_h5ad(path) for path in snakemake.input.shards], rows.index)
    write_predictions(snakemake.output.predictions, predictions.X, predictions.obs, predictions.var_names)
    write_record(record, snakemake.output.method)
