"""Imports run one way, as data do: nothing before the predictions depends on what judges them."""

import re
from pathlib import Path

import pytest

from scgpt_bench import sources

SCRIPTS = Path(__file__).parents[2] / "workflow" / "scripts"
LATER = ("evaluation/", "figures/", "report/")


def folders_used(script):
    return {path.relative_to(sources.PACKAGE).as_posix() for path in sources.modules_used(SCRIPTS / f"{script}.py")}


@pytest.mark.parametrize(
    "script",
    ["harmonize", "split", "sample_controls", "pretrain", "finetune", "predict_scgpt", "predict_baseline",
     "predict_benchmark_control", "predict_gears", "import_predictions"],
)  # fmt: skip
def test_nothing_up_to_the_predictions_imports_what_comes_after(script):
    assert [module for module in folders_used(script) if module.startswith(LATER)] == []


def test_data_import_no_method_and_no_model():
    for module in (sources.PACKAGE / "data").glob("*.py"):
        used = {path.relative_to(sources.PACKAGE).parts[0] for path in sources.modules_used(module)}
        assert not used & {"methods", "scgpt", "evaluation", "figures", "report"}, module.name


def test_only_scgpt_and_gears_need_pytorch():
    """Readers, splits and statistics run where there is none: `make test-pythons`."""
    needing = set()
    for module in sources.PACKAGE.rglob("*.py"):
        code = [path.read_text() for path in (module, *sources.modules_used(module))]
        if any(re.search(r"^ *(?:import|from) (?:torch|lightning)\b", text, re.MULTILINE) for text in code):
            needing.add(module.relative_to(sources.PACKAGE).as_posix())
    assert "scgpt/training.py" in needing
    assert {name for name in needing if not name.startswith("scgpt/")} == {"methods/gears.py"}
