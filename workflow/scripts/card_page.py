"""Show the data card: text, table and two figures of the report."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from pathlib import Path

    import pandas as pd

    from scgpt_bench.evaluation.data_card import COLUMNS, leakage_notes, split_notes
    from scgpt_bench.figures import data_card
    from scgpt_bench.figures.style import save
    from scgpt_bench.files import atomic_write, read_json, read_table, write_table

    card, output = read_json(snakemake.input.card, "a data card"), snakemake.output
    splits = {Path(path).parent.name: read_table(path) for path in snakemake.input.splits}
    of_splits = split_notes(card, splits, snakemake.params.minimum_cells)
    with atomic_write(output.text) as partial:
        partial.write_text(data_card.card_text(card, leakage_notes(splits), of_splits))
    write_table(data_card.card_table(card), output.table)
    table, title = pd.DataFrame(card["conditions"], columns=COLUMNS), card["dataset"]
    save(data_card.reliability(table, card["minimum_reliability"], title), output.reliability)
    save(data_card.knock_down(table, snakemake.params.perturbation_kind, title), output.knock_down)
