"""Gather the metrics of the whole run: means with intervals, and a verdict for every method."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.evaluation import scores
    from scgpt_bench.files import write_table

    metrics = scores.gather(snakemake.input)
    kinds, options = snakemake.params.kinds, snakemake.params.options
    write_table(scores.scores(metrics, kinds, **options), snakemake.output.scores)
    write_table(scores.verdicts(metrics, kinds, **options), snakemake.output.verdicts)
