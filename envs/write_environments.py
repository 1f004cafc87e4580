"""Write the environments that rules name, and the scripts that complete them, from envs/environments.toml.

python envs/write_environments.py          rewrites them
python envs/write_environments.py --check  exits 1 when one of them is not up to date
"""

import sys
import textwrap
import tomllib
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCE = "environments.toml"
WRITTEN = "Written from environments.toml by write_environments.py: edit that, not this."
POST_DEPLOY = "#!/usr/bin/env bash\nset -euo pipefail\npython -m pip install --no-deps {}\n"


def files(table):
    """Each file by its name, and its text."""
    for name, environment in table["environments"].items():
        variants = {name: environment}
        if "gpu_only" in environment:
            packages = [*environment["conda_forge"], *environment["gpu_only"]]
            variants[name] = {**environment, "conda_forge": packages, "build": {"pytorch": "pytorch-gpu"}}
            about = f"{name}.yaml for jobs without a GPU: conda can make it where there is no NVIDIA driver."
            variants[f"{name}_cpu"] = {**environment, "about": about, "build": {"pytorch": "pytorch-cpu"}}
        for variant, content in variants.items():
            yield f"{variant}.yaml", conda_file(variant, content, table)
            if packages := content.get("without_dependencies"):
                pinned = " ".join(f"{package}=={table['pypi'][package]}" for package in packages)
                yield f"{variant}.post-deploy.sh", POST_DEPLOY.format(pinned)


def conda_file(name, environment, table):
    versions = {**table["conda_forge"], **environment.get("other_versions", {})}
    build = environment.get("build", {})
    common = table["common"]
    packages = [*common, *sorted({*environment["conda_forge"]} - {*common})]
    entries = [f"{build.get(package, package)}={versions[package]}" for package in packages]
    about = [environment["about"]]
    if later := environment.get("without_dependencies"):
        about.append(f"{', '.join(later)} comes through {name}.post-deploy.sh.")
    from_pypi = environment.get("pypi", [])
    if later or from_pypi:
        entries.append("pip")
    lines = [*textwrap.wrap(" ".join(about), 118), WRITTEN]
    lines = [*(f"# {line}" for line in lines), "channels:", "  - conda-forge", "  - nodefaults", "dependencies:"]
    lines += [f"  - {entry}" for entry in entries]
    if from_pypi:
        lines += ["  - pip:", *(f"      - {package}=={table['pypi'][package]}" for package in from_pypi)]
    return "\n".join(lines) + "\n"


def main(arguments):
    written = dict(files(tomllib.loads((FOLDER / SOURCE).read_text())))
    there = {path.name for pattern in ("*.yaml", "*.post-deploy.sh") for path in FOLDER.glob(pattern)}
    stale = [name for name, text in written.items() if name not in there or (FOLDER / name).read_text() != text]
    if arguments == ["--check"]:
        for name in [*stale, *sorted(there - written.keys())]:
            print(f"envs/{name}: differs from envs/{SOURCE}; run python envs/write_environments.py")
        return int(bool(stale or there - written.keys()))
    for name in stale:
        (FOLDER / name).write_text(written[name])
    for name in there - written.keys():
        (FOLDER / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
