"""Rank the predicted perturbations: by the size of the effect, by agreement of methods, by a signature."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import pandas as pd

    from scgpt_bench.files import write_table
    from scgpt_bench.method_record import read_record
    from scgpt_bench.unmeasured import ranking

    methods = snakemake.params.methods
    changes = dict(zip(methods, map(pd.read_parquet, snakemake.input.changes), strict=True))
    records = dict(zip(methods, map(read_record, snakemake.input.records), strict=True))
    signature = ranking.read_signature(snakemake.input.signature) if snakemake.input.signature else None
    write_table(ranking.rank(changes, records, signature), snakemake.output[0])
