"""Draw how much of the data a checkpoint's vocabulary covers."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import numpy as np

    from scgpt_bench.data.means import group_means
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.figures.model import vocabulary_coverage
    from scgpt_bench.figures.style import save
    from scgpt_bench.files import read_table

    wildcards = snakemake.wildcards
    vocabulary = read_table(snakemake.input.vocabulary)
    X = open_h5ad(snakemake.input.cells).X
    expression = group_means(X, np.full(X.shape[0], "all"), ["all"])[0][0]
    title = f"{wildcards.dataset} in the vocabulary of {wildcards.checkpoint}"
    save(vocabulary_coverage(vocabulary, expression, title), snakemake.output[0])
