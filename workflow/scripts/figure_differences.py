"""Draw how far every method is from the best simple method, over all data sets; one figure per metric."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.figures.scores import paired_differences
    from scgpt_bench.figures.style import save
    from scgpt_bench.files import read_table

    verdicts = read_table(snakemake.input[0])
    params = snakemake.params
    for metric, path in zip(params.metrics, snakemake.output, strict=True):
        figure = paired_differences(verdicts, metric, params.kinds, without_pretraining=params.without_pretraining)
        save(figure, path)
