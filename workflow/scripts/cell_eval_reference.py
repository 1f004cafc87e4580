"""Score cell-eval's own baseline on the measured cells: what all methods on a split are compared with."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.evaluation.official import cell_eval, sides
    from scgpt_bench.files import atomic_write, read_table

    cells = open_h5ad(snakemake.input.cells)
    with atomic_write(snakemake.output[0]) as folder:
        for number, (_, split) in enumerate(sides.contexts_apart(read_table(snakemake.input.split))):
            cell_eval.write_reference(cells, split, snakemake.threads, folder / str(number))
