"""Bring a drop to the contract of cells.h5ad."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data import readers
    from scgpt_bench.data.catalogue import Dataset
    from scgpt_bench.data.harmonize import harmonize
    from scgpt_bench.files import write_h5ad

    dataset = Dataset(**snakemake.params.dataset)
    options = snakemake.params.options
    guide_calling = {key: options[key] for key in ("minimum_guide_umis", "minimum_guide_share")}
    drop = readers.read(snakemake.input[0], dataset, **guide_calling)
    source = f"{snakemake.input[0]} (from {dataset.address})"
    cells = harmonize(
        drop,
        dataset,
        minimum_cells=options["minimum_cells"],
        maximum_genes=options["maximum_genes"],
        source=source,
    )
    write_h5ad(cells, snakemake.output[0])
