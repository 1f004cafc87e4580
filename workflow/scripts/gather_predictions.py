"""Put the shards of a prediction together, sorted by condition."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.method_record import joined, read_record, write_record
    from scgpt_bench.predictions import gather, writing

    record = joined([read_record(path) for path in snakemake.input.methods])
    shards = [open_h5ad(path) for path in snakemake.input.shards]
    with writing(snakemake.output.predictions, shards[0].var_names) as write:
        gather(shards, write=write)
    write_record(record, snakemake.output.method)
