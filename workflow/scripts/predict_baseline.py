"""Predict every test condition by a simple rule fitted on the training conditions."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.conditions import conditions_of
    from scgpt_bench.data.controls import open_controls
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.files import read_table
    from scgpt_bench.method_record import record_of, write_record
    from scgpt_bench.methods import baselines
    from scgpt_bench.methods.registry import KINDS
    from scgpt_bench.predictions import writing

    configured = dict(snakemake.params.options)
    entries = {"kind": configured.pop("kind"), "options": configured, "seed": int(snakemake.wildcards.seed)}
    options = {key: value for key, value in configured.items() if key not in ("checkpoint", "vectors")}
    if KINDS[entries["kind"]].depends_on_seed:
        options["seed"] = entries["seed"]
    embeddings = None
    if snakemake.params.context_vectors:
        embeddings = baselines.VectorsOfContexts(snakemake.params.context_vectors)
    elif snakemake.input.embeddings:
        embeddings = baselines.read_embeddings(snakemake.input.embeddings[0])
    cells = open_h5ad(snakemake.input.cells)
    split = read_table(snakemake.input.split)
    controls = open_controls(snakemake.input.controls)
    method = getattr(baselines, snakemake.params.function)
    with writing(snakemake.output.predictions, cells.var_names) as write:
        found = baselines.predict(cells, split, controls, method, embeddings, write=write, **options)
    record = record_of(conditions_of(controls.obs), n_genes=cells.n_vars, **entries, **found)
    write_record(record, snakemake.output.method)
