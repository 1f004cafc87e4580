"""Run a method that is a script of its own on the cells that it may learn from."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import json
    import subprocess
    import sys
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from scgpt_bench.data.on_disk import open_h5ad
    from scgpt_bench.data.training_cells import write_without_test_cells
    from scgpt_bench.errors import InputError
    from scgpt_bench.files import atomic_write, read_table

    with TemporaryDirectory() as folder, atomic_write(snakemake.output[0]) as output:
        training = Path(folder) / "training.h5ad"
        cells = open_h5ad(snakemake.input.cells, layers=["counts"], uns=["harmonized"])
        write_without_test_cells(cells, read_table(snakemake.input.split), training)
        command = [snakemake.params.interpreter or sys.executable, snakemake.input.script, "--training", training]
        command += ["--split", snakemake.input.split, "--controls", snakemake.input.controls]
        command += ["--options", json.dumps(snakemake.params.options), "--seed", snakemake.wildcards.seed]
        status = subprocess.run([*map(str, command), "--output", str(output)], check=False).returncode
        if status or not output.exists():
            found = f"exit status {status}" if status else "no file at --output"
            raise InputError(snakemake.input.script, f"log {snakemake.log[0]}", found, "predictions in an h5ad")
