"""Tell what each rule and method cost, and how the rules of the run hang together."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from pathlib import Path

    from scgpt_bench.figures import cost
    from scgpt_bench.figures.rule_graph import rule_graph
    from scgpt_bench.figures.style import save
    from scgpt_bench.files import atomic_write, write_table
    from scgpt_bench.report import rules

    params, output = snakemake.params, snakemake.output
    benchmarks = {rule: measured["benchmarks"] for rule, measured in params.rules.items()}
    gpus = {rule: measured["gpus"] for rule, measured in params.rules.items()}
    table = cost.cost_table(cost.read_costs(params.folder, benchmarks, params.seeds), gpus)
    write_table(table, output.table)
    save(cost.cost_bars(table, "Cost by method"), output.bars)
    save(rule_graph(params.plan, table, "Rules of this run"), output.graph)
    # Beside the library: of a script on a Git host, Snakemake knows the address alone.
    scripts = Path(cost.__file__).parents[3] / "scripts"
    with atomic_write(output.rules) as partial:
        partial.write_text(rules.piece(params.plan, params.environments, table, scripts), encoding="utf-8")
