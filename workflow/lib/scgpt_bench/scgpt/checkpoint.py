"""Checkpoint folders in scGPT's own layout: reading them safely, refusing what does not fit, writing them.

A folder holds ``best_model.pt`` (or ``model.safetensors``), ``args.json`` and ``vocab.json``. The projections of the
attention are named ``self_attn.Wqkv.*`` by models trained with flash-attn 1 (every published one) and
``self_attn.in_proj_*`` by plain PyTorch; they hold the same numbers, and both are read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import scgpt_bench
from scgpt_bench.errors import InputError
from scgpt_bench.files import first_line, read_json, whole, write_json
from scgpt_bench.scgpt import torch_files
from scgpt_bench.scgpt.vocabulary import PAD, read_vocabulary
from scgpt_bench.seeding import stream_seed

WEIGHTS, SAFE_WEIGHTS, ARGUMENTS, VOCABULARY = "best_model.pt", "model.safetensors", "args.json", "vocab.json"
PRETRAINED_PREFIXES = ("encoder", "value_encoder", "transformer_encoder")
MOST_BINS = 1000  # the memory of a batch grows with them; published checkpoints have 51
SIZES = ("embsize", "nlayers", "nheads", "d_hid")

_INSTEAD_OF_DOWNLOADED = {  # what scGPT_human's args.json says beside the sizes
    "n_layers_cls": 3,
    "dropout": 0.2,
    "n_bins": 51,
    "pad_token": PAD,
    "pad_value": -2,
    "mask_value": -1,
    "input_style": "binned",
    "input_emb_style": "continuous",
}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files agree with each other.

    Attributes
    ----------
    folder
        Where it was read from.
    arguments
        args.json.
    vocabulary
        Token ids by gene symbol.
    tensors
        By name, in the layout with ``Wqkv``; mapped from the file, so only what is used is read.
    """

    folder: Path
    arguments: dict[str, Any]
    vocabulary: dict[str, int]
    tensors: dict[str, Tensor]

    @property
    def pretrained(self) -> bool:
        """False for weights that :func:`initialize` drew; a checkpoint that does not say so was trained."""
        return bool((self.arguments.get("scgpt_bench") or {}).get("pretrained", True))


def read(folder: str | Path, prefixes: Iterable[str] = PRETRAINED_PREFIXES) -> Checkpoint:
    """Read a checkpoint and check that its files agree, for the tensors below ``prefixes``.

    Raises
    ------
    InputError
        For tensors that are missing, have another shape than args.json and vocab.json say, or are not finite.
    """
    folder = Path(folder)
    arguments, vocabulary, tensors = read_arguments(folder), read_vocabulary(folder / VOCABULARY), read_tensors(folder)
    source = weights_file(folder)
    embedding = tensors.get("encoder.embedding.weight")
    if embedding is not None and len(embedding) != len(vocabulary):
        found = f"{len(vocabulary)} symbols"
        raise InputError(folder / VOCABULARY, "symbols", found, f"{len(embedding)}, the rows of the gene embedding")
    n_layers = len({name.split(".")[2] for name in tensors if name.startswith("transformer_encoder.layers.")})
    if n_layers and n_layers != arguments["nlayers"]:
        raise InputError(folder / ARGUMENTS, "nlayers", str(arguments["nlayers"]), f"{n_layers}, as in {source.name}")
    for name, shape in shapes({**arguments, "nlayers": n_layers or 1}, len(vocabulary)).items():
        if not below(name, prefixes):
            continue
        if name not in tensors:
            raise InputError(source, name, "no such tensor", f"shape {list(shape)}")
        if tensors[name].shape != shape:
            expected = f"{list(shape)}, as {ARGUMENTS} and {VOCABULARY} say"
            raise InputError(source, name, f"shape {list(tensors[name].shape)}", expected)
        if not tensors[name].isfinite().all():
            raise InputError(source, name, "values that are not finite", "finite weights")
    return Checkpoint(folder, arguments, vocabulary, tensors)


