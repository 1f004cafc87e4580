"""Score every method at every number of perturbations that it learned from, and find where it starts to pay."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.evaluation import control_blocks, learning_curves, scores
    from scgpt_bench.files import write_table

    study = scores.Study(
        metrics=scores.with_asked(scores.gather(snakemake.input.metrics), snakemake.input.records),
        control_blocks=control_blocks.gather(snakemake.input.control_blocks),
        references=scores.gather_by_split(snakemake.input.references),
        splits=scores.gather_by_split(snakemake.input.splits),
        **snakemake.params.study,
    )
    curves = learning_curves.learning_curves(study, snakemake.params.subsets)
    write_table(curves, snakemake.output.curves)
    write_table(learning_curves.crossings(curves), snakemake.output.crossings)
