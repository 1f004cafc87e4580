"""Find cells that are in a data set twice."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.audit import identical_cells
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.files import write_json

    write_json(identical_cells(open_h5ad(snakemake.input[0], layers=["counts"])), snakemake.output[0])
