"""A configuration is valid as a whole, with every default filled in, or refused with one telling error."""

import copy

from scgpt_bench.configuration import validate

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
