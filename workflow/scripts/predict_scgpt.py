"""Predict the test perturbations, or one shard of them, with scGPT, zero-shot or fine-tuned."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import json
    from pathlib import Path

    import torch

    from scgpt_bench.files import read_h5ad, read_table
    from scgpt_bench.predictions import mean_cell_obs, write_predictions
    from scgpt_bench.scgpt import arms, generation, inference

    torch.set_num_threads(snakemake.threads)
    seed = int(snakemake.wildcards.seed)
    options = dict(snakemake.params.options)
    kind = options.pop("kind")
    del options["checkpoint"]
    keep_cells, gpu = snakemake.params.keep_cells, snakemake.resources.gpu
    index, number = map(int, snakemake.wildcards.get("scatteritem", "1-of-1").split("-of-"))
    controls = read_h5ad(snakemake.input.controls)
    chosen = inference.shard(controls.obs["perturbation"], index - 1, number)
    controls = controls[controls.obs["perturbation"].isin(chosen)].copy()
    alignment = read_table(snakemake.input.vocabulary)
    checkpoint = Path(snakemake.input.checkpoint[0]).parent
    if kind in ("scgpt-knockout", "scgpt-generate"):
        options, activated = generation.Options(**options), snakemake.params.activated
        predicted, method = arms.prompted(controls, alignment, checkpoint, options, seed, activated, keep_cells, gpu)
    else:
        calling = arms.Calling(options["genes_fed"], snakemake.params.batch_size, keep_cells, gpu)
        if snakemake.input.model:
            report = json.loads(Path(snakemake.input.model[1]).read_text())
            folder = Path(snakemake.input.model[0]).parent
            predicted, method = arms.finetuned(controls, alignment, checkpoint, folder, report, calling)
        else:
            predicted, method = arms.flagged(controls, alignment, checkpoint, seed, calling)
    method = {"kind": kind, "seed": seed, **method}
    rows = controls.obs if keep_cells else mean_cell_obs(controls.obs)
    write_predictions(snakemake.output[0], predicted, rows, controls.var_names, method)