def read_arguments(folder: str | Path) -> dict[str, Any]:
    """Read args.json; what a job takes from it has the right type, and the width is a multiple of the heads."""
    path = Path(folder) / ARGUMENTS
    arguments = read_json(path, "the model's arguments")
    if not isinstance(arguments, dict):
        raise InputError(path, "file", type(arguments).__name__, "a JSON object: the model's arguments")
    for key in SIZES:
        if type(arguments.get(key)) is not int or arguments[key] < 1:
            raise InputError(path, key, repr(arguments.get(key)), "a positive whole number")
    if arguments["embsize"] % arguments["nheads"]:
        raise InputError(path, "nheads", str(arguments["nheads"]), f"a divisor of embsize, {arguments['embsize']}")
    bins, pad_value = arguments.get("n_bins", 51), arguments.get("pad_value", -2)
    if type(bins) is not int or not 3 <= bins <= MOST_BINS:
        raise InputError(path, "n_bins", repr(bins), f"a whole number from 3 to {MOST_BINS}")
    largest = torch.finfo(torch.float32).max
    if type(pad_value) not in (int, float) or not -largest <= pad_value <= largest:
        raise InputError(path, "pad_value", repr(pad_value), "a finite number")
    if not isinstance(arguments.get("scgpt_bench") or {}, Mapping):
        raise InputError(path, "scgpt_bench", repr(arguments["scgpt_bench"]), "an object: how the weights were made")
    return arguments


def read_tensors(folder: str | Path) -> dict[str, Tensor]:
    """The weights of a folder by name, in the layout with ``Wqkv``; no code in the file is ever run."""
    path, expected = weights_file(folder), "a state dict of tensors"
    safe = path.name == SAFE_WEIGHTS
    tensors = _read_safetensors(path, expected) if safe else torch_files.read(path, expected, mapped=True)
    if not isinstance(tensors, Mapping) or not tensors:
        raise InputError(path, "file", type(tensors).__name__, expected)
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise InputError(path, repr(name), type(tensor).__name__, "a tensor")
        if tensor.layout != torch.strided or not tensor.is_floating_point():
            raise InputError(
                path, name, f"{tensor.layout} of {tensor.dtype}", "a dense tensor of floating-point numbers"
            )
    return {name.replace("in_proj_", "Wqkv."): tensor for name, tensor in tensors.items()}


