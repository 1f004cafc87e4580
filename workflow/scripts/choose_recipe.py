"""Choose the candidate recipe that scores best on the validation conditions, and list what each scored and took."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import pandas as pd

    from scgpt_bench.files import read_json, read_table, write_json, write_table
    from scgpt_bench.scgpt import search

    candidates = snakemake.params.candidates
    reports = {
        name: read_json(path, "a report") for name, path in zip(candidates, snakemake.input.reports, strict=True)
    }
    winner = search.choose(reports)
    rows = pd.DataFrame(search.table(candidates, reports, winner))
    seconds = [read_table(path)["seconds"].max() for path in snakemake.input.histories]
    write_table(rows.assign(seconds=seconds), snakemake.output.table)
    write_json({"candidate": winner, "options": candidates[winner]}, snakemake.output.chosen)
