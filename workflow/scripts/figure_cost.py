"""Tell what each rule and method cost in time, GPU time and memory: one table, two figures."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import json
    from pathlib import Path

    import pandas as pd

    from scgpt_bench.figures.cost import cost_bars, cost_table
    from scgpt_bench.figures.style import save
    from scgpt_bench.files import write_table

    params = snakemake.params
    jobs = pd.DataFrame(json.loads(Path(snakemake.input[0]).read_text())["cost"])
    table = cost_table(jobs, params.methods, params.gpus)
    write_table(table, snakemake.output.table)
    for by, path in zip(params.by, snakemake.output.figures, strict=True):
        save(cost_bars(table, by, f"Cost by {by}"), path)
