"""Put what is known of every test perturbation, and how every method does on it, in one table."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import numpy as np

    from scgpt_bench.evaluation.data_card import reliability_of
    from scgpt_bench.evaluation.scores import gather
    from scgpt_bench.files import read_h5ad, read_json, write_table

    metrics = gather(snakemake.input.metrics)
    values = metrics[metrics["metric"] == snakemake.params.metric]
    truth = read_h5ad(snakemake.input.truth)
    table = values.pivot_table(index="perturbation", columns="method", values="value", aggfunc="mean")
    table = table.reindex(index=truth.obs_names, columns=values["method"].unique())
    table.insert(0, "measured_cells", truth.obs["n_cells"])
    table.insert(1, "measured_change", np.linalg.norm(truth.X - truth.layers["control"], axis=1))
    table.insert(2, "reliability", reliability_of(read_json(snakemake.input.card, "a data card")))
    write_table(table.rename_axis("perturbation").reset_index(), snakemake.output[0])
