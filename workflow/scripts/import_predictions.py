"""Bring predictions that another program made into the form of every other method's."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.catalogue import Dataset
    from scgpt_bench.data.conditions import conditions_of
    from scgpt_bench.data.controls import open_controls
    from scgpt_bench.method_record import record_of, write_record
    from scgpt_bench.methods.imported import import_predictions
    from scgpt_bench.predictions import writing

    dataset = Dataset(**{**snakemake.params.dataset, **snakemake.params.labels})
    controls = open_controls(snakemake.input.controls)
    with writing(snakemake.output.predictions, controls.var_names) as write:
        found = import_predictions(snakemake.input.file, dataset, controls, **snakemake.params.missing, write=write)
    entries = {"options": {}, "seed": int(snakemake.wildcards.seed), **snakemake.params.made_by}
    record = record_of(conditions_of(controls.obs), n_genes=controls.n_vars, **entries, **found)
    write_record(record, snakemake.output.method)
