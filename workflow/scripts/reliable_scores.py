"""Score once more without the perturbations whose measured response does not repeat, beside the scores with all."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import json
    from pathlib import Path

    from scgpt_bench.evaluation import scores
    from scgpt_bench.files import read_table, write_table

    whole = scores.gather(snakemake.input.metrics)
    metrics = scores.of_reliable(whole, [json.loads(Path(card).read_text()) for card in snakemake.input.cards])
    given = {"kinds": snakemake.params.kinds, "whole": whole, **snakemake.params.options}
    without = scores.scores(metrics, **given), scores.verdicts(metrics, **given)
    all_of_them = read_table(snakemake.input.scores), read_table(snakemake.input.verdicts)
    write_table(scores.with_and_without(*all_of_them, *without), snakemake.output[0])
