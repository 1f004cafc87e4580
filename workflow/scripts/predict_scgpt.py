"""Predict the test perturbations, or one shard of them, with scGPT, zero-shot or fine-tuned."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from pathlib import Path

    import torch

    from scgpt_bench.data.conditions import codes_of, conditions_of
    from scgpt_bench.data.controls import open_controls
    from scgpt_bench.files import read_json, read_table
    from scgpt_bench.method_record import record_of, write_record
    from scgpt_bench.predictions import writing
    from scgpt_bench.scgpt import generation, inference, prediction

    torch.set_num_threads(snakemake.threads)
    seed = int(snakemake.wildcards.seed)
    configured = dict(snakemake.params.options)
    searched = configured.pop("search", {})
    if searched:  # what was chosen is what the model was trained with
        trained = read_json(snakemake.input.model[1], "a report")["options"]
        configured |= {option: trained[option] for option in searched}
    entries = {"kind": configured.pop("kind"), "options": configured, "seed": seed}
    how = prediction.PredictionOptions(
        **{key: configured[key] for key in ("genes_fed", "value_input") if key in configured},
        batch_size=snakemake.params.batch_size,
        keep_cells=snakemake.params.keep_cells,
        gpu=min(1, snakemake.config["hardware"]["gpu"]),
        precision=snakemake.params.precision,
    )
    index, number = map(int, snakemake.wildcards.get("scatteritem", "1-of-1").split("-of-"))
    controls = open_controls(snakemake.input.controls)
    if number > 1:
        controls = controls[codes_of(controls.obs, inference.shard(controls.obs, index - 1, number)) >= 0].copy()
    alignment = read_table(snakemake.input.vocabulary)
    checkpoint = Path(snakemake.input.checkpoint[0]).parent
    with writing(snakemake.output.predictions, controls.var_names) as write:
        if snakemake.params.function == "prompted":
            prompts = generation.PromptOptions(**{key: configured[key] for key in configured if key != "checkpoint"})
            found = prediction.prompted(controls, alignment, checkpoint, prompts, seed, how, write=write)
        elif snakemake.input.model:
            folder = Path(snakemake.input.model[0]).parent
            found = prediction.finetuned(controls, alignment, checkpoint, folder, how, write=write)
        else:
            found = prediction.zero_shot(controls, alignment, checkpoint, seed, how, write=write)
    record = record_of(conditions_of(controls.obs), n_genes=controls.n_vars, **entries, **found)
    write_record(record, snakemake.output.method)
