"""Have Snakemake write the report of its own run; the target `results` is everything but the report."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import os
    import subprocess
    import sys
    from pathlib import Path

    import scgpt_bench
    from scgpt_bench.files import whole

    with whole(snakemake.output[0]) as partial:
        command = [sys.executable, "-m", "snakemake", "--snakefile", snakemake.params.snakefile]
        command += ["--configfile", snakemake.input.configuration]
        # Neither the profile of the run nor that of the user: nothing is executed here, and no lock is needed.
        command += ["--profile", "none", "--workflow-profile", "none", "--nolock", "results"]
        command += ["--reporter", "scgpt-bench", "--report-scgpt-bench-path", partial]
        # The reporter is found beside the library; in a conda environment Snakemake takes the variable away.
        library = Path(scgpt_bench.__file__).parents[1]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(library)})
