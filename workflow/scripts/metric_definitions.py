"""Write down what every metric of this run means, and how often verdicts were wrong where the truth is known."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.evaluation.calibration import calibration
    from scgpt_bench.evaluation.metric_definitions import metric_definitions
    from scgpt_bench.files import read_table, write_table

    write_table(metric_definitions(read_table(snakemake.input.scores)["metric"].unique()), snakemake.output.definitions)
    write_table(calibration(), snakemake.output.calibration)
