"""Predict every test perturbation by a simple rule fitted on the training perturbations."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.files import read_h5ad, read_table
    from scgpt_bench.methods import baselines
    from scgpt_bench.predictions import write_predictions

    options = dict(snakemake.params.options)
    kind = options.pop("kind")
    method = getattr(baselines, snakemake.params.function)
    embeddings = None
    if options.pop("checkpoint", None):
        embeddings = baselines.read_embeddings(snakemake.input.embeddings[0])
    cells = open_h5ad(snakemake.input.cells)
    split = read_table(snakemake.input.split)
    controls = read_h5ad(snakemake.input.controls)
    predicted, record = baselines.predict(cells, split, controls, method, embeddings, **options)
    write_predictions(snakemake.output[0], predicted, controls.obs, cells.var_names, {"kind": kind, **record})
