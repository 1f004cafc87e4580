"""Validate a run's configuration before anything else happens, and fill in the defaults.

:mod:`options` is the only place where keys, types and defaults are declared; the registry of methods says which of them
a kind of methods takes.
References between entries (a method's checkpoint, a data set's row) are checked here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scgpt_bench.data import catalogue
from scgpt_bench.data.split_names import planned, pooled, slug
from scgpt_bench.errors import InputError
from scgpt_bench.methods.registry import KINDS, ORACLE, group_of
from scgpt_bench.options import PUBLISHED_LIMITS, SOURCES, Study, checked
from scgpt_bench.scgpt import checkpoint_folder
from scgpt_bench.scgpt.search import candidates
from scgpt_bench.shipped import own_or_shipped

FOLDERS = ("generated", "parts", "checkpoints", "logs", "benchmarks", "predicted", "figures", "submissions")
FOLDERS_OF_DATASET = ("vocabulary", "vectors", "figures")
OF_PREDICTION = "predicted-"  # begins the folder of a list
TABLES = ("dataset_table", "checkpoint_table", "published_results_table", "vector_table")


def read(path: str | Path, renamed: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Read a configuration file as it is; :func:`validate` checks it.

    Parameters
    ----------
    renamed
        Texts of the file that are read as others, as ``sed`` replaces them.

    Raises
    ------
    InputError
        For a file that is absent, or not YAML with keys, or where a key stands twice.
    """
    expected = "a configuration in YAML, such as config/config.yaml"
    try:
        text = Path(path).read_text(encoding="utf-8")
        for old, new in (renamed or {}).items():
            text = text.replace(old, new)
        given = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(path, "file", " ".join(str(error).split()), expected) from None
    if not isinstance(given, dict):
        raise InputError(path, "top level", type(given).__name__, expected)
    refuse_repeated_keys(path, text)
    return given


def refuse_repeated_keys(path: str | Path, text: str | None = None) -> None:
    """Refuse a configuration file with a key that stands twice in one place: YAML keeps the last without a word.

    Parameters
    ----------
    text
        The content of the file, if it is known.

    Raises
    ------
    InputError
        With the key and both lines.
    """
    if Path(path).suffix == ".json":  # may have tabs, which YAML refuses
        return
    root = yaml.compose(Path(path).read_text(encoding="utf-8") if text is None else text, yaml.SafeLoader)
    nodes: list[tuple[str, yaml.Node]] = [("", root)]
    seen: set[int] = set()
    for at, node in nodes:
        if id(node) in seen:  # an alias, which may stand within itself
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += [(at, item) for item in node.value]
        if not isinstance(node, yaml.MappingNode):
            continue
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = f"{at}{key.value}", key.start_mark.line + 1
            if name in lines:
                found = f"two of them (lines {lines[name]} and {line})"
                raise InputError(path, name, found, "one, with all of its keys")
            lines[name] = line
            nodes.append((f"{name}.", value))


def defaults() -> dict[str, Any]:
    """Return the value of every key of a configuration that has a default, as where nothing is configured."""
    smallest = Study(study="any", datasets=["any"], methods={"any": {}})
    required = {key for key, field in Study.model_fields.items() if field.is_required()}
    return smallest.model_dump(exclude=required)


