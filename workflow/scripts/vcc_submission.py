"""Make the file that the Virtual Cell Challenge takes, and check it against the published limits."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.evaluation import submission
    from scgpt_bench.files import read_table

    options = snakemake.params.submission
    prediction = {
        "cells": open_h5ad(snakemake.input.cells, layers=["counts"]),
        "predictions": open_h5ad(snakemake.input.predictions),
        "asked": read_table(snakemake.input.asked),
        "genes": snakemake.input.genes,
        "path": snakemake.output[0],
        "limits": submission.limits_of(options["challenge"], options["limits"]),
    }
    if options["challenge"] == 2025:
        submission.write_2025(**prediction)
    else:
        files = zip(snakemake.params.parts, snakemake.input.parts, strict=True)
        parts = {part: open_h5ad(file, layers=["counts"]) for part, file in files}
        submission.write_2026(**prediction, contexts=options["contexts"], parts=parts)
