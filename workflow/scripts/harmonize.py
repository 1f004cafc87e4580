"""Bring a drop to the contract of cells.h5ad."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data import readers
    from scgpt_bench.data.catalogue import Dataset, read_datasets
    from scgpt_bench.data.harmonize import write_harmonized

    dataset, options = Dataset(**snakemake.params.dataset), snakemake.params.options
    # Only for errors, so not a parameter: a drop that moves is the same drop.
    address = read_datasets(snakemake.config["dataset_table"])[snakemake.wildcards.dataset].address
    guide_calling = {key: options[key] for key in ("minimum_guide_umis", "minimum_guide_share")}
    write_harmonized(
        readers.read(snakemake.input[0], dataset, **guide_calling),
        dataset,
        snakemake.output[0],
        minimum_cells=options["minimum_cells"],
        maximum_genes=options["maximum_genes"],
        source=f"{snakemake.input[0]} (from {address})",
    )
