"""Deal the conditions of a data set into train, validation and test."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data import splits
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.files import write_table

    obs = open_h5ad(snakemake.input.cells).obs
    if snakemake.input.file:
        table = splits.read_split_file(snakemake.input.file, obs)
    else:
        made_by, options = snakemake.params.how["made_by"], {**snakemake.params.how}
        del options["made_by"]
        table = splits.MAKERS[made_by](obs, dataset=snakemake.params.series, **options)
    write_table(table, snakemake.output[0])
