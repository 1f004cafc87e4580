"""Write cell-eval2's real bundle: what scores 0 and what scores 1 on the measured cells."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.evaluation.official import cell_eval2
    from scgpt_bench.files import read_table

    cell_eval2.write_reference(
        open_h5ad(snakemake.input.cells, layers=["counts"]),
        read_table(snakemake.input.split),
        snakemake.threads,
        snakemake.output[0],
    )
