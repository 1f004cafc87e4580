"""Draw one metric of every condition and method."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.evaluation.data_card import reliability_of
    from scgpt_bench.evaluation.scores import gather
    from scgpt_bench.figures.scores import perturbation_heatmap
    from scgpt_bench.figures.style import save
    from scgpt_bench.files import read_json

    wildcards = snakemake.wildcards
    metrics = gather(snakemake.input.metrics)
    reliability = reliability_of(read_json(snakemake.input.card, "a data card"))
    title = f"{wildcards.dataset}, {wildcards.split}: {snakemake.params.metric}"
    shown = metrics[metrics["metric"] == snakemake.params.metric]
    figure = perturbation_heatmap(shown, snakemake.params.metric, reliability, snakemake.params.kinds, title)
    save(figure, snakemake.output[0])
