"""Say how far to trust the predictions of a list: what its methods scored where the answer was measured."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.conditions import COLUMNS
    from scgpt_bench.evaluation import scores
    from scgpt_bench.files import read_table, write_table
    from scgpt_bench.method_record import read_record
    from scgpt_bench.unmeasured.trust import trust

    files = snakemake.input
    study = scores.read_study({**dict(files.items()), "records": files.measured}, snakemake.params.study)
    split = read_table(files.split, dtype=dict.fromkeys(COLUMNS, str))
    records = dict(zip(snakemake.params.methods, map(read_record, files.records), strict=True))
    write_table(trust(study, split, records), snakemake.output[0])
