"""Bring a drop to the contract of cells.h5ad."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data import readers
    from scgpt_bench.data.catalogue import Dataset, read_datasets
    from scgpt_bench.data.download import verify
    from scgpt_bench.data.harmonize import write_harmonized
    from scgpt_bench.errors import name_in_errors

    dataset, options = Dataset(**snakemake.params.dataset), snakemake.params.options
    # Only for a check and for errors, so not a parameter: a drop that moves is the same drop.
    row = read_datasets(snakemake.config["dataset_table"])[snakemake.wildcards.dataset]
    path, name = snakemake.input[0], row.name_of(snakemake.input[0])
    # Snakemake takes a file that it did not make itself (`make check-data` did) as it is.
    verify(path, row)
    guide_calling = {key: options[key] for key in ("minimum_guide_umis", "minimum_guide_share")}
    with name_in_errors(path, name):
        write_harmonized(
            readers.read(path, dataset, **guide_calling),
            dataset,
            snakemake.output[0],
            minimum_cells=options["minimum_cells"],
            maximum_genes=options["maximum_genes"],
            source=name,
        )
