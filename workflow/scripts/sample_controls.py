"""Draw the control cells that every method starts from."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    from scgpt_bench.data import controls
    from scgpt_bench.data.conditions import listed
    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.files import read_table

    cells = open_h5ad(snakemake.input.cells)
    direction_of = None
    if snakemake.input.asked:
        asked = read_table(snakemake.input.asked)
        asked = asked[asked["predicted"] == "yes"]  # a condition may be in further lines, which are not predicted
        direction_of = dict(zip(listed(asked), asked["direction"], strict=True))
    draw = controls.draw_controls(
        cells.obs,
        read_table(snakemake.input.split),
        per_perturbation=snakemake.params.options["cells_per_perturbation"],
        seed=snakemake.params.options["seed"],
        dataset=snakemake.params.series,
        split_name=snakemake.params.split,
        direction_of=direction_of,
    )
    controls.write_control_cells(cells, draw, snakemake.output[0])
