"""Weights are read in every form that people save them in, or refused with the line that says what to do."""

import argparse
import collections
import json
import logging
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from scgpt_bench.errors import InputError
from scgpt_bench.scgpt import checkpoint, masked_model, model

ARGUMENTS = {"embsize": 8, "nlayers": 2, "nheads": 2, "d_hid": 6}
VOCABULARY = {"A": 0, "B": 1, "<pad>": 2, "<cls>": 3, "<eoc>": 4}
LAYER = "transformer_encoder.layers.0."


@pytest.fixture
def folder(tmp_path):
    checkpoint.initialize(tmp_path / "tiny", ARGUMENTS, VOCABULARY, seed=1)
    return tmp_path / "tiny"


@pytest.fixture
def tensors(folder):
    return {name: tensor.clone() for name, tensor in checkpoint.read_tensors(folder).items()}


def replaced(tensors, old, new):
    return {name.replace(old, new): tensor for name, tensor in tensors.items()}


def before(tensors, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


WRAPPED = {
    "distributed": lambda w: before(w, "module."),
    "compiled": lambda w: before(w, "_orig_mod."),
    "both": lambda w: before(w, "module._orig_mod."),
    "both, the other way": lambda w: before(w, "_orig_mod.module."),
    "layers compiled": lambda w: replaced(
        w, "transformer_encoder.layers.0.", "transformer_encoder.layers.0._orig_mod."
    ),
    "FSDP": lambda w: replaced(w, "layers.", "_fsdp_wrapped_module.layers."),
    "checkpointed layers": lambda w: replaced(w, "layers.1.", "layers.1._checkpoint_wrapped_module."),
    "Lightning": lambda w: {"state_dict": before(w, "model."), "epoch": 3, "global_step": 9},
    "Lightning, compiled": lambda w: {"state_dict": before(w, "model._orig_mod."), "epoch": 3},
    "a criterion beside": lambda w: {"state_dict": before(w, "net.") | {"criterion.weight": torch.ones(3)}},
    "model_state_dict": lambda w: {"model_state_dict": w, "optimizer_state_dict": {"state": {0: {"exp_avg": w}}}},
    "DeepSpeed": lambda w: {"module": w, "ds_version": "0.9"},
    "two levels": lambda w: {"checkpoint": {"model": before(w, "module.")}, "loss": torch.tensor(0.3)},
    "optimizer beside": lambda w: w | {"optimizer": {"lr": 0.1}, "epoch": 2},
    "ordered": lambda w: collections.OrderedDict(w),
    "parameters": lambda w: {name: torch.nn.Parameter(tensor) for name, tensor in w.items()},
    "plain PyTorch, distributed": lambda w: before(replaced(w, "Wqkv.", "in_proj_"), "module."),
    "counters beside": lambda w: w | {"steps": torch.tensor(7)},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_wrapped_weights_are_the_weights(folder, tensors, wrap, zipped):
    torch.save(wrap(tensors), folder / "best_model.pt", _use_new_zipfile_serialization=zipped)
    read = masked_model.load(folder)[1]
    assert all(torch.equal(read.tensors[name], tensor) for name, tensor in tensors.items())
    assert not any(tensor.requires_grad for tensor in read.tensors.values())


def test_where_the_weights_were_is_said(folder, tensors, caplog):
    torch.save({"checkpoint": {"model": tensors}}, folder / "best_model.pt")
    with caplog.at_level(logging.INFO):
        weights = checkpoint.read(folder)
    assert "weights read from checkpoint.model" in caplog.text
    report = checkpoint.load_report(weights, {}, {}, 0)
    assert report["stored_as"] == ["float32"]
    assert report["checkpoint_fine_tuned"] is False
    json.dumps(report)


REFUSED = {
    "two models": (lambda w: {"model": w, "ema": dict(w)}, "weights in model and ema"),
    "teacher and student": (lambda w: before(w, "a.") | before(w, "b."), "models 'a.' and 'b.'"),
    "a name twice": (lambda w: w | before(w, "module."), "a second tensor of this name"),
    "an argparse namespace": (lambda w: {"state_dict": w, "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
    "a NumPy number": (lambda w: {"state_dict": w, "best": np.float64(1)}, "scalar"),
    "an object": (lambda w: {"state_dict": w, "args": SimpleNamespace(lr=1)}, "types.SimpleNamespace"),
    "an optimizer alone": (lambda w: {"lr": 0.1}, "no tensors in a dict"),
    "no values": (lambda w: {name: tensor.to("meta") for name, tensor in w.items()}, "a name without values"),
    "whole numbers": (lambda w: {name: (tensor * 100).to(torch.int8) for name, tensor in w.items()}, "int8"),
    "too large for fp32": (
        lambda w: w | {"encoder.enc_norm.bias": torch.full((8,), 1e300, dtype=torch.float64)},
        "not finite in fp32",
    ),
    "LoRA beside": (lambda w: w | {f"{LAYER}linear1.lora_A": torch.ones(2, 8)}, "does not have"),
    "a last norm": (lambda w: w | {"transformer_encoder.norm.weight": torch.ones(8)}, "does not have"),
    "a scale of fp8": (lambda w: w | {f"{LAYER}linear1.weight_scale": torch.ones(1)}, "does not have"),
    "batch norm": (lambda w: w | {"bn.weight": torch.ones(8)}, "another domain_spec_batchnorm"),
    "batch norms": (lambda w: w | {"dsbn.bns.0.running_mean": torch.ones(8)}, "another domain_spec_batchnorm"),
    "batch labels": (lambda w: w | {"batch_encoder.embedding.weight": torch.ones(3, 8)}, "another use_batch_labels"),
    "modalities": (lambda w: w | {"mod_encoder.embedding.weight": torch.ones(3, 8)}, "another use_mod"),
    "embedded bins": (lambda w: w | {"value_encoder.embedding.weight": torch.ones(53, 8)}, "another input_emb_style"),
    "zeros apart": (lambda w: w | {"decoder.zero_logit.0.bias": torch.ones(8)}, "another explicit_zero_prob"),
    "one data set's rows": (lambda w: w | {"token_ids": torch.arange(5)}, "that this workflow fine-tuned"),
}


@pytest.mark.parametrize(("change", "found"), REFUSED.values(), ids=REFUSED)
def test_weights_that_would_be_misread_are_refused(folder, tensors, change, found):
    torch.save(change(tensors), folder / "best_model.pt")
    with pytest.raises(InputError) as error:
        checkpoint.read(folder)
    assert found in error.value.found, error.value
    assert "\n" not in str(error.value)


def test_a_model_with_linear_attention_is_refused(folder, tensors):
    torch.save(replaced(tensors, "encoder.layers", "encoder.fast_transformer_encoder.layers"), folder / "best_model.pt")
    with pytest.raises(InputError, match="another fast_transformer_backend"):
        checkpoint.read(folder)


CONTAINERS = {
    "a pointer of Git LFS": b"version https://git-lfs.example/spec/v1\noid sha256:00\nsize 205\n",
    "a web page (HTML)": b"\n<!DOCTYPE html><html>Virus scan warning</html>",
    "a tar archive": bytes(257) + b"ustar" + bytes(90),
    "an empty file": b"",
    "JSON": b'{"embsize": 512, "nheads": 8, "nlayers": 12}',
}


@pytest.mark.parametrize(("kind", "content"), CONTAINERS.items(), ids=CONTAINERS)
def test_files_that_are_no_weights_are_named(folder, kind, content):
    (folder / "best_model.pt").write_bytes(content)
    with pytest.raises(InputError) as error:
        checkpoint.read(folder)
    assert error.value.found == f"{kind} ({len(content)} bytes)"


def test_archives_of_other_programs_are_named(folder):
    torch.jit.script(torch.nn.Linear(2, 2)).save(folder / "best_model.pt")
    with pytest.raises(InputError, match="found a TorchScript program"):
        checkpoint.read(folder)
    with zipfile.ZipFile(folder / "best_model.pt", "w") as archive:
        archive.writestr("scGPT_human/best_model.pt", "x")
    with pytest.raises(InputError, match=r"found a zip of 'scGPT_human/best_model\.pt'"):
        checkpoint.read(folder)


def test_safetensors_are_read_under_either_name(folder, tensors):
    save_file(before(tensors, "module."), folder / "best_model.pt", metadata={"format": "pt"})
    assert torch.equal(checkpoint.read(folder).tensors[f"{LAYER}linear1.weight"], tensors[f"{LAYER}linear1.weight"])


TYPES = [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("number_type", TYPES, ids=str)
@pytest.mark.parametrize("save", [torch.save, save_file])
def test_every_floating_type_is_its_cast_to_fp32(folder, tensors, number_type, save):
    name = "best_model.pt" if save is torch.save else "model.safetensors"
    (folder / "best_model.pt").unlink()
    stored = {key: tensor.to(number_type) for key, tensor in tensors.items()}
    save(stored, folder / name)
    network, weights = masked_model.load(folder)
    assert weights.stored_as == (str(number_type).removeprefix("torch."),)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert all(torch.equal(weights.tensors[key], tensor.float()) for key, tensor in stored.items())


def fine_tuned(tensors):
    """What upstream's perturbation tutorial saves: the encoders, a perturbation embedding and another decoder."""
    generator = model.build(ARGUMENTS, VOCABULARY)
    own = {name.replace("in_proj_", "Wqkv."): torch.zeros_like(value) for name, value in generator.state_dict().items()}
    assert "decoder.coeff_decoder.fc.0.weight" in own
    return own | {name: tensor for name, tensor in tensors.items() if name in own}


def test_of_a_model_fine_tuned_on_perturbations_the_encoders_are_read_and_it_is_said(folder, tensors, caplog):
    torch.save(fine_tuned(tensors), folder / "best_model.pt")
    with caplog.at_level(logging.WARNING):
        weights = checkpoint.read(folder)
    assert "fine-tuned on perturbations; its decoder and perturbation embedding are not used" in caplog.text
    report = model.load(model.build(weights.arguments, weights.vocabulary), weights)
    assert report["checkpoint_fine_tuned"] is True
    assert {"pert_encoder.weight", "decoder.coeff_decoder.fc.0.weight"} <= report["unused"].keys()
    assert {"pert_encoder.weight", "decoder.coeff_decoder.fc.0.weight"} <= report["random"].keys()
    assert set(report["pretrained"]) == {
        name for name in tensors if checkpoint.below(name, checkpoint.PRETRAINED_PREFIXES)
    }
    with pytest.raises(InputError, match="fine-tuned on perturbations; expected shape"):
        masked_model.load(folder)


def test_the_size_of_a_head_that_is_never_called_does_not_matter(folder):
    path = folder / "args.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_layers_cls": None, "dropout": "0.2"}))
    weights = checkpoint.read(folder)
    assert model.load(model.build(weights.arguments, weights.vocabulary), weights)["n_random"] > 0
