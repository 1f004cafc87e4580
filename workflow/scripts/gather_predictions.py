"""Put the shards of a prediction together, in the order of the drawn control cells."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import anndata

    from scgpt_bench.methods.predictions import gather, write_predictions

    controls = anndata.read_h5ad(snakemake.input.controls, backed="r")
    predictions, method = gather([anndata.read_h5ad(path) for path in snakemake.input.shards], controls.obs_names)
    write_predictions(snakemake.output[0], predictions.X, predictions.obs, predictions.var_names, method)
