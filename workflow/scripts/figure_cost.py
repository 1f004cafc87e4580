"""Draw what each rule cost in time and memory."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import json
    from pathlib import Path

    import pandas as pd

    from scgpt_bench.figures.cost import cost_bars
    from scgpt_bench.figures.style import save

    cost = pd.DataFrame(json.loads(Path(snakemake.input[0]).read_text())["cost"])
    save(cost_bars(cost, "Cost of the run"), snakemake.output[0])
