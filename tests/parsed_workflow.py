"""The workflow as Snakemake parses it: tests ask for its rules, and read no text of rule files."""

import inspect
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, ResourceSettings
from snakemake.workflow import Workflow

ROOT = Path(__file__).parents[1]
# Targets of the command line, which run no script.
TARGETS = {"all", "prefetch"}


@cache
def parsed(gpus: int = 0, shards: int = 2) -> Workflow:
    """The demo's workflow with all its rules: those that gather predictions exist where there are several shards."""
    settings = ConfigSettings(
        configfiles=[ROOT / "config" / "config.yaml"],
        config={"hardware": {"gpu": gpus}, "inference": {"shards": shards}},
    )
    with tempfile.TemporaryDirectory() as folder, SnakemakeApi() as api:
        described = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=settings,
            snakefile=ROOT / "workflow" / "Snakefile",
            workdir=Path(folder),
        )
        return described._workflow


def rules(gpus: int = 0) -> dict[str, Any]:
    """The rules that run a script, by name, for a study with so many GPUs."""
    return {rule.name: rule for rule in parsed(gpus).rules if rule.name not in TARGETS}


def parameters(rule: Any) -> dict[str, Any]:
    """The parameters of a rule, by name; functions where they depend on the job."""
    return dict(rule.params.items())


def script(rule: Any) -> Path:
    return ROOT / "workflow" / "scripts" / Path(rule.script).name


def resources(rule: Any) -> dict[str, Any]:
    """The resources of a rule that are the same in all its jobs."""
    return {name: entry.value for name, entry in rule.resources.items() if not entry.is_evaluable()}


def grows_with_attempts(rule: Any, resource: str) -> bool:
    """Whether a resource that is a function of the job is one of the attempt too."""
    return "attempt" in inspect.signature(rule.resources[resource]._evaluator).parameters


def is_local(rule: Any) -> bool:
    return rule.name in rule.workflow._localrules
