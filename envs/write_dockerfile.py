"""Write Dockerfile: an image with the environments of one study, for nodes without conda.

python envs/write_dockerfile.py config/<study>.yaml

`snakemake --containerize` writes most of it. It leaves out the scripts that complete environments, and knows nothing of
the driver that the CUDA build of PyTorch asks for.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CUDA = "12.9"  # as in README.md: where an image is built, there is no driver to ask


def completed(dockerfile, folder):
    """A Dockerfile of Snakemake with the scripts beside its environments, run in each."""
    lines = [re.sub(r"^(FROM .*)$", rf"\1\nENV CONDA_OVERRIDE_CUDA={CUDA}", dockerfile, count=1, flags=re.MULTILINE)]
    for name, prefix in re.findall(r"^COPY envs/(\w+)\.yaml (/conda-envs/\w+)/", dockerfile, re.MULTILINE):
        script = f"{name}.post-deploy.sh"
        if (folder / script).exists():
            lines.append(f"COPY envs/{script} {prefix}/post-deploy.sh")
            lines.append(f"RUN PATH={prefix}/bin:$PATH bash {prefix}/post-deploy.sh")
    return "\n".join(lines) + "\n"


def main(configfile):
    command = [sys.executable, "-m", "snakemake", "--containerize", "--configfile", configfile]
    made = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if not made.returncode:
        (ROOT / "Dockerfile").write_text(completed(made.stdout, ROOT / "envs"))
    return made.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
