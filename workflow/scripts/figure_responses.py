"""Draw what was measured: the response of every condition, and which conditions share one."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.conditions import noun_of
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.evaluation.pseudobulk import responses
    from scgpt_bench.figures.responses import delta_heatmap
    from scgpt_bench.figures.style import save

    cells = open_h5ad(snakemake.input[0])
    deltas, noun = responses(cells), noun_of(cells.obs)
    title = f"{snakemake.wildcards.dataset}: measured responses"
    save(delta_heatmap(deltas.to_numpy(), deltas.index, deltas.columns, title, noun=noun), snakemake.output[0])
