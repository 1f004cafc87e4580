"""args.json may say what the model here is, and nothing else; every key that upstream writes is classified."""

import inspect
import json
import logging
import sys

import pytest

from scgpt_bench.errors import InputError
from scgpt_bench.scgpt import checkpoint_folder, pretraining, upstream
from scgpt_bench.scgpt.checkpoint_folder import KNOWN_KEYS, SETTINGS, check_names, own_file, read_arguments

ARGUMENTS = {"embsize": 8, "nlayers": 2, "nheads": 2, "d_hid": 6}
UPSTREAM = sys.modules[upstream.TransformerGenerator.__module__.rsplit(".", 1)[0]]  # without the rest of the package
MODELS = [UPSTREAM.TransformerModel, UPSTREAM.TransformerGenerator, UPSTREAM.MultiOmicTransformerModel]
PROMPTS = ("encoder", "flag_encoder", "decoder")

# Keys that upstream's scripts write or can write, read in its repository (main, and the branches with pretraining).
PRETRAIN = """
    data_source save_dir load_model n_hvg valid_size_or_ratio dist_backend grad_accu_steps pad_token input_style
    input_emb_style n_bins max_seq_len training_tasks dist_url mask_ratio trunc_by_sample vocab_path rank batch_size
    eval_batch_size epochs lr scheduler_interval scheduler_factor warmup_ratio_or_step no_cls no_cce fp16
    fast_transformer nlayers nheads embsize d_hid dropout n_layers_cls log_interval save_interval mask_value pad_value
    USE_CLS USE_CCE MVC USE_GENERATIVE_TRAINING world_size distributed local_rank gpu"""
TUTORIALS = """
    seed dataset_name do_train load_model mask_ratio epochs n_bins GEP GEPC ecs_thres dab_weight lr batch_size
    layer_size nlayers nhead dropout schedule_ratio save_eval_interval log_interval fast_transformer pre_norm amp task
    freeze CLS ESC DAR DSBN explicit_zero_prob use_batch_labels use_mod per_seq_batch_sample input_layer_key n_hvg n_hvp
    max_seq_len pad_token mask_value pad_value include_zero_gene MVC CCE ECS DAB ADV MLM INPUT_BATCH_LABELS input_style
    output_style input_emb_style cell_emb_style mvc_decoder_style adv_E_delay_epochs adv_D_delay_epochs
    do_sample_in_train lr_ADV
    eval_batch_size schedule_interval fast_transformer_backend embsize d_hid do_eval_scib_metrics pert_pad_id
    load_param_prefixs early_stop n_layers_cls use_fast_transformer data_name split perts_to_plot ecs_threshold
    n_input_bins special_tokens"""
HUGGING_FACE = """
    vocab_size d_hid n_embd n_layer n_head dropout attention_probs_dropout_prob initializer_range pad_value mask_value
    use_mod use_batch_labels DSBN CLS GEPC ESC n_bins padding_idx do_mvc do_dab num_batch_labels domain_spec_batchnorm
    ecs_threshold explicit_zero_prob use_generative_training use_fast_transformer fast_transformer_backend
    use_sim_decoder per_device_train_batch_size num_train_epochs output_dir logging_dir remove_unused_columns fp16
    mlm_probability max_length learning_rate warmup_ratio_or_step MVC evaluation_strategy save_strategy"""


def write(folder, **changes):
    (folder / "args.json").write_text(json.dumps(ARGUMENTS | changes))


@pytest.mark.parametrize("keys", [PRETRAIN, TUTORIALS, HUGGING_FACE], ids=["pretraining", "tutorials", "Hugging Face"])
def test_every_key_of_upstreams_scripts_is_classified(keys):
    assert set(keys.split()) - KNOWN_KEYS == set()


@pytest.mark.parametrize("network", MODELS)
def test_every_option_of_upstreams_models_is_classified(network):
    assert set(inspect.signature(network).parameters) - KNOWN_KEYS == set()


def test_every_key_that_pretraining_here_writes_is_classified():
    assert set(pretraining.PretrainingOptions.model_fields) - KNOWN_KEYS == set()


def test_no_key_is_both_refused_and_irrelevant():
    irrelevant = [key for keys in checkpoint_folder.IRRELEVANT.values() for key in keys.split()]
    assert len(irrelevant) == len(set(irrelevant))
    assert not SETTINGS.keys() & set(irrelevant)


def test_upstreams_defaults_are_fine():
    for network in MODELS:
        for key, parameter in inspect.signature(network).parameters.items():
            if key in SETTINGS:
                assert parameter.default in SETTINGS[key].fine


def test_the_published_arguments_are_fine_for_every_method_and_known(human_arguments, caplog):
    with caplog.at_level(logging.WARNING):
        assert read_arguments(human_arguments, PROMPTS)["nheads"] == 8
    assert not caplog.records


