"""Join data sets into one, on the genes that all of them measured."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.catalogue import Dataset
    from scgpt_bench.data.joining import write_joined
    from scgpt_bench.data.on_disk import open_h5ad

    dataset = Dataset(**snakemake.params.dataset)
    parts = {
        part: open_h5ad(path, layers=["counts"], uns=["harmonized"])
        for part, path in zip(dataset.parts, snakemake.input, strict=True)
    }
    write_joined(parts, dataset, snakemake.output[0], maximum_genes=snakemake.params.maximum_genes)
