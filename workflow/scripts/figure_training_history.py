"""Draw the training history of a method on a data set."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.figures.model import training_history
    from scgpt_bench.figures.style import save
    from scgpt_bench.files import read_json, read_table

    files, trainings = snakemake.input, snakemake.params.trainings
    histories = dict(zip(trainings, map(read_table, files.histories), strict=True))
    reports = [read_json(path, "report of a training") for path in files.reports]
    kept = {name: report["selected_epoch"] for name, report in zip(trainings, reports, strict=True)}
    title = "{method} on {dataset}".format(**snakemake.wildcards)
    save(training_history(histories, title, kept), snakemake.output[0])
