"""Write what the report says of a list of perturbations that nobody measured."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.conditions import COLUMNS
    from scgpt_bench.files import atomic_write, read_table
    from scgpt_bench.method_record import read_record
    from scgpt_bench.report import predicted

    names = dict.fromkeys([*COLUMNS, "given", "method", "reason"], str)
    tables = {name: read_table(snakemake.input[name], dtype=names) for name in ("trust", "ranking", "asked")}
    records = dict(zip(snakemake.params.methods, map(read_record, snakemake.input.records), strict=True))
    text = predicted.page(snakemake.wildcards.prediction, snakemake.params.dataset, records=records, **tables)
    with atomic_write(snakemake.output[0]) as partial:
        partial.write_text(text, encoding="utf-8")
