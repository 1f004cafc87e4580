"""Checkpoint folders in scGPT's own layout: reading them safely, refusing what does not fit, writing them.

A folder holds ``best_model.pt`` (or ``model.safetensors``), ``args.json`` and ``vocab.json``. The projections of the
attention are named ``self_attn.Wqkv.*`` by models trained with flash-attn 1 (every published one) and
``self_attn.in_proj_*`` by plain PyTorch; they hold the same numbers, and both are read.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import scgpt_bench
from scgpt_bench.errors import InputError
from scgpt_bench.files import atomic_write, write_json
from scgpt_bench.options import ValueInput
from scgpt_bench.scgpt import torch_files
from scgpt_bench.scgpt.checkpoint_folder import (
    ARGUMENTS,
    FOREIGN_TENSORS,
    SETTINGS,
    VOCABULARY,
    WEIGHTS,
    read_arguments,
    weights_file,
)
from scgpt_bench.scgpt.vocabulary import PAD, read_vocabulary
from scgpt_bench.seeding import stream_seed

log = logging.getLogger(__name__)

PRETRAINED_PREFIXES = ("encoder", "value_encoder", "transformer_encoder")
EMBEDDING = "encoder.embedding.weight"
PERTURBATION_MODEL = ("pert_encoder.", "decoder.coeff_decoder.")

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_DEEPEST = 4  # keys from the top of a file to its state dict

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
        By name, in the layout with ``Wqkv``, in fp32 where they were asked for; mapped from the file, so only what is
        used is read.
    stored_as
        Number types that the file has them in, such as ``float16``.
    fine_tuned
        Whether it is a model that was fine-tuned on perturbations. Its encoders may have seen the data set's tests.
    """

    folder: Path
    arguments: dict[str, Any]
    vocabulary: dict[str, int]
    tensors: dict[str, Tensor]
    stored_as: tuple[str, ...] = ()
    fine_tuned: bool = False

    @property
    def pretrained(self) -> bool:
        """Return whether the weights were trained: not those that :func:`initialize` drew, which say so."""
        return bool((self.arguments.get("scgpt_bench") or {}).get("pretrained", True))

    @property
    def n_bins(self) -> int:
        """Return the number of value bins, the zero bin included, in which its encoder was pretrained."""
        return int(self.arguments.get("n_bins", 51))

    def bins_of(self, value_input: ValueInput) -> int | None:
        """Return the bins in which its value encoder is given values; None for values as they are."""
        return self.n_bins if value_input == "bins" else None


def read(folder: str | Path, prefixes: Iterable[str] = PRETRAINED_PREFIXES) -> Checkpoint:
    """Read a checkpoint and check that its files agree, for the tensors below ``prefixes``.

    Raises
    ------
    InputError
        For tensors that are missing, have another shape than args.json and vocab.json say, or are not finite; for
        tensors and settings of a model that differs from the one here.
    """
    folder, prefixes = Path(folder), tuple(prefixes)
    source = weights_file(folder)
    arguments, vocabulary = read_arguments(folder, prefixes), read_vocabulary(folder / VOCABULARY)
    tensors = read_tensors(folder)
    _refuse_foreign(source, tensors)
    embedding = tensors.get(EMBEDDING)
    if embedding is not None and embedding.ndim == 2 and len(embedding) != len(vocabulary):
        found = f"{len(vocabulary)} symbols"
        raise InputError(folder / VOCABULARY, "symbols", found, f"{len(embedding)}, the rows of the gene embedding")
    n_layers = len({name.split(".")[2] for name in tensors if name.startswith("transformer_encoder.layers.")})
    if n_layers and n_layers != arguments["nlayers"]:
        raise InputError(folder / ARGUMENTS, "nlayers", str(arguments["nlayers"]), f"{n_layers}, as in {source.name}")
    fine_tuned = any(name.startswith(PERTURBATION_MODEL) for name in tensors)
    if fine_tuned:
        log.warning("%s: fine-tuned on perturbations; its decoder and perturbation embedding are not used", source)
    expected = shapes({**arguments, "nlayers": n_layers or 1}, len(vocabulary))
    stored_as = set()
    for name in dict.fromkeys([*expected, *tensors]):
        if below(name, prefixes):
            _check_shape(source, name, tensors.get(name), expected.get(name), fine_tuned)
            stored_as.add(str(tensors[name].dtype).removeprefix("torch."))
            tensors[name] = _in_float32(source, name, tensors[name])
    return Checkpoint(folder, arguments, vocabulary, tensors, tuple(sorted(stored_as)), fine_tuned)


def _check_shape(path: Path, name: str, tensor: Tensor | None, shape: torch.Size | None, fine_tuned: bool) -> None:
    if shape is None:
        raise InputError(path, name, "a tensor that the model here does not have", "the tensors of scGPT alone")
    if tensor is None:
        found = "no such tensor in a model fine-tuned on perturbations" if fine_tuned else "no such tensor"
        raise InputError(path, name, found, f"shape {list(shape)}")
    if tensor.shape != shape:
        expected = f"{list(shape)}, as {ARGUMENTS} and {VOCABULARY} say"
        raise InputError(path, name, f"shape {list(tensor.shape)}", expected)


