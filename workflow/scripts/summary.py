"""Write the start page of the report from the run's tables and from the methods' records."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import dataclasses
    from pathlib import Path

    from scgpt_bench.evaluation.classes import gather_classes
    from scgpt_bench.files import atomic_write, read_json, read_table, write_json
    from scgpt_bench.method_record import read_record
    from scgpt_bench.provenance import revision
    from scgpt_bench.report import summary
    from scgpt_bench.report.run import RecordedPrediction, Run

    predictions = []
    for path in map(Path, snakemake.input.records):
        dataset, split, method = path.parts[-5:-2]
        predictions.append(RecordedPrediction(dataset, split, method, read_record(path)))
    run = Run(
        scores=read_table(snakemake.input.scores),
        verdicts=read_table(snakemake.input.verdicts),
        contrasts=read_table(snakemake.input.contrasts),
        scores_by_class=read_table(snakemake.input.by_class),
        cost=read_table(snakemake.input.cost),
        classes=gather_classes(snakemake.input.splits),
        predictions=predictions,
        cards={Path(path).parent.name: read_json(path, "a data card") for path in snakemake.input.cards},
        **{key: snakemake.params[key] for key in ("kinds", "checkpoints", "generated", "published", "pooled", "lists")},
        **{key: snakemake.params[key] for key in ("margin", "series")},
    )
    if snakemake.input.crossings:
        run = dataclasses.replace(run, crossings=read_table(snakemake.input.crossings))
    write_json(summary.answers(run), snakemake.output.answers)
    with atomic_write(snakemake.output.start) as partial:
        partial.write_text(summary.page(run, revision()), encoding="utf-8")