@dataclass(frozen=True)
class ConfiguredRun:
    """A valid configuration, where its tables are, and the rows of those that it refers to."""

    config: dict[str, Any]
    tables: dict[str, str]
    datasets: dict[str, catalogue.Dataset]
    checkpoints: dict[str, catalogue.PublishedCheckpoint]
    vectors: dict[str, catalogue.VectorFile]

    @property
    def held_out(self) -> list[str]:
        """List the contexts that splits hold out."""
        hold_out = self.config["splits"]["contexts"]["hold_out"]
        if hold_out != "all":
            return list(hold_out)
        declared = [self.datasets[name].declared_contexts for name in self.config["datasets"]]
        return sorted({context for contexts in declared for context in contexts})

    @property
    def splits(self) -> dict[str, dict[str, Any]]:
        """Return how each split is made (:func:`split_names.planned`)."""
        return dict(planned(self.config["splits"], self.held_out))

    @property
    def pooled(self) -> dict[str, list[str]]:
        """List the splits that are pooled under a name (:func:`split_names.pooled`)."""
        return pooled(self.config["splits"], self.held_out)

    @property
    def drops(self) -> list[str]:
        """List the rows whose files the run reads: its data sets, and in place of joined ones their parts."""
        names = [self.datasets[name].parts or (name,) for name in self.config["datasets"]]
        return [*dict.fromkeys(drop for parts in names for drop in parts)]

    def is_perturbed(self, name: str) -> bool:
        """Return whether a data set, or a part of a joined one, has perturbed cells, as its row says."""
        rows = [self.datasets[drop] for drop in self.datasets[name].parts or (name,)]
        return any(row.perturbation_column is not None for row in rows)

    def series(self, name: str) -> set[str]:
        """Return the series of a data set, or those of the parts of a joined one."""
        return {self.datasets[drop].series for drop in self.datasets[name].parts or (name,)}

    def made_from(self, vectors: str) -> list[str] | None:
        """List the data sets from whose cells gene vectors of a file are known to be made; None where nobody knows."""
        if self.config["vectors"][vectors]["source"] == "file":
            return self.config["vectors"][vectors]["made_from"]
        row = self.vectors[vectors].made_from if self.config["vectors"][vectors]["source"] == "catalogue" else None
        return row.split("|") if row else None

    def origins(self, dataset: str) -> dict[str, dict[str, Any]]:
        """List what is known about where weights, gene vectors and predictions by other programs come from.

        These are the arguments of :func:`scgpt_bench.data.audit.declarations`.
        """
        vectors = {
            name: {
                "source": options["source"],
                "made_from": [options["datasets"][dataset]] if options["source"] == "dataset" else self.made_from(name),
            }
            for name, options in self.config["vectors"].items()
            if options["source"] != "contexts"  # they are made of what is trained on
        }
        checkpoints = {
            name: {
                **{key: options[key] for key in ("source", "dataset", "census_version") if key in options},
                "corpus": self.checkpoints[name].corpus if name in self.checkpoints else None,
            }
            for name, options in self.config["checkpoints"].items()
        }
        kinds = {name: options["kind"] for name, options in self.config["methods"].items()}
        foreign = {name: kind for name, kind in kinds.items() if "import_predictions" in KINDS[kind].rules}
        return {"vectors": vectors, "checkpoints": checkpoints, "foreign": foreign}


def table_path(config: Mapping[str, Any], key: str) -> str:
    """Return where a table is: where ``config`` says, or with the workflow if the run's folder has no default one."""
    default = Study.model_fields[key].default
    return own_or_shipped(default) if config.get(key, default) == default else config[key]


def file_of_checkpoint(run: ConfiguredRun, name: str, file: str, results: str) -> str:
    """Return where a checkpoint's file is: shared if it is downloaded, else below the study's folder ``results``."""
    if run.config["checkpoints"][name]["source"] == "catalogue":
        return f"{run.checkpoints[name].folder_of(file)}/{file}"
    return f"{results}/checkpoints/{name}/{file}"


