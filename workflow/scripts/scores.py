"""Gather the metrics of the whole run: means with intervals, and a verdict for every method; both by class as well."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.evaluation import classes, scores
    from scgpt_bench.files import write_table

    metrics = scores.with_asked(scores.gather(snakemake.input.metrics), snakemake.input.records)
    kinds, options = snakemake.params.kinds, snakemake.params.options
    write_table(scores.scores(metrics, kinds, **options), snakemake.output.scores)
    write_table(scores.verdicts(metrics, kinds, **options), snakemake.output.verdicts)
    by_class = classes.scores_by_class(metrics, classes.gather_classes(snakemake.input.splits), kinds, **options)
    write_table(by_class, snakemake.output.by_class)
