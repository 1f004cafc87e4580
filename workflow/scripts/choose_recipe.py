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
    seconds = [read_table(path)["seconds"].iloc[-1] for path in snakemake.input.histories]
    winner, metric = search.choose(reports)
    rows = [
        {**dict(values), metric: reports[name][metric], "selected_epoch": reports[name]["selected_epoch"]}
        for name, values in candidates.items()
    ]
    chosen = ["yes" if name == winner else "" for name in candidates]
    write_table(pd.DataFrame(rows).assign(seconds=seconds, chosen=chosen), snakemake.output.table)
    write_json({"candidate": winner, "options": candidates[winner]}, snakemake.output.chosen)
