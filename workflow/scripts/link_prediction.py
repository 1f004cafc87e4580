"""Let a prediction be found by the name of its list: the same file under a second name."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.files import link_or_copy

    for name in ("predictions", "method"):
        link_or_copy(snakemake.input[name][0], snakemake.output[name])
