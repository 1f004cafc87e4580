"""Draw one metric of every perturbation and method."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.evaluation.scores import gather
    from scgpt_bench.figures.scores import perturbation_strip
    from scgpt_bench.figures.style import save
    from scgpt_bench.files import read_h5ad

    wildcards = snakemake.wildcards
    metrics = gather(snakemake.input.metrics)
    order = read_h5ad(snakemake.input.truth).obs["n_cells"].rename("measured cells")
    title = f"{wildcards.dataset}, {wildcards.split}: {snakemake.params.metric}"
    shown = metrics[metrics["metric"] == snakemake.params.metric]
    figure = perturbation_strip(shown, snakemake.params.metric, order, snakemake.params.kinds, title)
    save(figure, snakemake.output[0])
