"""Write the report: one page of the run's figures, tables and captions."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from pathlib import Path

    from scgpt_bench.files import read_json
    from scgpt_bench.report import page

    # Beside the library: of a script on a Git host, Snakemake knows the address alone.
    captions = Path(page.__file__).parents[3] / "report"
    items = [
        page.Item(
            Path(entry["path"]),
            entry["category"],
            entry["subcategory"],
            entry["labels"],
            page.caption((captions / entry["caption"]).read_text(), entry["wildcards"], snakemake.config),
        )
        for entry in snakemake.params.entries
    ]
    start, answers = Path(snakemake.input.start).read_text(), read_json(snakemake.input.answers, "answers of the run")
    params = snakemake.params
    named = {name: params.get(name) for name in ("kinds", "pooled", "without_pretraining")}
    page.write(page.in_order(items), start, snakemake.output[0], answers=answers, **named)
