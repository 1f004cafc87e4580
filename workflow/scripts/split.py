"""Deal the conditions of a data set into train, validation and test."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data import splits
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.files import write_table

    options = snakemake.params.options
    dataset, name = snakemake.params.series, snakemake.wildcards.split
    obs = open_h5ad(snakemake.input.cells).obs
    if snakemake.input.file:
        table = splits.read_split_file(snakemake.input.file, obs)
    elif name.startswith("gears"):
        seed = int(name.removeprefix("gears"))
        table = splits.gears_simulation(obs, dataset=dataset, seed=seed, minimum_cells=options["minimum_cells"])
    else:
        dealing = {key: options[key] for key in ("folds", "seed", "validation_share", "minimum_cells")}
        table = splits.fold(obs, dataset=dataset, fold=int(name.removeprefix("fold")), **dealing)
    write_table(table, snakemake.output[0])
