"""Put what is known of every test condition, and how every method does on it, in one table."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import numpy as np

    from scgpt_bench.data.conditions import CONTEXT, contexts_of, labels_of
    from scgpt_bench.evaluation.data_card import reliability_of
    from scgpt_bench.evaluation.pseudobulk import select_tested
    from scgpt_bench.evaluation.scores import gather
    from scgpt_bench.files import read_h5ad, read_json, write_table

    metrics = gather(snakemake.input.metrics)
    values = metrics[metrics["metric"] == snakemake.params.metric]
    truth = select_tested(read_h5ad(snakemake.input.truth))
    shown = truth.obs[["perturbation", "context"] if contexts_of(truth.obs) != [CONTEXT] else ["perturbation"]]
    shown = shown.assign(
        measured_cells=truth.obs["n_cells"],
        measured_change=np.linalg.norm(truth.X - truth.layers["reference_truth"], axis=1),
        reliability=reliability_of(read_json(snakemake.input.card, "a data card")),
    )
    scores = values.assign(condition=labels_of(values)).pivot_table(
        index="condition", columns="method", values="value", aggfunc="mean"
    )
    write_table(shown.join(scores[values["method"].unique()]), snakemake.output[0])