def _in_float32(path: Path, name: str, tensor: Tensor) -> Tensor:
    """Cast a tensor to the type that everything here computes in; itself where it has that type."""
    if tensor.layout != torch.strided or not tensor.is_floating_point() or tensor.is_meta:
        found = "a name without values" if tensor.is_meta else f"{tensor.layout} of {tensor.dtype}"
        raise InputError(path, name, found, "a dense tensor of floating-point numbers")
    try:
        tensor = tensor.to(torch.float32)
    except RuntimeError:  # two 4-bit numbers in a byte, for one
        raise InputError(path, name, str(tensor.dtype), "a number type that PyTorch turns into fp32") from None
    if not tensor.isfinite().all():
        raise InputError(path, name, "values that are not finite in fp32", "finite weights")
    return tensor


def _refuse_foreign(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name in tensors:
        for start, key in FOREIGN_TENSORS.items():
            if name.startswith(start):
                raise InputError(path, name, f"a tensor of another {key}", f"a model without it: {SETTINGS[key].why}")
    if "token_ids" in tensors:
        what = "the rows of one data set's genes: a model that this workflow fine-tuned"
        raise InputError(path, "token_ids", what, "the embedding of a whole vocabulary")


def read_tensors(folder: str | Path) -> dict[str, Tensor]:
    """Read the weights of a folder by scGPT's own names, in the layout with ``Wqkv``; run no code in the file."""
    path = weights_file(folder)
    expected = "a state dict of tensors alone, as torch.save(model.state_dict()) writes"
    stored = torch_files.read(path, expected, mapped=True)
    found = dict(_state_dicts(stored))
    models = [place for place in found if EMBEDDING in _unwrapped(path, found[place])] or list(found)[:1]
    if len(models) != 1:
        what = f"weights in {' and '.join(models[:3])}" if models else f"no tensors in a {type(stored).__name__}"
        raise InputError(path, "file", what, expected)
    log.info("%s: weights read from %s", path, models[0] or "the top of the file")
    return _unwrapped(path, found[models[0]])


def _state_dicts(
    thing: Any, place: tuple[str, ...] = (), seen: set[int] | None = None
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Find every mapping in ``thing`` that has tensors by name, beside whatever else is in it, and the keys to it."""
    seen = set() if seen is None else seen
    if not isinstance(thing, Mapping) or id(thing) in seen or len(place) > _DEEPEST:
        return
    seen.add(id(thing))
    tensors = {name: tensor for name, tensor in thing.items() if isinstance(name, str) and isinstance(tensor, Tensor)}
    if tensors:
        yield ".".join(place), tensors
    for key, inner in thing.items():
        if isinstance(key, str):
            yield from _state_dicts(inner, (*place, key), seen)


def _unwrapped(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strip the prefixes that DistributedDataParallel, torch.compile, Lightning and the like put before names."""
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        own = ".".join(part for part in name.split(".") if part not in _WRAPPERS).replace("in_proj_", "Wqkv.")
        if own in plain:
            raise InputError(path, name, "a second tensor of this name", "each tensor once")
        plain[own] = tensor.detach()
    prefixes = {name.removesuffix(EMBEDDING) for name in plain if f".{name}".endswith(f".{EMBEDDING}")}
    if len(prefixes) > 1:
        raise InputError(
            path, "file", f"models {' and '.join(map(repr, sorted(prefixes)[:3]))}", "the weights of one model"
        )
    prefix = prefixes.pop() if prefixes else ""
    return {name.removeprefix(prefix): tensor for name, tensor in plain.items()}


def shapes(arguments: Mapping[str, Any], n_tokens: int) -> dict[str, torch.Size]:
    """List the tensors of a pretrained scGPT by name: 163 for 12 layers, as in the published checkpoints."""
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
    """Return whether a tensor belongs to one of the modules ``prefixes``."""
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
    with atomic_write(folder / WEIGHTS) as partial:
        torch.save({name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, partial)


def load_report(
    checkpoint: Checkpoint, loaded: Mapping[str, Tensor], random: Mapping[str, Tensor], seed: int
) -> dict[str, Any]:
    """Return where a model's weights come from, for its method record.

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
    ``checkpoint`` (folder name), ``checkpoint_pretrained`` (False: its weights are random too),
    ``checkpoint_fine_tuned``, ``stored_as`` (see :class:`Checkpoint`), ``seed``, and for each of
    ``pretrained``, ``random``, ``unused``: the number of parameters by tensor, and their sum as ``n_<status>``.
    """
    unused = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in loaded}
    report: dict[str, Any] = {
        "checkpoint": checkpoint.folder.name,
        "checkpoint_pretrained": checkpoint.pretrained,
        "checkpoint_fine_tuned": checkpoint.fine_tuned,
        "stored_as": list(checkpoint.stored_as),
        "seed": seed,
    }
    for status, tensors in {"pretrained": loaded, "random": random, "unused": unused}.items():
        report[status] = {name: tensor.numel() for name, tensor in tensors.items()}
        report[f"n_{status}"] = sum(report[status].values())
    return report
