"""Say what is understood of a drop, on the terminal."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]) as say:
    from scgpt_bench.data import readers
    from scgpt_bench.data.catalogue import Dataset
    from scgpt_bench.data.check import check
    from scgpt_bench.files import whole

    dataset, options = Dataset(**snakemake.params.dataset), snakemake.params.options
    guide_calling = {key: options[key] for key in ("minimum_guide_umis", "minimum_guide_share")}
    text = check(
        readers.read(snakemake.input[0], dataset, **guide_calling),
        dataset,
        minimum_cells=options["minimum_cells"],
        vocabularies=snakemake.params.vocabularies,
        source=snakemake.input[0],
    )
    with whole(snakemake.output[0]) as partial:
        partial.write_text(text)
    say(f"\n{text}\n")
