"""Predict what is already known: the floor, the ceiling, and the planted truth."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench import __version__
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.files import read_h5ad
    from scgpt_bench.methods import benchmark_controls
    from scgpt_bench.predictions import write_predictions

    known = benchmark_controls.Known(
        open_h5ad(snakemake.input.cells),
        read_h5ad(snakemake.input.controls),
        read_h5ad(snakemake.input.truth),
        read_h5ad(snakemake.input.planted) if snakemake.input.planted else None,
    )
    kind, seed = snakemake.params.options["kind"], int(snakemake.wildcards.seed)
    predicted, record = getattr(benchmark_controls, snakemake.params.function)(known, seed)
    record = {"kind": kind, "seed": seed, "scgpt_bench": __version__, **record}
    write_predictions(snakemake.output[0], predicted, known.controls.obs, known.controls.var_names, record)
