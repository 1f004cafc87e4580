"""Predict what is already known: the floor, the ceiling, and the planted truth."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.conditions import conditions_of
    from scgpt_bench.data.controls import open_controls
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.files import read_h5ad
    from scgpt_bench.method_record import record_of, write_record
    from scgpt_bench.methods import benchmark_controls
    from scgpt_bench.predictions import writing

    configured, seed = dict(snakemake.params.options), int(snakemake.wildcards.seed)
    entries = {"kind": configured.pop("kind"), "options": configured, "seed": seed}
    controls = open_controls(snakemake.input.controls)
    known = benchmark_controls.Known(
        open_h5ad(snakemake.input.cells),
        controls,
        read_h5ad(snakemake.input.truth),
        read_h5ad(snakemake.input.planted) if snakemake.input.planted else None,
    )
    with writing(snakemake.output.predictions, controls.var_names) as write:
        found = getattr(benchmark_controls, snakemake.params.function)(known, seed, write=write)
    record = record_of(conditions_of(controls.obs), n_genes=controls.n_vars, **entries, **found)
    write_record(record, snakemake.output.method)
