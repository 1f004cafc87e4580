"""Predict the test perturbations, or one shard of them, with scGPT, zero-shot or fine-tuned."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from pathlib import Path

    import torch

    from scgpt_bench.data.conditions import codes_of, conditions_of
    from scgpt_bench.files import read_h5ad, read_json, read_table
    from scgpt_bench.method_record import record_of, write_record
    from scgpt_bench.predictions import mean_cell_obs, write_predictions
    from scgpt_bench.scgpt import generation, inference, prediction

    torch.set_num_threads(snakemake.threads)
    seed = int(snakemake.wildcards.seed)
    configured = dict(snakemake.params.options)
    searched = configured.pop("search", {})
    if searched:  # what was chosen is what the model was trained with
        trained = read_json(snakemake.input.model[1], "a report")["options"]
        configured |= {option: trained[option] for option in searched}
    entries = {"kind": configured.pop("kind"), "options": configured, "seed": seed}
    how = prediction.Options(
        **{key: configured[key] for key in ("genes_fed", "value_input") if key in configured},
        batch_size=snakemake.params.batch_size,
        keep_cells=snakemake.params.keep_cells,
        gpu=snakemake.resources.gpu,
    )
    index, number = map(int, snakemake.wildcards.get("scatteritem", "1-of-1").split("-of-"))
    controls = read_h5ad(snakemake.input.controls)
    chosen = inference.shard(controls.obs, index - 1, number)
    controls = controls[codes_of(controls.obs, chosen) >= 0].copy()
    alignment = read_table(snakemake.input.vocabulary)
    checkpoint = Path(snakemake.input.checkpoint[0]).parent
    if snakemake.params.function == "prompted":
        prompts = generation.Options(**{key: value for key, value in configured.items() if key != "checkpoint"})
        predicted, found = prediction.prompted(controls, alignment, checkpoint, prompts, seed, how)
    elif snakemake.input.model:
        folder = Path(snakemake.input.model[0]).parent
        predicted, found = prediction.finetuned(controls, alignment, checkpoint, folder, how)
    else:
        predicted, found = prediction.zero_shot(controls, alignment, checkpoint, seed, how)
    rows = controls.obs if how.keep_cells else mean_cell_obs(controls.obs)
    write_predictions(snakemake.output.predictions, predicted, rows, controls.var_names)
    record = record_of(conditions_of(controls.obs), n_genes=controls.n_vars, **entries, **found)
    write_record(record, snakemake.output.method)
