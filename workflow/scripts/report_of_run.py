"""Have Snakemake write the report of its own run; the target `results` is everything but the report."""

from scgpt_bench.job import logged

with logged(snakemake.log[0]):
    import os
    import subprocess
    import sys
    from pathlib import Path

    from scgpt_bench.files import atomic_write

    # This workflow and not the one that uses it as a module, whose configuration and names of rules are others.
    workflow = Path(snakemake.scriptdir).parent

    with atomic_write(snakemake.output[0]) as partial:
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(workflow / "Snakefile")]
        command += ["--configfile", snakemake.input.configuration]
        # Neither the profile of the run nor that of the user: nothing is executed here, and no lock is needed.
        command += ["--profile", "none", "--workflow-profile", "none", "--nolock", "results"]
        command += ["--reporter", "scgpt-bench", "--report-scgpt-bench-path", partial]
        # The reporter is found beside the library; in a conda environment Snakemake takes the variable away.
        search_path = [str(workflow / "lib"), *filter(None, [os.environ.get("PYTHONPATH")])]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(search_path)})