def validate(given: Mapping[str, Any], source: str) -> ConfiguredRun:
    """Check the configuration ``given`` (as read from YAML) and fill in every default; ``source`` names it in errors.

    Options get the order of their class, names that the user gives keep theirs: Snakemake compares parameters as text,
    and a default that is written down, or keys in another order, change no result.

    Raises
    ------
    InputError
        At the first unknown key, wrong type, value out of range or dangling reference, in the configuration or in
        one of its tables.
    """
    if "study" not in given:
        expected = "a name for this study, such as 'study: my_screen' (its results are in results/my_screen)"
        raise InputError(source, "study", "no such key", expected)
    config = checked(Study, given, source).model_dump()
    kinds = {name: kind.option_class for name, kind in KINDS.items()}
    for key, choice, classes in (("methods", "kind", kinds), *((key, "source", SOURCES[key]) for key in SOURCES)):
        for name, options in config[key].items():
            chosen = options.setdefault("kind", name) if choice == "kind" else options.get(choice)
            where = f"{key}.{name}"
            if not isinstance(chosen, str) or chosen not in classes:
                raise InputError(source, f"{where}.{choice}", repr(chosen), "one of " + ", ".join(sorted(classes)))
            config[key][name] = checked(classes[chosen], options, source, where).model_dump()
            for values in candidates(options.get("search", {})).values():
                checked(classes[chosen], {**options, **values}, source, f"{where}.search")
    tables = {key: table_path(config, key) for key in TABLES}
    run = ConfiguredRun(
        config,
        tables,
        catalogue.read_datasets(tables["dataset_table"]),
        catalogue.read_checkpoints(tables["checkpoint_table"]),
        catalogue.read_vector_files(tables["vector_table"]),
    )
    _check_references(run, source)
    return run


def _check_references(run: ConfiguredRun, source: str) -> None:
    config = run.config
    for name in config["datasets"]:
        if name in FOLDERS or Path(name).suffix in (".html", ".json", ".tsv", ".yaml"):
            expected = f"another name: results/{config['study']}/{name} may be a file or folder of the study itself"
            raise InputError(source, "datasets", repr(name), expected)
        if name not in run.datasets:
            known = ", ".join(run.datasets)
            raise InputError(source, "datasets", repr(name), f"a name in {run.tables['dataset_table']}: {known}")
    for name in run.drops:
        if run.datasets[name].address == "generated" and name not in config["generated"]:
            raise InputError(source, "generated", f"no options for {name!r}", "an entry for every generated data set")
    for name, options in config["checkpoints"].items():
        if options["source"] == "catalogue" and name not in run.checkpoints:
            known = ", ".join(sorted(run.checkpoints))
            expected = f"a name in {run.tables['checkpoint_table']}: {known}"
            raise InputError(source, f"checkpoints.{name}", "no such checkpoint", expected)
        if options["source"] == "catalogue" and run.checkpoints[name].folder:
            found = f"a folder to be downloaded by hand: {run.checkpoints[name].folder}"
            raise InputError(source, f"checkpoints.{name}", found, "source: folder, with the path of the download")
        if options["source"] == "folder":
            if Path(options["path"]).resolve().is_relative_to(Path(catalogue.CHECKPOINTS).resolve()):
                expected = f"source: catalogue, or a folder outside {catalogue.CHECKPOINTS}, where downloads are kept"
                raise InputError(source, f"checkpoints.{name}.path", repr(options["path"]), expected)
            checkpoint_folder.check_names(options["path"])
        if options["source"] == "pretrain" and options["dataset"] not in config["datasets"]:
            known = ", ".join(config["datasets"])
            raise InputError(
                source, f"checkpoints.{name}.dataset", repr(options["dataset"]), f"an entry of 'datasets': {known}"
            )
    for name, options in config["methods"].items():
        measured = [data for data in config["datasets"] if run.datasets[data].address != "generated"]
        if options["kind"] == ORACLE and measured:
            raise InputError(source, f"methods.{name}", f"measured data ({measured[0]})", "generated data sets only")
        checkpoint = options.get("checkpoint")
        if checkpoint is not None and checkpoint not in config["checkpoints"]:
            known = ", ".join(sorted(config["checkpoints"])) or "none is configured"
            expected = f"a key of 'checkpoints': {known}"
            raise InputError(source, f"methods.{name}.checkpoint", repr(checkpoint), expected)
        for key in ("vectors", "graph"):
            vectors = options.get(key)
            if vectors is not None and vectors not in config["vectors"]:
                known = ", ".join(sorted(config["vectors"])) or "none is configured"
                raise InputError(source, f"methods.{name}.{key}", repr(vectors), f"a key of 'vectors': {known}")
    is_judged = [name for name, options in config["methods"].items() if group_of(options["kind"]).is_judged]
    for unknown in sorted(set(config["scores"]["family"] or ()) - set(is_judged)):
        expected = f"methods that are judged: {', '.join(is_judged) or 'none is configured'}"
        raise InputError(source, "scores.family", repr(unknown), expected)
    _check_predictions(run, source)
    _check_submissions(run, source)
    if not config["inference"]["keep_cells"]:
        for key in ("official_scorers", "submissions"):
            if config[key]:
                expected = f"inference.keep_cells: true, or no {key}: they need every predicted cell"
                raise InputError(source, "inference.keep_cells", f"false, with {key}", expected)
    _check_vectors(run, source)
    _check_contexts(run, source)
    _check_splits(run, source)
    _check_paths(run, source)


