"""Draw the training history of one fine-tuned model."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import json
    from pathlib import Path

    from scgpt_bench.figures.model import training_history
    from scgpt_bench.figures.style import save
    from scgpt_bench.files import read_table

    wildcards = snakemake.wildcards
    history = read_table(snakemake.input.history)
    best = json.loads(Path(snakemake.input.report).read_text())["selected_epoch"]
    title = f"{wildcards.method}, seed {wildcards.seed}, on {wildcards.dataset}, {wildcards.split}"
    save(training_history(history, title, best=best), snakemake.output[0])
