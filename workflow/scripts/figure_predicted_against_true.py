"""Draw predicted against measured change: gene by gene for the largest effects, and what is left over all of them."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import numpy as np

    from scgpt_bench.figures.responses import predicted_against_true, residual_heatmap
    from scgpt_bench.figures.style import method_style, save
    from scgpt_bench.files import read_h5ad, read_table
    from scgpt_bench.predictions import method_of

    wildcards = snakemake.wildcards
    truth = read_h5ad(snakemake.input.truth)
    deltas = truth.X - truth.layers["control"]
    largest = np.argsort(-np.linalg.norm(deltas, axis=1), kind="stable")[: snakemake.params.number]
    chosen = truth[largest]
    no_change = max(float(np.square(deltas).mean()), 1e-12)  # mean squared error of predicting it
    for (method, kind), path, metrics, scatter, residual in zip(
        snakemake.params.kinds.items(),
        snakemake.input.pseudobulks,
        snakemake.input.metrics,
        snakemake.output.scatter,
        snakemake.output.residual,
        strict=True,
    ):
        title = f"{wildcards.dataset}, {wildcards.split}: {method}"
        pseudobulk = read_h5ad(path)[truth.obs_names]
        layer = method_of(pseudobulk).get("scored_against")
        true = (truth.layers[layer] if layer else truth.X) - truth.layers["control"]
        predicted = pseudobulk.X - truth.layers["control"]
        scores = read_table(metrics)
        left_over = scores.loc[scores["metric"] == "mse", "value"].mean() / no_change
        save(residual_heatmap(predicted, true, truth.obs_names, truth.var_names, title, left_over), residual)
        figure = predicted_against_true(
            predicted[largest],
            true[largest],
            chosen.obs_names,
            chosen.var_names,
            title=title,
            scores=scores[scores["metric"] == "pearson_delta"],
            n_cells=chosen.obs["n_cells"].to_list(),
            colour=method_style(method, kind).colour,
        )
        save(figure, scatter)
