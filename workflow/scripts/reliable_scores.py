"""Score once more without the perturbations whose measured response does not repeat, beside the scores with all."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.evaluation import scores, verdicts
    from scgpt_bench.files import read_json, read_table, write_table

    study = scores.read_study(dict(snakemake.input.items()), snakemake.params.study)
    cards = [read_json(card, "a data card") for card in snakemake.input.cards]
    reliable, whole = study.of(scores.of_reliable(study.metrics, cards)), study.metrics
    without = scores.scores(reliable, whole), verdicts.verdicts(reliable, whole)
    all_of_them = read_table(snakemake.input.scores), read_table(snakemake.input.verdicts)
    write_table(scores.with_and_without(*all_of_them, *without), snakemake.output[0])
