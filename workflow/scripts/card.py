"""Measure how good a data set is, before any model."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.evaluation.data_card import data_card
    from scgpt_bench.files import write_json

    card = data_card(
        open_h5ad(snakemake.input[0], uns=["harmonized"]),
        dataset=snakemake.wildcards.dataset,
        perturbation_kind=snakemake.params.perturbation_kind,
        minimum_reliability=snakemake.params.minimum_reliability,
    )
    write_json(card, snakemake.output[0])
