"""Score the run: means with intervals, a verdict for every method, contrasts; by class as well."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.evaluation import classes, contrasts, control_blocks, scores, verdicts
    from scgpt_bench.files import write_table

    pairs = snakemake.params.pairs
    study = scores.Study(
        metrics=scores.with_asked(scores.gather(snakemake.input.metrics), snakemake.input.records),
        control_blocks=control_blocks.gather(snakemake.input.control_blocks),
        references=scores.gather_by_split(snakemake.input.references),
        splits=scores.gather_by_split(snakemake.input.splits),
        **snakemake.params.study,
    )
    write_table(scores.scores(study), snakemake.output.scores)
    write_table(verdicts.verdicts(study), snakemake.output.verdicts)
    write_table(contrasts.contrasts(study, pairs), snakemake.output.contrasts)
    write_table(classes.scores_by_class(study), snakemake.output.by_class)
