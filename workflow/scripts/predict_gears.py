"""Train GEARS on the training perturbations and predict every test condition."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import torch

    from scgpt_bench.data.conditions import conditions_of
    from scgpt_bench.data.controls import open_controls
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.files import read_table
    from scgpt_bench.method_record import record_of, write_record
    from scgpt_bench.methods import gears
    from scgpt_bench.options import GearsTraining
    from scgpt_bench.predictions import writing
    from scgpt_bench.scgpt import devices

    torch.set_num_threads(snakemake.threads)
    configured = dict(snakemake.params.options)
    entries = {"kind": configured.pop("kind"), "options": configured, "seed": int(snakemake.wildcards.seed)}
    cells = open_h5ad(snakemake.input.cells)
    controls = open_controls(snakemake.input.controls)
    with writing(snakemake.output.predictions, cells.var_names) as write:
        found = gears.predict(
            cells,
            read_table(snakemake.input.split),
            controls,
            configured["graph"],
            snakemake.input.graph,
            GearsTraining(**{key: value for key, value in configured.items() if key != "graph"}),
            entries["seed"],
            devices.device_of(snakemake.config["hardware"]["gpu"]),
            write=write,
        )
    record = record_of(conditions_of(controls.obs), n_genes=cells.n_vars, **entries, **found)
    write_record(record, snakemake.output.method)
