"""Say what is understood of a row of the data-set table, in seconds: ``make check-data dataset=NAME``.

Or ``python -m scgpt_bench.check NAME`` in the folder of the run. Exit status: 0 when the row and its file are
understood, 1 when something in them is not, 2 when the command is not.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from scgpt_bench import configuration
from scgpt_bench.data import catalogue, download
from scgpt_bench.data.catalogue import GENERATED, Dataset
from scgpt_bench.errors import InputError, name_in_errors
from scgpt_bench.shipped import own_or_shipped

if TYPE_CHECKING:
    import anndata

DEMO = "config/config.yaml"  # the options of generated data sets, where no configuration is named
TEMPLATE = ("config/my_screen.yaml", "my_screen")  # of a new study, and the data set in it
TEMPLATE_OF_CONTROLS = ("config/unmeasured.yaml", "my_cells")
TABLE = "config/datasets.tsv"  # named by both
PLAN = "make plan configfile="
RUN = ".venv/bin/snakemake --profile profiles/local --configfile"


class _Parser(argparse.ArgumentParser):
    """Ends a wrong command with one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; expected make check-data dataset=NAME\n")


def main(arguments: list[str] | None = None) -> int:
    """Print what is understood of a data set; the exit status."""
    parser = _Parser(prog="python -m scgpt_bench.check", description=__doc__.split("\n\n")[0])
    parser.add_argument("name", nargs="?", default="", help="of a row of the data-set table")
    parser.add_argument("--datasets", metavar="TABLE", help="the data-set table, unless the configuration names it")
    parser.add_argument("--configfile", help="configuration to take options from (default: that of the next step)")
    parser.add_argument("--mirror", action="append", default=[], help="a folder that is searched before a download")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # where a download came from
    try:
        print(_answer(given.name.strip(), given.datasets, given.configfile, given.mirror), end="")
    except InputError as error:
        _say(f"error: {error}")
        return 1
    except OSError as error:  # a full disk, a folder that may not be written to
        _say(f"error: {error}")
        return 1
    return 0


def _answer(name: str, table: str | None, configfile: str | None, mirrors: list[str]) -> str:
    dataset, run, configfile, options = _row_and_options(name, table, configfile)
    config = run.config
    if dataset.parts:
        return _answer_joined(dataset, run) + f"\nNext:\n{_next_step(dataset, config, configfile, table)}\n"
    path, source = _file(dataset, [*mirrors, *config["mirrors"]])
    # Only now, since they take a second: a wrong name is answered at once.
    from scgpt_bench.data import readers
    from scgpt_bench.description import describe

    guide_calling = {key: config["harmonize"][key] for key in ("minimum_guide_umis", "minimum_guide_share")}
    # Those of a template are another study's.
    names = config["checkpoints"] if configfile else ()
    results = f"results/{config['study']}"
    checkpoints = {name: configuration.file_of_checkpoint(run, name, "vocab.json", results) for name in names}
    with name_in_errors(path or source, source):
        adata = _generated(dataset, config) if path is None else readers.read(path, dataset, **guide_calling)
        text = describe(adata, dataset, config, source=source, options=options, checkpoints=checkpoints)
    return text + f"\nNext:\n{_next_step(dataset, config, configfile, table)}\n"


def _answer_joined(dataset: Dataset, run: configuration.ConfiguredRun) -> str:
    """Describe what the parts that are here have in common; others are not fetched, since there may be many."""
    from scgpt_bench.data import readers
    from scgpt_bench.data.annotations import annotate
    from scgpt_bench.data.findings import Findings
    from scgpt_bench.description import describe_joined

    guide_calling = {key: run.config["harmonize"][key] for key in ("minimum_guide_umis", "minimum_guide_share")}
    here = {}
    for part in map(run.datasets.__getitem__, dataset.parts):
        generated = part.address == GENERATED
        if not generated and not part.is_local and not Path(download.stored_file(part)).is_file():
            continue
        path, source = _file(part, [])
        with name_in_errors(path or source, source):
            adata = _generated(part, run.config) if path is None else readers.read(path, part, **guide_calling)
            here[part.name] = annotate(adata, part, Findings(source))
    return describe_joined(dataset, here)


