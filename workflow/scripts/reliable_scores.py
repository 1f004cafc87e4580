"""Score once more without the perturbations whose measured response does not repeat, beside the scores with all."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import json
    from pathlib import Path

    from scgpt_bench.evaluation import scores
    from scgpt_bench.files import read_table, write_table

    metrics = scores.of_reliable(
        scores.gather(snakemake.input.metrics), [json.loads(Path(card).read_text()) for card in snakemake.input.cards]
    )
    kinds, options = snakemake.params.kinds, snakemake.params.options
    without = scores.scores(metrics, kinds, **options), scores.verdicts(metrics, kinds, **options)
    all_of_them = read_table(snakemake.input.scores), read_table(snakemake.input.verdicts)
    write_table(scores.with_and_without(*all_of_them, *without), snakemake.output[0])
