"""Draw what every method scores in each context that was held out, of one data set; one figure per metric."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.figures.contexts import scores_by_context
    from scgpt_bench.figures.style import save
    from scgpt_bench.files import read_table

    scores = read_table(snakemake.input[0])
    scores = scores[scores["dataset"] == snakemake.wildcards.dataset]
    for metric, path in zip(snakemake.params.metrics, snakemake.output, strict=True):
        save(scores_by_context(scores, metric, snakemake.params.held_out, snakemake.params.kinds), path)
