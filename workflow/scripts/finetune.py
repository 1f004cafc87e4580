"""Fine-tune scGPT on the training perturbations; a restarted job goes on where the last one was.

Where a search chose the recipe, its winner, which was trained with the first seed, is that seed's model. Where all that
was measured is trained on, reports of trainings with validation conditions say for how many epochs.
"""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import shutil
    from pathlib import Path

    from scgpt_bench.files import read_json, read_table

    options, winner = dict(snakemake.params.options), None
    del options["kind"]
    if snakemake.input.get("chosen"):
        chosen = read_json(snakemake.input.chosen, "a choice")
        options |= chosen["options"]
        folders = [Path(path).parent for path in snakemake.input.candidates]
        winner = next((folder for folder in folders if folder.name == chosen["candidate"]), None)
    reports = [read_json(path, "a report") for path in snakemake.input.get("reports", [])]
    if winner:
        for path in snakemake.output:
            shutil.copyfile(winner / Path(path).name, path)
    else:
        import torch

        from scgpt_bench import nodes
        from scgpt_bench.data.on_disk import open_h5ad
        from scgpt_bench.scgpt import finetuning, recipe, search, training
        from scgpt_bench.scgpt.training_set import NothingToTrainOn

        nodes.run_on_each_node(snakemake.config["hardware"]["nodes"], snakemake.threads)
        if reports:
            options["epochs"] = search.epochs(reports)
        torch.set_num_threads(snakemake.threads)
        training_of = {
            "cells": open_h5ad(snakemake.input.cells),
            "split": read_table(snakemake.input.split),
            "vocabulary": read_table(snakemake.input.vocabulary),
            "checkpoint_folder": Path(snakemake.input.checkpoint[0]).parent,
            "options": recipe.Recipe(**options),
            "seed": int(snakemake.wildcards.seed),
            "folder": Path(snakemake.output.model).parent,
            "machine": training.machine(snakemake.config["hardware"]),
        }
        forgiven = {NothingToTrainOn: "nothing_to_train_on"} if snakemake.params.is_subset else {}
        if snakemake.wildcards.get("candidate"):
            forgiven[training.TrainingFailed] = "failed"
        finetuning.finetune_unless(forgiven, **training_of, validates=not reports)
