"""Find every gene of a data set in a checkpoint's vocabulary; the rest becomes `<pad>`, and is listed."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.files import write_table
    from scgpt_bench.scgpt import vocabulary

    genes = open_h5ad(snakemake.input.cells).var
    tokens = vocabulary.read_vocabulary(snakemake.input.vocabulary)
    table = vocabulary.align(
        genes.index,
        tokens,
        genes.get("gene_id"),
        vocabulary.read_gene_info(snakemake.input.gene_info) if snakemake.input.gene_info else None,
    )
    vocabulary.refuse_unrelated(snakemake.input.vocabulary, tokens, table)
    write_table(table, snakemake.output[0])
