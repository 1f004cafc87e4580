"""Predict what is already known: the floor, the ceiling, and the planted truth."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.files import read_h5ad
    from scgpt_bench.methods import benchmark_controls
    from scgpt_bench.predictions import write_predictions

    controls = read_h5ad(snakemake.input.controls)
    predicted, method = benchmark_controls.predict(
        open_h5ad(snakemake.input.cells),
        controls,
        read_h5ad(snakemake.input.truth),
        snakemake.params.options["kind"],
        int(snakemake.wildcards.seed),
        read_h5ad(snakemake.input.planted) if snakemake.input.planted else None,
    )
    write_predictions(snakemake.output[0], predicted, controls.obs, controls.var_names, method)
