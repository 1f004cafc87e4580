"""Draw the difference between each pair of methods that differ in pretraining or in the values that they are given."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.figures.scores import paired_differences
    from scgpt_bench.figures.style import save
    from scgpt_bench.files import read_table

    contrasts = read_table(snakemake.input[0])
    params = snakemake.params
    looks = {"opponent": "the twin", "without_pretraining": params.without_pretraining}
    for metric, path in zip(params.metrics, snakemake.output, strict=True):
        save(paired_differences(contrasts, metric, params.kinds, **looks), path)