def _check_predictions(run: ConfiguredRun, source: str) -> None:
    """Refuse a prediction of unknown data sets and methods, or by methods that need what was measured."""
    config = run.config
    for name, options in config["predict"].items():
        for key in ("dataset", "targets_of"):
            if options[key] is not None and options[key] not in config["datasets"]:
                expected = f"an entry of 'datasets': {', '.join(config['datasets'])}"
                raise InputError(source, f"predict.{name}.{key}", repr(options[key]), expected)
        can = methods_that_predict(config["methods"])
        for unknown in sorted({*options["methods"]} - {*can}):
            expected = f"methods that can predict what nobody measured: {', '.join(can) or 'none is configured'}"
            raise InputError(source, f"predict.{name}.methods", repr(unknown), expected)
        trained = [
            method for method in options["methods"] or can if KINDS[config["methods"][method]["kind"]].is_trained
        ]
        if trained and not run.splits:
            found = f"{trained[0]!r}, and no split of measured conditions"
            expected = "a split: validation there sets the number of epochs"
            raise InputError(source, f"predict.{name}.methods", found, expected)


def _check_submissions(run: ConfiguredRun, source: str) -> None:
    """Refuse a submission of a list, or by a method, that is not predicted, and one of another number of cells."""
    config = run.config
    for name, options in config["submissions"].items():
        list_name = options["prediction"]
        if list_name not in config["predict"]:
            expected = "an entry of 'predict': " + (", ".join(config["predict"]) or "there is none")
            raise InputError(source, f"submissions.{name}.prediction", repr(list_name), expected)
        predicting = methods_of_prediction(config, list_name)
        for unknown in sorted({*options["methods"]} - {*predicting}):
            expected = f"methods that predict {list_name!r}: {', '.join(predicting)}"
            raise InputError(source, f"submissions.{name}.methods", repr(unknown), expected)
        dataset = config["predict"][list_name]["dataset"]
        if options["missing_genes"] == "control-cell" and not run.datasets[dataset].parts:
            found = f"'control-cell', of {dataset!r}, which is not joined"
            expected = "refuse: its control cells have no other genes"
            raise InputError(source, f"submissions.{name}.missing_genes", found, expected)
        limits = PUBLISHED_LIMITS[options["challenge"]] | options["limits"]
        cells = config["predict"][list_name]["cells_per_perturbation"]
        if cells != (expected_cells := limits.get("cells_per_perturbation", cells)):
            expected = f"{expected_cells}, the number that the challenge of submissions.{name} takes"
            raise InputError(source, f"predict.{list_name}.cells_per_perturbation", str(cells), expected)


def methods_of_prediction(config: Mapping[str, Any], name: str) -> list[str]:
    """List the methods that predict a list: those that it names, or all that can."""
    return config["predict"][name]["methods"] or methods_that_predict(config["methods"])


