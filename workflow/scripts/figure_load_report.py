"""Draw how many parameters of each scGPT method come from the checkpoint, are random, or are unused."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import pandas as pd

    from scgpt_bench.figures.model import load_report
    from scgpt_bench.figures.style import save
    from scgpt_bench.method_record import read_record

    rows = []
    for method, path in zip(snakemake.params.methods, snakemake.input.records, strict=True):
        report = read_record(path).scgpt.load_report
        # Weights from a checkpoint that was never trained are random weights.
        from_checkpoint = "pretrained" if report.checkpoint_pretrained else "random"
        parameters = ((from_checkpoint, report.n_pretrained), ("random", report.n_random), ("unused", report.n_unused))
        rows += [{"method": method, "status": status, "n_parameters": number} for status, number in parameters]
    title = f"{snakemake.wildcards.dataset}, {snakemake.wildcards.split}"
    save(load_report(pd.DataFrame(rows), title), snakemake.output[0])
