"""A checkpoint folder in scGPT's layout: its files by name, and what its args.json may say.

:mod:`scgpt_bench.scgpt.checkpoint` reads the weights; nothing here imports PyTorch.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scgpt_bench.errors import InputError
from scgpt_bench.files import read_json

log = logging.getLogger(__name__)

WEIGHTS, SAFE_WEIGHTS, ARGUMENTS, VOCABULARY = "best_model.pt", "model.safetensors", "args.json", "vocab.json"
SIZES = ("embsize", "nlayers", "nheads", "d_hid")
MOST_BINS = 1000  # the memory of a batch grows with them; published checkpoints have 51

_OTHER_NAMES = {  # that people give to the files and the sizes
    WEIGHTS: ("*.pt", "*.pth", "*.bin", "*.ckpt", "*.safetensors", "*.index.json"),
    ARGUMENTS: ("config.json", "args.y*ml", "config.y*ml", "*args*.json"),
    VOCABULARY: ("*vocab*.json", "*vocab*.pt", "*vocab*.pkl", "tokenizer.json"),
    "embsize": ("n_embd", "d_model", "layer_size"),
    "nlayers": ("n_layer", "n_layers"),
    "nheads": ("nhead", "n_head", "n_heads"),
    "d_hid": ("d_ff", "hidden_size"),
}


@dataclass(frozen=True)
class Setting:
    """A setting of upstream that the model here has in one form only.

    Attributes
    ----------
    fine
        Values of that form. A key that is absent or null is upstream's default, which is fine everywhere.
    why
        What the model here is instead.
    module
        Refuse other values only where this module of the checkpoint is read; None: always.
    """

    fine: tuple[Any, ...]
    why: str
    module: str | None = None


_BATCHES = "the model here knows no batch labels"
_GENERATIVE = "prompts need a model that was trained to generate"
SETTINGS = {
    "input_style": Setting(("binned",), "values are binned here"),
    "output_style": Setting(("binned",), "predicted values are read as bins here"),
    "input_layer_key": Setting(("X_binned",), "values are binned here"),
    "input_emb_style": Setting(("continuous",), "values pass through two linear layers here"),
    "pad_token": Setting(("<pad>",), "this token stands for unknown genes here"),
    "pre_norm": Setting((False,), "layers normalize after attention here"),
    "norm_scheme": Setting(("post",), "layers normalize after attention here"),
    "activation": Setting(("relu",), "layers are ReLU layers here"),
    "hidden_act": Setting(("relu",), "layers are ReLU layers here"),
    "layer_norm_eps": Setting((1e-5,), "upstream fixes it"),
    "fast_transformer_backend": Setting(("flash",), "attention is exact here, not linear"),
    "cell_emb_style": Setting(("cls",), "the cell embedding is that of <cls> here"),
    "mvc_decoder_style": Setting(("inner product", "inner product, detach"), "the decoder here is an inner product"),
    "explicit_zero_prob": Setting((False,), "the decoder here has no probability of zero"),
    "use_batch_labels": Setting((False,), _BATCHES),
    "INPUT_BATCH_LABELS": Setting((False,), _BATCHES),
    "domain_spec_batchnorm": Setting((False,), "embeddings are not batch-normalized here"),
    "DSBN": Setting((False,), "embeddings are not batch-normalized here"),
    "use_mod": Setting((False,), "the model here knows no modalities"),
    "training_tasks": Setting(("both", "gen"), _GENERATIVE, module="flag_encoder"),
    "USE_GENERATIVE_TRAINING": Setting((True,), _GENERATIVE, module="flag_encoder"),
    "use_generative_training": Setting((True,), _GENERATIVE, module="flag_encoder"),
}

# Tensors that only a model with another setting has. Fine-tuned models come with the args.json of the model that they
# started from, which does not say what fine-tuning added.
FOREIGN_TENSORS = {
    "bn.": "domain_spec_batchnorm",
    "dsbn.": "domain_spec_batchnorm",
    "batch_encoder.": "use_batch_labels",
    "mod_encoder.": "use_mod",
    "value_encoder.embedding.": "input_emb_style",
    "decoder.zero_logit.": "explicit_zero_prob",
    "mvc_decoder.W_zero_logit.": "explicit_zero_prob",
    "transformer_encoder.fast_transformer_encoder.": "fast_transformer_backend",
}

_USED = (*SIZES, "n_bins", "n_input_bins", "pad_value", "scgpt_bench")
IRRELEVANT = {  # keys that change no prediction here, by why
    "about the training, not about the model": """
        data_source save_dir load_model n_hvg n_hvp valid_size_or_ratio dist_backend dist_url grad_accu_steps
        max_seq_len mask_ratio trunc_by_sample vocab_path rank batch_size eval_batch_size epochs lr lr_ADV
        scheduler_interval scheduler_factor warmup_ratio_or_step fp16 amp log_interval save_interval save_eval_interval
        world_size distributed local_rank gpu device seed dataset_name data_name split task do_train freeze early_stop
        schedule_ratio schedule_interval per_seq_batch_sample include_zero_gene include_zero_genes load_param_prefixs
        perts_to_plot do_sample_in_train do_eval_scib_metrics adv_E_delay_epochs adv_D_delay_epochs initializer_range
        learning_rate warm_up second_pass_after clip_norm held_out max_length mlm_probability
        per_device_train_batch_size num_train_epochs output_dir logging_dir remove_unused_columns evaluation_strategy
        save_strategy""",
    "dropout, which is off in prediction and an option of fine-tuning": "dropout attention_probs_dropout_prob",
    "losses; their heads are checked when they are read": """
        no_cls no_cce USE_CLS USE_CCE CLS CCE MVC GEP GEPC MLM ECS ESC DAB DAR ADV do_mvc do_dab ecs_thres
        ecs_threshold dab_weight""",
    "heads that are not read": """
        n_layers_cls nlayers_cls n_cls use_sim_decoder decoder_activation decoder_adaptive_bias pert_pad_id""",
    "exact attention gives the same numbers, however it is computed": "fast_transformer use_fast_transformer",
    "a value that is never fed: unknown genes carry a flag": "mask_value",
    "labels of a model that is refused by another key": "num_batch_labels ntokens_mod vocab_mod",
    "known from the weights and vocab.json": "ntoken vocab vocab_size padding_idx special_tokens",
    "other names of sizes, which upstream ignores where it loads a model": """
        n_embd d_model layer_size n_layer n_layers nhead n_head n_heads d_ff hidden_size""",
    "of the program that wrote it": "_wandb architectures model_type torch_dtype dtype transformers_version",
}
KNOWN_KEYS = {*_USED, *SETTINGS, *(key for keys in IRRELEVANT.values() for key in keys.split())}


def weights_file(folder: str | Path) -> Path:
    """Return ``best_model.pt`` where there is one, else ``model.safetensors``."""
    for name in (WEIGHTS, SAFE_WEIGHTS):
        if Path(folder, name).is_file():
            return Path(folder, name)
    others = ", ".join(other_files(folder, WEIGHTS)[:3])
    raise InputError(folder, "folder", f"no weights, only {others}" if others else "no weights", _expected(WEIGHTS))


def own_file(folder: str | Path, name: str) -> Path:
    """Find the file ``name`` in a user's folder; ``model.safetensors`` serves as ``best_model.pt``."""
    path, safe = Path(folder, name), Path(folder, SAFE_WEIGHTS)
    return safe if name == WEIGHTS and safe.is_file() and not path.is_file() else path


