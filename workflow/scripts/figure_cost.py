"""Tell what each rule and method cost in time, GPU time and memory: one table, two figures."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.figures.cost import cost_bars, cost_table, read_costs
    from scgpt_bench.figures.style import save
    from scgpt_bench.files import write_table

    params = snakemake.params
    benchmarks = {rule: measured["benchmarks"] for rule, measured in params.rules.items()}
    gpus = {rule: measured["gpus"] for rule, measured in params.rules.items()}
    table = cost_table(read_costs(params.folder, benchmarks, params.seeds), gpus)
    write_table(table, snakemake.output.table)
    for by, path in zip(params.by, snakemake.output.figures, strict=True):
        save(cost_bars(table, by, f"Cost by {by}"), path)
