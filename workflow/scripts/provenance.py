"""Write down what it takes to repeat the run."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import yaml

    from scgpt_bench import provenance
    from scgpt_bench.files import atomic_write, write_json

    configuration = snakemake.params.configuration
    files = snakemake.input
    document = provenance.describe(configuration, files.own_files, files.inputs, files.results, files.scgpt)
    with atomic_write(snakemake.output.configuration) as partial:
        partial.write_text(yaml.safe_dump(configuration, sort_keys=False))
    write_json(document, snakemake.output.provenance)
