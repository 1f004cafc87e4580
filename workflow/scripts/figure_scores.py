"""Draw the methods of one data set and split, best first, with intervals; one figure per metric."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.figures.scores import method_scores
    from scgpt_bench.figures.style import save
    from scgpt_bench.files import read_table

    scores = read_table(snakemake.input[0])
    wildcards = snakemake.wildcards
    shown = scores[(scores["dataset"] == wildcards.dataset) & (scores["split"] == wildcards.split)]
    params = snakemake.params
    for metric, path in zip(params.metrics, snakemake.output, strict=True):
        figure = method_scores(shown, metric, params.kinds, without_pretraining=params.without_pretraining)
        save(figure, path)
