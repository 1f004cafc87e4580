"""Say what is predicted of a list of perturbations, and let methods learn from all that was measured."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data import unmeasured
    from scgpt_bench.data.catalogue import DIRECTION_OF_KIND
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.files import write_table

    cells, source = open_h5ad(snakemake.input.cells), snakemake.input.list
    wanted = unmeasured.read_list(source) if snakemake.params.is_list else unmeasured.targets_of(source)
    direction = unmeasured.usual_direction(cells.obs, DIRECTION_OF_KIND.get(snakemake.params.perturbation_kind))
    contexts = snakemake.params.contexts
    asked = unmeasured.asked(wanted, cells.obs, cells.var, contexts=contexts, direction=direction, source=source)
    write_table(unmeasured.split(cells.obs, asked), snakemake.output.split)
    write_table(asked, snakemake.output.asked)
