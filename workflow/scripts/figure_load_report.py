"""Draw how many parameters of each scGPT method come from the checkpoint, are random, or are unused."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import pandas as pd

    from scgpt_bench.figures.model import load_report
    from scgpt_bench.figures.style import save
    from scgpt_bench.files import read_h5ad
    from scgpt_bench.predictions import method_of

    rows = []
    for method, path in zip(snakemake.params.methods, snakemake.input.pseudobulks, strict=True):
        report = method_of(read_h5ad(path))["load_report"]
        # Weights from a checkpoint that was never trained are random weights.
        from_checkpoint = "pretrained" if report["checkpoint_pretrained"] else "random"
        for status, source in ((from_checkpoint, "pretrained"), ("random", "random"), ("unused", "unused")):
            rows.append({"method": method, "status": status, "n_parameters": report[f"n_{source}"]})
    title = f"{snakemake.wildcards.dataset}, {snakemake.wildcards.split}"
    save(load_report(pd.DataFrame(rows), title), snakemake.output[0])
