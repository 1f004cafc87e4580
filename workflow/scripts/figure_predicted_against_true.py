"""Draw predicted against measured change: gene by gene for the largest effects, and what is left over all of them."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import numpy as np

    from scgpt_bench.figures.responses import predicted_against_true, residual_heatmap
    from scgpt_bench.figures.style import method_style, save
    from scgpt_bench.files import read_h5ad

    wildcards = snakemake.wildcards
    truth = read_h5ad(snakemake.input.truth)
    deltas = truth.X - truth.layers["control"]
    largest = np.argsort(-np.linalg.norm(deltas, axis=1), kind="stable")[: snakemake.params.number]
    chosen = truth[largest]
    for (method, kind), pseudobulk, scatter, residual in zip(
        snakemake.params.kinds.items(),
        snakemake.input.pseudobulks,
        snakemake.output.scatter,
        snakemake.output.residual,
        strict=True,
    ):
        title = f"{wildcards.dataset}, {wildcards.split}: {method}"
        predicted = read_h5ad(pseudobulk)[truth.obs_names].X - truth.layers["control"]
        save(residual_heatmap(predicted, deltas, truth.obs_names, truth.var_names, title), residual)
        figure = predicted_against_true(
            predicted[largest],
            deltas[largest],
            chosen.obs_names,
            chosen.var_names,
            title=title,
            n_cells=chosen.obs["n_cells"].to_list(),
            colour=method_style(method, kind).colour,
        )
        save(figure, scatter)
