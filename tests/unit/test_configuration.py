"""A configuration is valid as a whole, with every default filled in, or refused with one telling error."""

import copy

import pytest
import yaml

from scgpt_bench.configuration import methods_that_predict, refuse_repeated_keys, validate
from scgpt_bench.errors import InputError
from scgpt_bench.options import Pretraining, Start
from scgpt_bench.scgpt import recipe
from scgpt_bench.scgpt.checkpoint import PRETRAINED_PREFIXES
from scgpt_bench.scgpt.checkpoint_folder import MOST_BINS
from snakemake_checkout import ROOT

SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"
VALID = {
    "study": "mine",
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
    by_cell = {"kind": "train-mean", "weighting": "cell", "seeds": [0], "scaled": True}
    assert config["methods"]["mean-by-cell"] == by_cell
    assert config["checkpoints"]["demo"]["nlayers"] == 12


def test_validation_of_a_valid_configuration_changes_nothing_more():
    config = validate(VALID, "study.yaml").config
    assert validate(config, "study.yaml").config == config


def whole_numbers(value, place=()):
    """The places in a configuration that hold a whole number: keys and positions."""
    if isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from whole_numbers(entry, (*place, key))
    elif type(value) is int:
        yield place


def names_of(schema, kind):
    """The keys in a schema whose value, or entries, may be of a kind."""
    for key, part in schema.items() if isinstance(schema, dict) else ():
        if isinstance(part, dict):
            if any(entry.get("type") == kind for entry in (part, part.get("items", {}), *part.get("anyOf", ()))):
                yield key
            yield from names_of(part, kind)


def test_what_needs_a_measured_answer_or_a_validation_perturbation_predicts_no_list():
    kinds = ["shuffled", "imported", "script", "gears", "knn", "scgpt-finetuned", "scgpt-zero-shot"]
    assert methods_that_predict({kind: {"kind": kind} for kind in kinds}) == kinds[-3:]


def test_a_whole_number_with_a_decimal_point_is_refused_wherever_an_integer_is_wanted():
    methods = {name: {"checkpoint": "demo"} for name in ("scgpt-finetuned", "scgpt-knockout", "scgpt-generate")}
    methods |= {"ridge": {}, "knn": {}}
    checkpoints = {"demo": {"source": "random"}, "own": {"source": "pretrain", "dataset": "planted"}}
    config = {**VALID, "methods": methods, "checkpoints": checkpoints, "harmonize": {"maximum_genes": 100}}
    config = validate(config, "study.yaml").config
    integers = set(names_of(yaml.safe_load(SCHEMA.read_text()), "integer"))
    places = [place for place in whole_numbers(config) if {*place[-2:]} & integers]
    assert len(places) > 60
    for place in places:
        changed = copy.deepcopy(config)
        part = changed
        for key in place[:-1]:
            part = part[key]
        number = part[place[-1]]
        part[place[-1]] = float(number)
        with pytest.raises(InputError, match=f"integer.*, such as {number}$") as error:
            validate(changed, "study.yaml")
        assert error.value.where == ".".join(map(str, place))


def test_no_checkpoint_is_pretrained_with_more_bins_than_are_read_again():
    assert Pretraining.model_json_schema()["properties"]["n_bins"]["maximum"] == MOST_BINS


def test_fine_tuning_starts_from_the_modules_that_are_pretrained():
    assert tuple(Start().pretrained) == PRETRAINED_PREFIXES


def backwards(value):
    """The same, with the keys of every mapping in reverse order."""
    return {key: backwards(value[key]) for key in reversed(value)} if isinstance(value, dict) else value


def test_a_default_that_is_written_down_and_another_order_of_keys_give_the_same_parameters():
    config = validate(VALID, "study.yaml").config
    again = validate(backwards(config), "study.yaml").config
    assert list(again) == list(config)
    for block in ("harmonize", "splits", "controls", "scores"):
        assert repr(again[block]) == repr(config[block])
    for block in ("generated", "checkpoints", "methods"):
        for name in VALID[block]:
            assert repr(again[block][name]) == repr(config[block][name])


def test_papalexi_names_every_line_that_the_published_checkpoint_and_recipe_change():
    text = (ROOT / "config" / "papalexi.yaml").read_text()
    comment = text[text.index("# A small model") : text.index("\ncheckpoints:")]
    methods = validate(yaml.safe_load(text), "papalexi.yaml").config["methods"]
    published = {**VALID, "methods": {"scgpt-finetuned": {"checkpoint": "demo"}}}
    published = validate(published, "study.yaml").config["methods"]["scgpt-finetuned"]
    changed = {key for key, value in methods["scgpt-finetuned"].items() if value != published[key]}
    assert {key for key in changed if f"`{key}" not in comment} == set()
    assert "each of the four methods" in comment
    assert sum(options.get("checkpoint") == "pretrained" for options in methods.values()) == 4


@pytest.mark.parametrize("study", ["adamson", "norman", "replogle"])
def test_published_figures_are_compared_with_the_recipe_without_any_deviation_that_can_be_undone(study):
    text = (ROOT / "config" / f"{study}.yaml").read_text()
    options = validate(yaml.safe_load(text), study).config["methods"]["scgpt-finetuned-published"]
    of_recipe = {key: value for key, value in options.items() if key in recipe.Recipe.model_fields}
    left = recipe.deviations(recipe.Recipe(**of_recipe))
    assert left.keys() == {"precision", "perturbations without a token", "unmeasured targets"}


def test_a_configuration_without_a_study_is_told_what_to_write():
    given = {key: value for key, value in VALID.items() if key != "study"}
    with pytest.raises(InputError, match=r"study: found no such key; expected .* 'study: my_screen'"):
        validate(given, "mine.yaml")


@pytest.mark.parametrize("study", ["Mine", "a/b", "", "..", "a.b", "mine\n"])
def test_the_name_of_a_study_is_one_of_a_folder(study):
    with pytest.raises(InputError, match=r"study: found .* expected text that matches"):
        validate({**VALID, "study": study}, "mine.yaml")


def test_aliases_of_a_configuration_are_looked_at_once(tmp_path):
    """One that stands within itself, and lists of lists that would be ten to the ninth."""
    layers = "".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 10)}]\n" for i in range(1, 10))
    (tmp_path / "study.yaml").write_text(f"k0: &k0 {{study: a}}\n{layers}own: &own {{again: *own}}\n")
    refuse_repeated_keys(tmp_path / "study.yaml")
