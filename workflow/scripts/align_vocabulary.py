"""Find every gene of a data set in a checkpoint's vocabulary; the rest becomes `<pad>`, and is listed."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.files import read_h5ad, write_table
    from scgpt_bench.scgpt import vocabulary

    genes = read_h5ad(snakemake.input.cells, backed=True).var
    tokens = vocabulary.read_vocabulary(snakemake.input.vocabulary)
    table = vocabulary.align(
        genes.index,
        tokens,
        genes.get("gene_id"),
        vocabulary.read_gene_info(snakemake.input.gene_info) if snakemake.input.gene_info else None,
    )
    vocabulary.refuse_unrelated(snakemake.input.vocabulary, tokens, table)
    write_table(table, snakemake.output[0])
