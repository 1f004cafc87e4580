"""Score every method at every number of perturbations that it learned from, and find where it starts to pay."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.evaluation import learning_curves, scores
    from scgpt_bench.files import write_table

    study = scores.read_study(dict(snakemake.input.items()), snakemake.params.study)
    curves = learning_curves.learning_curves(study, snakemake.params.subsets)
    write_table(curves, snakemake.output.curves)
    write_table(learning_curves.crossings(curves), snakemake.output.crossings)
