"""Put what is known of every test condition in one table, and what its view shows, gene by gene, in one file."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from functools import partial

    import numpy as np

    from scgpt_bench.data.conditions import CONTEXT, contexts_of, labels_of
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.evaluation.data_card import reliability_of
    from scgpt_bench.evaluation.pseudobulk import select_tested
    from scgpt_bench.evaluation.scores import gather
    from scgpt_bench.files import read_h5ad, read_json, read_table, write_table
    from scgpt_bench.method_record import read_record
    from scgpt_bench.report import perturbations

    metrics = gather(snakemake.input.metrics)
    values = metrics[metrics["metric"] == snakemake.params.metric]
    truth = select_tested(read_h5ad(snakemake.input.truth))
    reliability = reliability_of(read_json(snakemake.input.card, "a data card"))
    shown = truth.obs[["perturbation", "context"] if contexts_of(truth.obs) != [CONTEXT] else ["perturbation"]]
    shown = shown.assign(
        measured_cells=truth.obs["n_cells"],
        measured_change=np.linalg.norm(truth.X - truth.layers["reference_truth"], axis=1),
        reliability=reliability,
    )
    scores = values.assign(condition=labels_of(values)).pivot_table(
        index="condition", columns="method", values="value", aggfunc="mean"
    )
    write_table(shown.join(scores[values["method"].unique()]), snakemake.output.table)

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