def check_names(folder: str | Path) -> None:
    """Refuse a folder with a file that seems to be one of the three under another name."""
    for name in (WEIGHTS, ARGUMENTS, VOCABULARY):
        others = [] if own_file(folder, name).is_file() else other_files(folder, name)
        if others:
            raise InputError(folder, name, f"no such file, only {', '.join(others[:3])}", _expected(name))


def other_files(folder: str | Path, name: str) -> list[str]:
    """List files of a folder that may be the file ``name`` under another name, sorted."""
    found = {path.name for pattern in _OTHER_NAMES[name] for path in Path(folder).glob(pattern)}
    return sorted(found - {ARGUMENTS, VOCABULARY} - {path for path in found if name == WEIGHTS and "vocab" in path})


def _expected(name: str) -> str:
    return f"{WEIGHTS} or {SAFE_WEIGHTS}" if name == WEIGHTS else f"a file {name}"


def read_arguments(folder: str | Path, prefixes: Iterable[str] = ()) -> dict[str, Any]:
    """Read args.json and refuse what the model here cannot be.

    Keys that are not known are named in the log.

    Parameters
    ----------
    prefixes
        Modules of the checkpoint that are read.

    Raises
    ------
    InputError
        For sizes that are missing or do not fit each other, and for a value that :data:`SETTINGS` does not list.
    """
    path = Path(folder) / ARGUMENTS
    others = [] if path.is_file() else other_files(folder, ARGUMENTS)
    if others:
        raise InputError(path, "file", f"no such file, only {', '.join(others[:3])}", _expected(ARGUMENTS))
    arguments = read_json(path, "the model's arguments")
    if not isinstance(arguments, dict):
        raise InputError(path, "file", type(arguments).__name__, "a JSON object: the model's arguments")
    for key in SIZES:
        if type(arguments.get(key)) is not int or arguments[key] < 1:
            raise InputError(path, key, _found(arguments, key), "a positive whole number")
    if arguments["embsize"] % arguments["nheads"]:
        raise InputError(path, "nheads", str(arguments["nheads"]), f"a divisor of embsize, {arguments['embsize']}")
    bins, pad_value = arguments.get("n_bins", 51), arguments.get("pad_value", -2)
    if type(bins) is not int or not 3 <= bins <= MOST_BINS:
        raise InputError(path, "n_bins", repr(bins), f"a whole number from 3 to {MOST_BINS}")
    if arguments.get("n_input_bins") not in (None, 0, bins):
        raise InputError(path, "n_input_bins", repr(arguments["n_input_bins"]), f"{bins}, as n_bins (51 if not given)")
    largest = 3.4028234663852886e38  # of fp32
    if type(pad_value) not in (int, float) or not -largest <= pad_value <= largest:
        raise InputError(path, "pad_value", repr(pad_value), "a finite number")
    if not isinstance(arguments.get("scgpt_bench") or {}, Mapping):
        raise InputError(path, "scgpt_bench", repr(arguments["scgpt_bench"]), "an object: how the weights were made")
    prefixes = tuple(prefixes)
    for key, setting in SETTINGS.items():
        value = arguments.get(key)
        if value is not None and value not in setting.fine and setting.module in (None, *prefixes):
            fine = " or ".join(map(json.dumps, setting.fine))
            raise InputError(path, key, _short(json.dumps(value)), f"{fine}: {setting.why}")
    unknown = [key for key in arguments if key not in KNOWN_KEYS]
    if unknown:
        log.warning("%s: keys that are not known here, and not used: %s", path, _short(", ".join(unknown), 200))
    return arguments


def _found(arguments: Mapping[str, Any], key: str) -> str:
    """Describe what args.json has for a size, or where it seems to have it."""
    if key in arguments:
        return _short(repr(arguments[key]))
    inside = [outer for outer, value in arguments.items() if isinstance(value, Mapping) and key in value]
    others = [f"a key {other!r}" for other in _OTHER_NAMES[key] if other in arguments]
    others += [f"one inside {_short(outer)!r}" for outer in inside]
    return f"no such key but {', '.join(others)}" if others else "no such key"


def _short(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[:length]}..."
