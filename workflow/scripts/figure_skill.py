"""Draw the skill of every method by every metric on one data set; one figure per question."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.figures.scores import skill_heatmap
    from scgpt_bench.figures.style import save
    from scgpt_bench.files import read_table

    dataset, params = snakemake.wildcards.dataset, snakemake.params
    tables = [read_table(snakemake.input[name]) for name in ("scores", "verdicts")]
    of_dataset = [table[table["dataset"] == dataset] for table in tables]
    for split, path in zip(params.questions, snakemake.output, strict=True):
        scores, verdicts = (table[table["split"] == split] for table in of_dataset)
        title = f"{dataset}, {split}: skill"
        save(skill_heatmap(scores, verdicts, params.kinds, title, params.without_pretraining), path)
