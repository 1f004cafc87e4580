"""Draw what was measured: the response of every perturbation, and which perturbations share one."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.evaluation.pseudobulk import responses
    from scgpt_bench.figures.responses import delta_heatmap
    from scgpt_bench.figures.style import save

    perturbations, deltas = responses(open_h5ad(snakemake.input[0]))
    title = f"{snakemake.wildcards.dataset}: measured responses"
    save(delta_heatmap(deltas.to_numpy(), perturbations, deltas.columns, title), snakemake.output[0])
