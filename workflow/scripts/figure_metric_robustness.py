"""Draw which metric can be gamed on these data."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.figures.style import save
    from scgpt_bench.figures.trust import robustness_heatmap
    from scgpt_bench.files import read_table

    wildcards = snakemake.wildcards
    title = f"{wildcards.dataset}, {wildcards.split}: what cheap tricks do to the scores of {wildcards.method}"
    save(robustness_heatmap(read_table(snakemake.input[0]), title), snakemake.output[0])
