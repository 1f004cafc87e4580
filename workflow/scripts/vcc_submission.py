"""Make the file that the Virtual Cell Challenge takes, and check it against the published limits."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.evaluation import submission
    from scgpt_bench.evaluation.official.sides import log_sides
    from scgpt_bench.files import read_table
    from scgpt_bench.predictions import read_predictions

    options = snakemake.params.submission
    parts = {}
    for context, cells, predictions, split in zip(
        options["contexts"], snakemake.input.cells, snakemake.input.predictions, snakemake.input.splits, strict=True
    ):
        measured, table = open_h5ad(cells, layers=["counts"]), read_table(split)
        parts[context] = (measured, read_predictions(predictions, measured.var_names, table), table)
    genes, output = snakemake.input.genes, snakemake.output[0]
    if options["challenge"] == 2025:
        limits = submission.Limits2025(**options["limits"])
        (measured, predicted, table), *_ = parts.values()
        submission.write_2025(log_sides(measured, predicted, table).predicted, genes, output, limits)
    else:
        limits = submission.Limits2026(**options["limits"])
        submission.write_2026({context: part[:2] for context, part in parts.items()}, genes, output, limits)