OTHER = {
    "input_style": ["log1p", "normed_raw", 5, ["binned"]],
    "output_style": ["log1p"],
    "input_layer_key": ["X_log1p"],
    "input_emb_style": ["category", "scaling"],
    "pad_token": ["[PAD]"],
    "pre_norm": [True, "False", 1],
    "norm_scheme": ["pre"],
    "activation": ["gelu"],
    "hidden_act": ["gelu"],
    "layer_norm_eps": [1e-12],
    "fast_transformer_backend": ["linear"],
    "cell_emb_style": ["avg-pool", "w-pool"],
    "mvc_decoder_style": ["concat query", "sum query"],
    "explicit_zero_prob": [True],
    "use_batch_labels": [True],
    "INPUT_BATCH_LABELS": [True],
    "domain_spec_batchnorm": [True, "dsbn", "batchnorm", "do_affine"],
    "DSBN": [True],
    "use_mod": [True],
    "training_tasks": ["pcpt"],
    "USE_GENERATIVE_TRAINING": [False],
    "use_generative_training": [False],
}


def test_every_setting_has_a_value_to_refuse():
    assert OTHER.keys() == SETTINGS.keys()


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in OTHER.items() for value in values])
def test_settings_of_another_model_are_refused_by_name(tmp_path, key, value):
    write(tmp_path, **{key: value})
    with pytest.raises(InputError, match=rf"args\.json: {key}: found ") as error:
        read_arguments(tmp_path, PROMPTS)
    assert error.value.found == json.dumps(value)
    assert SETTINGS[key].why in error.value.expected


@pytest.mark.parametrize("key", SETTINGS)
def test_what_the_model_here_is_may_be_said_or_left_out(tmp_path, key):
    for value in (*SETTINGS[key].fine, None):
        write(tmp_path, **{key: value})
        assert read_arguments(tmp_path, PROMPTS)[key] == value


def test_only_prompts_need_a_model_that_was_trained_to_generate(tmp_path):
    write(tmp_path, training_tasks="pcpt")
    read_arguments(tmp_path, ("encoder", "value_encoder", "transformer_encoder"))
    with pytest.raises(InputError, match="trained to generate"):
        read_arguments(tmp_path, PROMPTS)


@pytest.mark.parametrize(
    "bins", [{"n_bins": 101}, {"n_bins": 101, "n_input_bins": 101}, {"n_bins": 101, "n_input_bins": 0}]
)
def test_another_number_of_bins_is_read(tmp_path, bins):
    write(tmp_path, **bins)
    assert read_arguments(tmp_path)["n_bins"] == 101


def test_two_numbers_of_bins_are_refused(tmp_path):
    write(tmp_path, n_input_bins=101)
    with pytest.raises(InputError, match="n_input_bins: found 101; expected 51"):
        read_arguments(tmp_path)


def test_keys_that_are_not_known_are_named_once_and_not_refused(tmp_path, caplog):
    write(tmp_path, use_moe_dec=True, my_note="x")
    read_arguments(tmp_path)
    (record,) = caplog.records
    assert record.getMessage().endswith("keys that are not known here, and not used: use_moe_dec, my_note")


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"n_embd": 512, "n_head": 8, "n_layer": 12, "d_hid": 512}, "no such key but a key 'n_embd'"),
        ({"d_model": 512}, "no such key but a key 'd_model'"),
        ({"layer_size": 128}, "no such key but a key 'layer_size'"),
        ({"model": ARGUMENTS}, "no such key but one inside 'model'"),
        ({key: {"value": value, "desc": None} for key, value in ARGUMENTS.items()}, "{'value': 8, 'desc': None}"),
        ({}, "no such key"),
    ],
    ids=["Hugging Face", "constructor", "tutorial", "nested", "Weights & Biases", "empty"],
)
def test_sizes_elsewhere_are_named(tmp_path, arguments, found):
    (tmp_path / "args.json").write_text(json.dumps(arguments))
    with pytest.raises(InputError, match="embsize: found ") as error:
        read_arguments(tmp_path)
    assert error.value.found == found


@pytest.mark.parametrize(
    ("there", "name", "found"),
    [
        (["model_e12.pt"], "best_model.pt", "model_e12.pt"),
        (["pytorch_model.bin", "last.ckpt"], "best_model.pt", "last.ckpt, pytorch_model.bin"),
        (["model-00001-of-00002.safetensors"], "best_model.pt", "model-00001-of-00002.safetensors"),
        (["best_model.pt", "config.json"], "args.json", "config.json"),
        (["best_model.pt", "dev_args.json"], "args.json", "dev_args.json"),
        (["best_model.pt", "args.json", "gene_vocab.json"], "vocab.json", "gene_vocab.json"),
    ],
)
def test_files_under_other_names_are_named_before_any_job(tmp_path, there, name, found):
    for file in there:
        (tmp_path / file).write_text("{}")
    with pytest.raises(InputError) as error:
        check_names(tmp_path)
    assert error.value.where == name
    assert error.value.found == f"no such file, only {found}"


def test_files_that_are_there_or_gone_with_their_folder_are_no_fault(tmp_path):
    check_names(tmp_path / "gone")
    for name in ("model.safetensors", "args.json", "vocab.json", "config.json", "model_e12.pt"):
        (tmp_path / name).write_text("{}")
    check_names(tmp_path)
    assert own_file(tmp_path, "best_model.pt") == tmp_path / "model.safetensors"
    (tmp_path / "best_model.pt").write_text("x")
    assert own_file(tmp_path, "best_model.pt") == tmp_path / "best_model.pt"
    assert own_file(tmp_path, "vocab.json") == tmp_path / "vocab.json"


def test_arguments_under_another_name_are_named_by_the_job_too(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"args\.json: file: found no such file, only config\.json"):
        read_arguments(tmp_path)
