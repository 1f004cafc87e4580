"""Write down what every metric of this run means, and how often verdicts were wrong where the truth is known."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.evaluation.calibration import calibration
    from scgpt_bench.evaluation.ledger import ledger
    from scgpt_bench.files import read_table, write_table

    write_table(ledger(read_table(snakemake.input.scores)["metric"].unique()), snakemake.output.ledger)
    write_table(calibration(), snakemake.output.calibration)
