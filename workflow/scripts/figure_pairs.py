"""Draw methods against the best simple method, and against their twins without pretraining, a dot a condition."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.evaluation.scores import gather
    from scgpt_bench.figures.scores import closest_pairs, one_against_another
    from scgpt_bench.figures.style import save
    from scgpt_bench.files import read_table

    dataset, params, output = snakemake.wildcards.dataset, snakemake.params, snakemake.output
    metrics = gather(snakemake.input.metrics)
    metrics = metrics[metrics["metric"] == params.metric]
    verdicts = read_table(snakemake.input.verdicts)
    verdicts = verdicts[verdicts["dataset"] == dataset]
    for number, (question, splits) in enumerate(params.questions.items()):
        here = metrics[metrics["split"].isin(splits)]
        title = f"{dataset}, {question}: {params.metric}"
        pairs = closest_pairs(verdicts[verdicts["split"] == question], params.metric, params.scgpt)
        save(one_against_another(here, params.metric, pairs, title, params.kinds), output.simple[number])
        if output.get("pretraining"):
            twins = one_against_another(here, params.metric, params.pairs, title, params.kinds)
            save(twins, output.pretraining[number])
