"""Draw predicted against measured change, gene by gene, for the perturbations with the largest effect."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import numpy as np

    from scgpt_bench.figures.responses import predicted_against_true
    from scgpt_bench.figures.style import method_style, save
    from scgpt_bench.files import read_h5ad

    wildcards = snakemake.wildcards
    truth = read_h5ad(snakemake.input.truth)
    deltas = truth.X - truth.layers["control"]
    largest = np.argsort(-np.linalg.norm(deltas, axis=1), kind="stable")[: snakemake.params.number]
    chosen = truth[largest]
    for method, pseudobulk, path in zip(
        snakemake.params.methods, snakemake.input.pseudobulks, snakemake.output, strict=True
    ):
        predicted = read_h5ad(pseudobulk)[chosen.obs_names].X - chosen.layers["control"]
        figure = predicted_against_true(
            predicted,
            deltas[largest],
            chosen.obs_names,
            chosen.var_names,
            title=f"{wildcards.dataset}, {wildcards.split}: {method}",
            n_cells=chosen.obs["n_cells"].to_list(),
            colour=method_style(method).colour,
        )
        save(figure, path)