def _row_and_options(
    name: str, own_table: str | None, configfile: str | None
) -> tuple[Dataset, configuration.ConfiguredRun, str | None, str]:
    """Find the row, the run with its options, their configuration (None: only the template's), and that in words."""
    given = configuration.read(configfile) if configfile else {}
    table = own_table or configuration.table_path(given, "dataset_table")
    rows = catalogue.read_datasets(table)
    if name not in rows:
        near = difflib.get_close_matches(name, rows, n=5, cutoff=0.5) or list(rows)
        expected = f"dataset=NAME with the name of a row: {', '.join(near[:10])}{', ...' if len(near) > 10 else ''}"
        raise InputError(table, "column 'name'", repr(name) if name else "no name to look for", expected)
    dataset = rows[name]
    if not configfile:
        configfile = DEMO if dataset.address == GENERATED else _own_configuration(dataset)
        if dataset.address == GENERATED or Path(configfile).is_file():
            given = configuration.read(own_or_shipped(configfile))
        else:
            template = own_or_shipped(_template(dataset)[0])
            given, configfile = configuration.read(template, _renamed(dataset, own_table)), None
    source = configfile or _template(dataset)[0]
    run = configuration.validate({**given, "dataset_table": table}, source)
    if dataset.address == GENERATED and name not in run.config["generated"]:
        raise InputError(source, "generated", f"no options for {name!r}", "an entry for it")
    return dataset, run, configfile, f"of {source}" + ("" if configfile else ", which the next step copies")


def _template(dataset: Dataset) -> tuple[str, str]:
    """Return the configuration that is copied for a data set, and what its data set is called there."""
    return TEMPLATE if dataset.perturbation_column is not None else TEMPLATE_OF_CONTROLS


def _renamed(dataset: Dataset, own_table: str | None) -> dict[str, str]:
    """Return the texts of the template that become others, in this order; a study's name has fewer characters."""
    name, study = dataset.name, re.sub("[^a-z0-9_-]", "-", dataset.name.lower())
    renamed = {_template(dataset)[1]: name, f"study: {name}": f"study: {study}", TABLE: own_table or TABLE}
    return {old: new for old, new in renamed.items() if old != new}


def _own_configuration(dataset: Dataset) -> str:
    """Name the configuration that the next step makes for a data set."""
    template, its_dataset = _template(dataset)
    return template if dataset.name == its_dataset else f"config/{dataset.name}.yaml"


def _file(dataset: Dataset, mirrors: list[str]) -> tuple[Path | None, str]:
    """Find the file to read, and its name in errors; no file for cells that have to be generated.

    A local file is read where it is. A download goes where a run looks for it.
    """
    if dataset.is_local:
        path = Path(dataset.address)
        if not path.exists():
            raise InputError(path, "file", "no such file", "the data set's local path, or a URL")
        if path.is_file():
            download.verify(path, dataset)
        return path, dataset.name_of(path)
    if dataset.address == GENERATED:
        return None, "generated just now, and not kept"
    path = Path(download.stored_file(dataset))
    if path.is_file():
        download.verify(path, dataset)
    else:
        _say(f"Fetching {dataset.address} ({_size(dataset.bytes)}) to {path} ...")
        checks: dict[str, Any] = {"md5": dataset.md5, "size": dataset.bytes, "form": dataset.format}
        download.fetch(dataset.address, dataset.sha256, path, mirrors=mirrors, **checks)
        _say(f"Fetched {_size(path.stat().st_size)}.")
    return path, dataset.name_of(path)


def _generated(dataset: Dataset, config: dict[str, Any]) -> anndata.AnnData:
    from scgpt_bench.data import planted

    _say(f"Generating {dataset.name}, which takes seconds ...")
    return planted.generate({**config["generated"][dataset.name], "target_sum": dataset.target_sum}).cells


def _size(number: int | None) -> str:
    return "size not stated" if number is None else f"{number / 1e6:,.1f} MB"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _next_step(dataset: Dataset, config: dict[str, Any], configfile: str | None, own_table: str | None) -> str:
    """Return the next commands, or what comes before them."""
    if configfile == DEMO and dataset.name in config["datasets"]:
        return "make demo"
    own = configfile or _own_configuration(dataset)
    first = []
    if configfile:
        if dataset.name not in config["datasets"]:
            first += [f"put {dataset.name} under datasets in {own}"]
        if own_table and configuration.read(own_or_shipped(own)).get("dataset_table", TABLE) != own_table:
            first += [f"put dataset_table: {own_table} in {own}"]
    else:
        script = "; ".join(f"s|{old}|{new}|" for old, new in _renamed(dataset, own_table).items())
        first += [f"sed '{script}' {_template(dataset)[0]} > {own}", f"look through {own}"]
    return "\n".join([*first, f"{PLAN}{own}", f"{RUN} {own}"])


if __name__ == "__main__":
    sys.exit(main())
