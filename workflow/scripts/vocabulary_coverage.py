"""Count how much of the data the vocabulary of each checkpoint covers."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import numpy as np

    from scgpt_bench.data.means import group_means
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.figures.model import vocabulary_coverage
    from scgpt_bench.files import read_table, write_table

    X = open_h5ad(snakemake.input.cells).X
    expression = group_means(X, np.full(X.shape[0], "all"), ["all"])[0][0]
    tables = dict(zip(snakemake.params.checkpoints, map(read_table, snakemake.input.vocabularies), strict=True))
    write_table(vocabulary_coverage(tables, expression), snakemake.output[0])