def methods_that_predict(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """List the methods that can predict what nobody measured.

    Benchmark controls are made of what was measured, and predictions made elsewhere are of what was asked there. GEARS
    chooses its weights on validation perturbations, and a list has none.
    """
    cannot = {"predict_benchmark_control", "import_predictions", "predict_gears"}
    return [name for name, options in methods.items() if cannot.isdisjoint(KINDS[options["kind"]].rules)]


def _check_vectors(run: ConfiguredRun, source: str) -> None:
    graphs = {options["graph"] for options in run.config["methods"].values() if "graph" in options}
    for name, options in run.config["vectors"].items():
        where = f"vectors.{name}"
        if name in graphs and options["source"] in ("dataset", "contexts"):
            found = f"{options['source']!r}, for a method that takes a graph"
            raise InputError(source, f"{where}.source", found, "a file or catalogue")
        if options["source"] == "catalogue" and name not in run.vectors:
            known = ", ".join(sorted(run.vectors))
            raise InputError(source, where, "no such gene vectors", f"a name in {run.tables['vector_table']}: {known}")
        suffixes = catalogue.GRAPH_SUFFIXES if name in graphs else catalogue.VECTOR_SUFFIXES
        if options["source"] == "file" and not options["path"].endswith(suffixes):
            expected = "a file that ends in " + ", ".join(suffixes)
            raise InputError(source, f"{where}.path", repr(options["path"]), expected)
        for made_from in run.made_from(name) or ():
            if made_from not in run.datasets:
                known = ", ".join(run.datasets)
                expected = f"names in {run.tables['dataset_table']}: {known}"
                raise InputError(source, f"{where}.made_from", repr(made_from), expected)
            for dataset in run.config["datasets"]:
                if run.series(made_from) & run.series(dataset):
                    expected = "vectors made without its cells: they may give away its test perturbations"
                    found = f"{made_from!r}, cells of the run's data set {dataset!r}"
                    raise InputError(source, f"{where}.made_from", found, expected)
        for dataset in run.config["datasets"] if options["source"] == "dataset" else []:
            other, known = options["datasets"].get(dataset), run.config["datasets"]
            if other not in known:
                found = f"no entry for {dataset!r}" if other is None else repr(other)
                raise InputError(source, f"{where}.datasets", found, "another of " + ", ".join(known))
            if run.series(other) & run.series(dataset):
                expected = "another screen: the changes of its own test perturbations are what methods predict"
                raise InputError(source, f"{where}.datasets.{dataset}", f"{other!r}, the same data set", expected)


def _check_paths(run: ConfiguredRun, source: str) -> None:
    """Refuse braces in paths of the user's files: Snakemake reads what is between them as a wildcard of its own."""
    config = run.config
    paths: dict[str, str | None] = dict(run.tables)
    paths |= {f"checkpoints.{name}.path": entry.get("path") for name, entry in config["checkpoints"].items()}
    paths |= {f"vectors.{name}.path": entry.get("path") for name, entry in config["vectors"].items()}
    paths |= {f"methods.{name}.script": entry.get("script") for name, entry in config["methods"].items()}
    paths |= {f"submissions.{name}.genes": entry["genes"] for name, entry in config["submissions"].items()}
    for name, entry in config["predict"].items():
        paths |= {f"predict.{name}.{key}": entry[key] for key in ("perturbations", "signature")}
    for split, files in config["splits"]["files"].items():
        paths |= {f"splits.files.{split}.{dataset}": path for dataset, path in files.items()}
    for name, entry in config["methods"].items():
        for dataset, files in entry.get("files", {}).items():
            for split, path in files.items():
                paths[f"methods.{name}.files.{dataset}.{split}"] = path.replace("{seed}", "")
    for where, path in paths.items():
        _check_braces(path, source, where)
    for name in run.drops:
        dataset = run.datasets[name]
        if dataset.is_local:
            _check_braces(dataset.address, run.tables["dataset_table"], f"address of {name!r}")
        _check_braces(dataset.guide_table, run.tables["dataset_table"], f"guide_table of {name!r}")


def _check_braces(path: str | None, source: str, where: str) -> None:
    if path and ("{" in path or "}" in path):
        raise InputError(source, where, repr(path), "a path without '{' and '}'")


def _check_contexts(run: ConfiguredRun, source: str) -> None:
    config, where, chosen = run.config, "splits.contexts", run.config["splits"]["contexts"]
    for name in config["datasets"]:
        declared = run.datasets[name].declared_contexts
        if chosen["hold_out"] == "all" and not declared:
            found = f"all, but {run.tables['dataset_table']} does not name the contexts of {name!r}"
            raise InputError(source, f"{where}.hold_out", found, "names in its column 'contexts', or a list here")
        for context in run.held_out:
            if declared and context not in declared:
                found, expected = f"{context!r}, of which {name!r} has no cell", f"one of {', '.join(declared)}"
                raise InputError(source, f"{where}.hold_out", found, expected)
    by_slug: dict[str, str] = {}
    for context in run.held_out:
        other = by_slug.setdefault(slug(context), context)
        if other != context:
            found = f"{other!r} and {context!r}, both of which are {slug(context)!r} in the names of splits"
            raise InputError(source, f"{where}.hold_out", found, "names that differ in letters or digits")
    if run.held_out and "both" in chosen["unseen"] and not config["splits"]["run"]:
        raise InputError(source, f"{where}.unseen", "both, but no fold in splits.run", "folds to cross with contexts")


def _check_without_splits(run: ConfiguredRun, source: str) -> None:
    """Refuse a study that scores nothing and predicts nothing either, and methods that nothing in it runs."""
    config = run.config
    if not config["predict"]:
        expected = "an entry in run, gears_seeds, contexts or files, or a list in predict"
        raise InputError(source, "splits", "no split to run", expected)
    if config["official_scorers"]:
        expected = "an entry in splits for them to score"
        raise InputError(source, "official_scorers", "scorers, and no split", expected)
    used = {method for name in config["predict"] for method in methods_of_prediction(config, name)}
    for method in config["methods"]:
        if method not in used:
            expected = "a method of a list in predict: without a split nothing is scored"
            raise InputError(source, f"methods.{method}", "a method that nothing runs", expected)


def _check_splits(run: ConfiguredRun, source: str) -> None:
    config = run.config
    splits = config["splits"]
    folds = splits["folds"]
    for fold in config["splits"]["run"]:
        if fold >= folds:
            raise InputError(source, "splits.run", str(fold), f"folds from 0 to {folds - 1}")
    names = [name for name, _ in planned(splits, run.held_out)]
    for name, files in splits["files"].items():
        if name in FOLDERS_OF_DATASET or name.startswith(OF_PREDICTION):
            found = "a name of the workflow's own folders, beside those of splits"
            raise InputError(source, f"splits.files.{name}", found, "another name")
        for dataset in config["datasets"]:
            if dataset not in files:
                raise InputError(source, f"splits.files.{name}", f"no file for {dataset!r}", "one for every data set")
    for name in splits["files"]:
        for size in splits["training_sizes"]:
            if name.removesuffix(f"-train{size}") in {*names} - {name}:
                found = f"the name of {name.removesuffix(f'-train{size}')} with {size} perturbations to learn from"
                raise InputError(source, f"splits.files.{name}", found, "another name, or no such training size")
    for name in run.pooled:
        if name in names:
            raise InputError(source, f"splits.files.{name}", "the name under which splits are pooled", "another name")
    if not names:
        _check_without_splits(run, source)
    for dataset in config["datasets"] if names else []:
        if not run.is_perturbed(dataset):
            found = f"{names[0]!r}, but {dataset!r} has control cells only: no perturbation_column in its row"
            raise InputError(source, "splits", found, "no split (run: []), and lists in predict")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(source, "splits", f"{twice[0]!r} twice", "every split once")
    for method, options in config["methods"].items():
        for dataset in config["datasets"] if "files" in options else []:
            for name in names:
                where, path = f"methods.{method}.files.{dataset}", options["files"].get(dataset, {}).get(name)
                if path is None:
                    raise InputError(source, where, f"no file for split {name!r}", "one for every split that is run")
                if len(options["seeds"]) > 1 and "{seed}" not in path:
                    found = f"{path!r}, for {len(options['seeds'])} seeds"
                    raise InputError(source, f"{where}.{name}", found, "a path with {seed}, or one seed")
