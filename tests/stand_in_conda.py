"""What Snakemake asks of the command `conda`, answered with environments of PyPI packages in place of conda-forge's.

It makes an environment of nothing but what a YAML file of envs/ declares, in the declared versions, with uv: wheels are
unpacked once and hard-linked. `stand_in_isolation.py` goes into each, and refuses imports from outside of it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
LOCK = HERE.parent / "requirements.lock"
PYPI_NAME = {"matplotlib-base": "matplotlib"}
PYPI_NAME |= {"pytorch": "torch", "pytorch-cpu": "torch", "pytorch-gpu": "torch"}
# Left out: the interpreter is this one, zstd is a program of the machine, flash-attn needs a GPU to be built.
NOT_ON_PYPI = {"python", "zstd", "flash-attn"}
# conda-forge has no GPU build of the newest pytorch with flash-attn: tested with the newest, on CPU.
OTHER_VERSION = {"torch"}
ACTIVATE = 'export CONDA_PREFIX="$1" PATH="$1/bin:$PATH" PYTHONNOUSERSITE=1\n'


def requirements(path: Path) -> list[str]:
    """The packages of a conda YAML file as PyPI requirements."""
    wanted = []
    for entry in yaml.safe_load(path.read_text())["dependencies"]:
        for text in entry["pip"] if isinstance(entry, dict) else [entry]:
            name, _, version = text.replace("==", "=").partition("=")
            exactly = version if "==" in text else f"{version}.*"
            if name == "python" and version != f"{sys.version_info.major}.{sys.version_info.minor}":
                sys.exit(f"{path}: found python {version}; expected the version that the tests run on")
            if name not in NOT_ON_PYPI:
                name = PYPI_NAME.get(name, name)
                wanted.append(f"{name}=={exactly}" if version and name not in OTHER_VERSION else name)
    return wanted


def pip_sources() -> list[str]:
    """Where pip is configured to look for packages beside PyPI, as options of uv."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], stdout=subprocess.PIPE, text=True, check=True
    )
    options = ["--index-strategy", "unsafe-best-match"]
    for key, value in re.findall(r"(find-links|extra-index-url|index-url)='(.*)'", listed.stdout):
        for place in value.split():
            options += [f"--{key}", place]
    return options


def create(path: Path, prefix: Path) -> None:
    uv = shutil.which("uv", path=str(Path(sys.executable).parent))
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(prefix)], check=True)
    python = prefix / "bin" / "python"
    command = [uv, "pip", "install", "--quiet", "--python", str(python), "--constraint", str(LOCK)]
    subprocess.run([*command, *pip_sources(), *requirements(path)], check=True)
    packages = next((prefix / "lib").glob("python3*")) / "site-packages"
    shutil.copy(HERE / "stand_in_isolation.py", packages)
    (packages / "stand_in_isolation.pth").write_text("import stand_in_isolation\n")


def main(arguments: list[str]) -> None:
    prefix = Path(os.environ["STAND_IN_CONDA"])
    if arguments == ["--version"]:
        print("conda 24.7.1")
    elif arguments == ["info", "--json"]:
        print(json.dumps({"conda_prefix": str(prefix), "platform": "linux-64"}))
    elif arguments[:2] == ["config", "--get"]:
        print(json.dumps({"get": {"channel_priority": "strict"}}))
    elif arguments[:2] == ["env", "create"]:
        options = dict(pairwise(arguments))
        create(Path(options["--file"]), Path(options["--prefix"]))
    elif arguments[:1] != ["clean"]:  # hard-linked wheels stay for the next environment
        sys.exit(f"not among what this stands in for: conda {' '.join(arguments)}")


def install(prefix: Path) -> dict[str, str]:
    """Write the commands below ``prefix``; returns the environment variables that make Snakemake use them."""
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / "activate").write_text(ACTIVATE)
    command = prefix / "bin" / "conda"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} "$@"\n')
    command.chmod(0o755)
    variables = {"STAND_IN_CONDA": str(prefix), "UV_CACHE_DIR": str(prefix / "wheels"), "UV_LINK_MODE": "hardlink"}
    # conda compiles all that it installs; here the first job compiles what it imports, in a fraction of that time.
    variables["PYTHONDONTWRITEBYTECODE"] = ""
    if "PIP_CERT" in os.environ:
        variables["SSL_CERT_FILE"] = os.environ["PIP_CERT"]
    return {**variables, "PATH": f"{prefix / 'bin'}:{os.environ['PATH']}"}


if __name__ == "__main__":
    main(sys.argv[1:])
