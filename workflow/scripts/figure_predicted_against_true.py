"""Draw predicted against measured change: gene by gene for the largest effects, and what is left over all of them."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import numpy as np

    from scgpt_bench.data.conditions import noun_of
    from scgpt_bench.evaluation.pseudobulk import select_tested
    from scgpt_bench.evaluation.scores import HEADLINE
    from scgpt_bench.figures.responses import changes, left_over, predicted_against_true, residual_heatmap
    from scgpt_bench.figures.style import method_style, save
    from scgpt_bench.files import read_h5ad, read_table
    from scgpt_bench.method_record import read_record

    wildcards = snakemake.wildcards
    truth = select_tested(read_h5ad(snakemake.input.truth))
    noun = noun_of(truth.obs)
    size = np.linalg.norm(truth.X - truth.layers["reference_truth"], axis=1)
    largest = np.argsort(-size, kind="stable")[: snakemake.params.number]
    chosen = truth[largest]
    for (method, kind), path, metrics, record, scatter, residual in zip(
        snakemake.params.kinds.items(),
        snakemake.input.pseudobulks,
        snakemake.input.metrics,
        snakemake.input.records,
        snakemake.output.scatter,
        snakemake.output.residual,
        strict=True,
    ):
        title = f"{wildcards.dataset}, {wildcards.split}: {method}"
        predicted, true = changes(read_h5ad(path), truth, read_record(record).halved)
        scores = read_table(metrics)
        share = left_over(scores, truth)
        save(residual_heatmap(predicted, true, truth.obs_names, truth.var_names, title, share, noun=noun), residual)
        figure = predicted_against_true(
            predicted[largest],
            true[largest],
            chosen.obs_names,
            chosen.var_names,
            title=title,
            scores=scores[scores["metric"] == HEADLINE],
            n_cells=chosen.obs["n_cells"].to_list(),
            colour=method_style(method, kind).colour,
        )
        save(figure, scatter)