def _read_safetensors(path: Path, expected: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # safetensors raises whatever the header leads to
        raise InputError(path, "file", f"{first_line(error)} ({path.stat().st_size} bytes)", expected) from None


def weights_file(folder: str | Path) -> Path:
    """``best_model.pt`` where there is one, else ``model.safetensors``."""
    for name in (WEIGHTS, SAFE_WEIGHTS):
        if Path(folder, name).is_file():
            return Path(folder, name)
    raise InputError(folder, "folder", "no weights", f"{WEIGHTS} or {SAFE_WEIGHTS}")


def shapes(arguments: Mapping[str, Any], n_tokens: int) -> dict[str, torch.Size]:
    """The tensors of a pretrained scGPT by name: 163 for 12 layers, as in the published checkpoints."""
    width, hidden = arguments["embsize"], arguments["d_hid"]
    layer = {
        "self_attn.Wqkv": (3 * width, width),
        "self_attn.out_proj": (width, width),
        "linear1": (hidden, width),
        "linear2": (width, hidden),
        "norm1": (width,),
        "norm2": (width,),
    }
    with_bias = {
        "encoder.enc_norm": (width,),
        "value_encoder.linear1": (width, 1),
        "value_encoder.linear2": (width, width),
        "value_encoder.norm": (width,),
        **{
            f"transformer_encoder.layers.{i}.{part}": shape
            for i in range(arguments["nlayers"])
            for part, shape in layer.items()
        },
        "decoder.fc.0": (width, width),
        "decoder.fc.2": (width, width),
        "decoder.fc.4": (1, width),
        "mvc_decoder.gene2query": (width, width),
    }
    tensors = {"encoder.embedding.weight": (n_tokens, width), "flag_encoder.weight": (2, width)}
    for name, shape in with_bias.items():
        tensors |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    tensors["mvc_decoder.W.weight"] = (width, width)
    return {name: torch.Size(shape) for name, shape in tensors.items()}


def below(name: str, prefixes: Iterable[str]) -> bool:
    """Whether a tensor belongs to one of the modules ``prefixes``."""
    return name.startswith(tuple(f"{prefix}." for prefix in prefixes))


def initialize(folder: str | Path, arguments: Mapping[str, Any], vocabulary: Mapping[str, int], seed: int) -> None:
    """Write an untrained checkpoint: random weights, with the names and shapes of a pretrained one.

    Each tensor is drawn by its name as PyTorch draws it (uniform for linear layers, ones and zeros for norms) and
    scGPT the gene embedding (uniform between -0.1 and 0.1). ``args.json`` says that nothing was trained.
    """
    tensors = {}
    for name, shape in shapes(arguments, len(vocabulary)).items():
        generator = torch.Generator().manual_seed(stream_seed(seed, "checkpoint", name))
        module, kind = name.rsplit(".", 1)
        if "norm" in module:
            tensors[name] = torch.full(shape, float(kind == "weight"))
        elif module == "flag_encoder":
            tensors[name] = torch.randn(shape, generator=generator)
        else:
            fan_in = 1 if module == "value_encoder.linear1" else arguments["embsize"]
            fan_in = arguments["d_hid"] if module.endswith("linear2") and "layers" in module else fan_in
            limit = 0.1 if module == "encoder.embedding" else 1 / math.sqrt(fan_in)
            tensors[name] = torch.empty(shape).uniform_(-limit, limit, generator=generator)
    note = {"pretrained": False, "made_by": f"scgpt-bench {scgpt_bench.__version__}, random weights", "seed": seed}
    write(folder, tensors, _INSTEAD_OF_DOWNLOADED | dict(arguments) | {"scgpt_bench": note}, vocabulary)


def write(
    folder: str | Path, tensors: Mapping[str, Tensor], arguments: Mapping[str, Any], vocabulary: Mapping[str, int]
) -> None:
    """Write a checkpoint folder, each file whole; weights come last, so that a folder with weights is complete."""
    folder = Path(folder)
    write_json(dict(vocabulary), folder / VOCABULARY)
    write_json(dict(arguments), folder / ARGUMENTS)
    with whole(folder / WEIGHTS) as partial:
        torch.save({name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, partial)


def load_report(
    checkpoint: Checkpoint, loaded: Mapping[str, Tensor], random: Mapping[str, Tensor], seed: int
) -> dict[str, Any]:
    """What a model's weights are, for ``uns["method"]``.

    Parameters
    ----------
    loaded
        Tensors of the checkpoint that the model took, by their name in the checkpoint.
    random
        Parameters of the model that were drawn, by name.
    seed
        Of the draw.

    Returns
    -------
    ``checkpoint`` (folder name), ``checkpoint_pretrained`` (False: its weights are random too), ``seed``, and for each
    of ``pretrained``, ``random``, ``unused``: the number of parameters by tensor, and their sum as ``n_<status>``.
    """
    unused = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in loaded}
    report: dict[str, Any] = {
        "checkpoint": checkpoint.folder.name,
        "checkpoint_pretrained": checkpoint.pretrained,
        "seed": seed,
    }
    for status, tensors in {"pretrained": loaded, "random": random, "unused": unused}.items():
        report[status] = {name: tensor.numel() for name, tensor in tensors.items()}
        report[f"n_{status}"] = sum(report[status].values())
    return report
