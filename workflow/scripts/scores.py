"""Score the run: means with intervals, a verdict for every method, contrasts; by class as well."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.evaluation import classes, contrasts, scores, verdicts
    from scgpt_bench.files import write_table

    pairs = snakemake.params.pairs
    study = scores.read_study(dict(snakemake.input.items()), snakemake.params.study)
    write_table(scores.scores(study), snakemake.output.scores)
    write_table(verdicts.verdicts(study), snakemake.output.verdicts)
    write_table(contrasts.contrasts(study, pairs), snakemake.output.contrasts)
    write_table(classes.scores_by_class(study), snakemake.output.by_class)
