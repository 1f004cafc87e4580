"""Score once more without the perturbations whose measured response does not repeat, beside the scores with all."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.evaluation import control_blocks, scores, verdicts
    from scgpt_bench.files import read_json, read_table, write_table

    whole = scores.with_asked(scores.gather(snakemake.input.metrics), snakemake.input.records)
    study = scores.Study(
        metrics=scores.of_reliable(whole, [read_json(card, "a data card") for card in snakemake.input.cards]),
        control_blocks=control_blocks.gather(snakemake.input.control_blocks),
        references=scores.gather_by_split(snakemake.input.references),
        splits=scores.gather_by_split(snakemake.input.splits),
        **snakemake.params.study,
    )
    without = scores.scores(study, whole), verdicts.verdicts(study, whole)
    all_of_them = read_table(snakemake.input.scores), read_table(snakemake.input.verdicts)
    write_table(scores.with_and_without(*all_of_them, *without), snakemake.output[0])
