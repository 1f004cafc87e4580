"""Write the gene vectors of a file, or of another data set, that the genes of a data set have."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.gene_vectors import changes_as_vectors, gene_vectors, read_vectors
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.files import sha256, write_h5ad

    file, options = snakemake.input.file, snakemake.params.options
    if options["source"] == "dataset":
        vectors = changes_as_vectors(open_h5ad(file), options["components"], file)
    else:
        vectors = read_vectors(file)
    cells = open_h5ad(snakemake.input.cells)
    origin = {"source": options["source"], "name": snakemake.wildcards.vectors, "sha256": sha256(file)}
    write_h5ad(gene_vectors(cells, vectors, file, **origin), snakemake.output[0])
