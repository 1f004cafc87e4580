"""Put what is known of every test condition in one table, and what its view shows, gene by gene, in one file."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from functools import partial

    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.evaluation.data_card import reliability_of
    from scgpt_bench.evaluation.pseudobulk import select_tested
    from scgpt_bench.evaluation.scores import gather
    from scgpt_bench.files import read_h5ad, read_json, read_table, write_table
    from scgpt_bench.method_record import read_record
    from scgpt_bench.report import perturbations

    metrics = gather(snakemake.input.metrics)
    truth = select_tested(read_h5ad(snakemake.input.truth))
    reliability = reliability_of(read_json(snakemake.input.card, "a data card"))
    index = perturbations.index(truth, metrics[metrics["metric"] == snakemake.params.metric], reliability)
    write_table(index, snakemake.output.table)

    methods = {
        name: perturbations.Predicted(kind, read_record(record).halved, read_table(scored), partial(read_h5ad, path))
        for (name, kind), path, scored, record in zip(
            snakemake.params.kinds.items(),
            snakemake.input.pseudobulks,
            snakemake.input.first_metrics,
            snakemake.input.records,
            strict=True,
        )
    }
    cells, controls = (open_h5ad(path) for path in (snakemake.input.cells, snakemake.input.controls))
    perturbations.write(perturbations.view(truth, methods, cells, controls, reliability), snakemake.output.view)
