"""Measure how far changes carry over between the contexts of a data set: a table and two figures."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.evaluation.transfer import changes, transfer
    from scgpt_bench.figures.contexts import carried_over, transfer_heatmap
    from scgpt_bench.figures.style import save
    from scgpt_bench.files import write_table

    output, name = snakemake.output, snakemake.wildcards.dataset
    cells = open_h5ad(snakemake.input[0])
    measured = changes(cells)
    table = transfer(measured, snakemake.params.minimum_reliability)
    write_table(table, output.table)
    save(transfer_heatmap(table, f"{name}: how far measured changes carry over"), output.ceiling)
    title = f"{name}: measured changes in two contexts"
    genes, most = [*cells.var_names], snakemake.params.perturbations
    save(carried_over(measured, table, genes, title, most), output.perturbations)
