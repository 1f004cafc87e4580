"""Score cell-eval's own baseline on the measured cells: what all methods on a split are compared with."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.evaluation.official import cell_eval
    from scgpt_bench.files import read_table

    cell_eval.write_reference(
        open_h5ad(snakemake.input.cells),
        read_table(snakemake.input.split),
        snakemake.threads,
        snakemake.output[0],
    )
