"""Score a prediction with the scorer of the Virtual Cell Challenge 2025."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from pathlib import Path

    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.evaluation.official import answers, cell_eval, sides
    from scgpt_bench.files import read_table, write_json, write_table
    from scgpt_bench.method_record import read_record
    from scgpt_bench.predictions import read_predictions

    cells, split = open_h5ad(snakemake.input.cells, layers=["counts"]), read_table(snakemake.input.split)
    predictions = read_predictions(snakemake.input.predictions, cells.var_names, split)
    halved = read_record(snakemake.input.method).halved
    of_contexts = {}
    for number, (context, own) in enumerate(sides.contexts_apart(split)):
        reference = Path(snakemake.input.reference) / str(number)
        compared = sides.log_sides(cells, predictions, own, halved)
        of_counts = None
        if "counts" in cells.layers:
            of_counts = sides.log_sides_of_counts(cells, predictions, own, halved, compared.measured)
        of_contexts[context] = cell_eval.evaluate(compared, reference, snakemake.threads, of_counts)
    table, summary = answers.join(of_contexts)
    write_table(table, snakemake.output.table)
    write_json(summary, snakemake.output.summary)
