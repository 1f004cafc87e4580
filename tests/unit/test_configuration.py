"""A configuration is valid as a whole, with every default filled in, or refused with one telling error."""

import copy

import pytest

from scgpt_bench.configuration import validate
from scgpt_bench.errors import InputError

VALID = {
    "datasets": ["planted"],
    "generated": {"planted": {}},
    "checkpoints": {"demo": {"source": "random", "embsize": 64}},
    "methods": {
        "control-mean": {},
        "mean-by-cell": {"kind": "train-mean", "weighting": "cell"},
        "scgpt-zero-shot": {"checkpoint": "demo"},
    },
}


def changed(**changes):
    config = copy.deepcopy(VALID)
    for path, value in changes.items():
        *parents, last = path.split("__")
        part = config
        for key in parents:
            part = part.setdefault(key, {})
        part[last] = value
    return config


def test_defaults_are_filled_in_and_the_input_is_left_alone():
    before = copy.deepcopy(VALID)
    config = validate(VALID, "study.yaml").config
    assert before == VALID
    assert config["splits"]["folds"] == 5
    assert config["controls"]["cells_per_perturbation"] == 100
    assert config["methods"]["control-mean"]["seeds"] == [0]
    assert config["methods"]["mean-by-cell"] == {"kind": "train-mean", "weighting": "cell", "seeds": [0]}
    assert config["checkpoints"]["demo"]["nlayers"] == 12


def test_validation_of_a_valid_configuration_changes_nothing_more():
    config = validate(VALID, "study.yaml").config
    assert validate(config, "study.yaml").config == config


@pytest.mark.parametrize(
    ("change", "where", "found", "expected"),
    [
        ({"folds": 3}, "top level", "'folds'", "splits"),
        ({"splits__fold": 3}, "splits", "'fold'", "folds"),
        ({"methods__train-mean": {"weights": "cell"}}, "methods.train-mean", "'weights'", "weighting"),
        ({"methods__train-mean": {"weighting": "gene"}}, "methods.train-mean.weighting", "'gene'", "cell"),
        ({"methods__my-model": {}}, "methods.my-model.kind", "'my-model'", "train-mean"),
        ({"methods__../x": {"kind": "train-mean"}}, "methods", "'../x'", "matches"),
        ({"methods__scgpt-zero-shot": {}}, "methods.scgpt-zero-shot", "no such key", "'checkpoint'"),
        ({"methods__scgpt-zero-shot": {"checkpoint": "human"}}, "scgpt-zero-shot.checkpoint", "'human'", "demo"),
        ({"datasets": ["unknown"]}, "datasets", "'unknown'", "planted"),
        (
            {"inference__keep_cells": False, "official_scorers": ["cell_eval"]},
            *("inference.keep_cells", "false, with official_scorers", "they need every predicted cell"),
        ),
        ({"datasets": ["../planted"]}, "datasets.0", "'../planted'", "matches"),
        ({"datasets": ["a/b"]}, "datasets.0", "'a/b'", "matches"),
        ({"datasets": []}, "datasets", "[]", "at least 1"),
        ({"datasets": "planted"}, "datasets", "'planted'", "array"),
        ({"generated": {}}, "generated", "planted", "an entry"),
        ({"checkpoints__demo": {"source": "internet"}}, "checkpoints.demo.source", "'internet'", "catalogue"),
        ({"checkpoints__other": {"source": "catalogue"}}, "checkpoints.other", "no such checkpoint", "scGPT_human"),
        ({"checkpoints__scGPT_brain": {"source": "catalogue"}}, "scGPT_brain", "drive.google.com", "source: folder"),
        ({"checkpoints__demo__depth": 3}, "checkpoints.demo", "'depth'", "nlayers"),
        ({"splits__run": [0, 5]}, "splits.run", "5", "from 0 to 4"),
        ({"splits__folds": "three"}, "splits.folds", "'three'", "integer"),
        ({"splits__validation_share": 1}, "splits.validation_share", "1", "less than 1"),
        ({"controls__cells_per_perturbation": 0}, "controls.cells_per_perturbation", "0", "at least 1"),
    ],
)
def test_a_fault_is_named_with_its_key_what_was_found_and_what_would_be_right(change, where, found, expected):
    with pytest.raises(InputError) as caught:
        validate(changed(**change), "study.yaml")
    error = caught.value
    assert error.source == "study.yaml"
    assert where in error.where
    assert found in error.found
    assert expected in error.expected
    assert "\n" not in str(error)
