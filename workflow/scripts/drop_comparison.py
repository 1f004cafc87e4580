"""Compare the two last versions of a data set: a text, a table and a figure."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.evaluation import drops, scores
    from scgpt_bench.figures.data_card import facts_table
    from scgpt_bench.figures.drops import drop_comparison
    from scgpt_bench.figures.style import save
    from scgpt_bench.files import atomic_write, read_json, read_table, write_table

    files, output = snakemake.input, snakemake.output
    before, now = (read_json(path, "a data card") for path in files.cards)
    names = before["dataset"], now["dataset"]
    metrics = scores.gather(files.metrics)
    tables = read_table(files.scores), read_table(files.verdicts), metrics
    table = drops.compare_scores(*names, *tables, snakemake.params.pooled)
    write_table(table, output.table)
    with atomic_write(output.text) as partial:
        partial.write_text(facts_table("{} against {}".format(*names[::-1]), drops.compare_cards(before, now)))
    split = drops.shown_split(table, snakemake.params.pooled)
    metric, kinds = snakemake.params.metric, snakemake.params.kinds
    save(drop_comparison(before, now, table, metric, split, kinds), output.figure)
