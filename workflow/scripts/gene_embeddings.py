"""Write a checkpoint's embeddings of the measured genes and of the targets that were not measured."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from pathlib import Path

    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.files import read_table, write_h5ad
    from scgpt_bench.scgpt.gene_embeddings import gene_embeddings

    cells = open_h5ad(snakemake.input.cells)
    alignment = read_table(snakemake.input.vocabulary)
    embeddings = gene_embeddings(cells, Path(snakemake.input.checkpoint[0]).parent, alignment)
    write_h5ad(embeddings, snakemake.output[0])
