"""Write an untrained checkpoint, seeded-random, in scGPT's own layout."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from pathlib import Path

    from scgpt_bench.scgpt import checkpoint, vocabulary

    options = snakemake.params.options
    arguments = {key: options[key] for key in ("embsize", "nlayers", "nheads", "d_hid")}
    folder = Path(snakemake.output[0]).parent
    checkpoint.initialize(folder, arguments, vocabulary.human_vocabulary(), options["seed"])
