"""Find every gene of a data set in a checkpoint's vocabulary; the rest becomes `<pad>`, and is listed."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import anndata

    from scgpt_bench.files import write_table
    from scgpt_bench.scgpt import vocabulary

    genes = anndata.read_h5ad(snakemake.input.cells, backed="r").var_names
    table = vocabulary.align(genes, vocabulary.read_vocabulary(snakemake.input.vocabulary))
    write_table(table, snakemake.output[0])
