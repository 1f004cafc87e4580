"""A checkpoint is read without running its code, and refused where its files contradict each other."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from scgpt_bench.errors import InputError
from scgpt_bench.scgpt import checkpoint

ARGUMENTS = {"embsize": 8, "nlayers": 2, "nheads": 2, "d_hid": 6}
VOCABULARY = {"A": 0, "B": 1, "<pad>": 2, "<cls>": 3, "<eoc>": 4}


@pytest.fixture
def folder(tmp_path):
    checkpoint.initialize(tmp_path / "tiny", ARGUMENTS, VOCABULARY, seed=1)
    return tmp_path / "tiny"


def change_tensors(folder, change):
    tensors = dict(checkpoint.read_tensors(folder))
    change(tensors)
    torch.save({name: tensor.clone() for name, tensor in tensors.items()}, folder / "best_model.pt")


def change_arguments(folder, **changes):
    path = folder / "args.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_twelve_layers_have_the_163_tensors_of_the_published_checkpoint(human_arguments):
    shapes = checkpoint.shapes(checkpoint.read_arguments(human_arguments), 60_697)
    assert len(shapes) == 163
    assert sum(shape.numel() for shape in shapes.values()) == 51_330_049
    assert shapes["transformer_encoder.layers.11.self_attn.Wqkv.weight"] == (1536, 512)


def test_an_initialized_checkpoint_is_complete_and_says_that_nothing_was_trained(folder):
    read = checkpoint.read(folder)
    assert {name: tensor.shape for name, tensor in read.tensors.items()} == checkpoint.shapes(ARGUMENTS, 5)
    assert read.vocabulary == VOCABULARY
    assert not read.pretrained


def test_a_checkpoint_that_does_not_say_otherwise_was_trained(folder):
    change_arguments(folder, scgpt_bench=None)
    assert checkpoint.read(folder).pretrained


def test_initial_weights_depend_on_the_seed_and_their_name_only(tmp_path, folder):
    checkpoint.initialize(tmp_path / "again", ARGUMENTS, VOCABULARY, seed=1)
    checkpoint.initialize(tmp_path / "other", ARGUMENTS, VOCABULARY, seed=2)
    checkpoint.initialize(tmp_path / "deeper", ARGUMENTS | {"nlayers": 3}, VOCABULARY, seed=1)
    first, again, other, deeper = (
        checkpoint.read_tensors(path) for path in (folder, *(tmp_path / name for name in ("again", "other", "deeper")))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["decoder.fc.0.weight"], other["decoder.fc.0.weight"])
    assert all(torch.equal(first[name], deeper[name]) for name in first)


def test_the_plain_layout_and_safetensors_hold_the_same_tensors(folder):
    expected = {name: tensor.clone() for name, tensor in checkpoint.read_tensors(folder).items()}
    plain = {name.replace("Wqkv.", "in_proj_"): tensor for name, tensor in expected.items()}
    torch.save(plain, folder / "best_model.pt")
    assert_same(checkpoint.read(folder).tensors, expected)
    (folder / "best_model.pt").unlink()
    save_file(plain, folder / "model.safetensors")
    assert_same(checkpoint.read(folder).tensors, expected)


def test_a_file_of_an_old_torch_is_read(folder):
    expected = {name: tensor.clone() for name, tensor in checkpoint.read_tensors(folder).items()}
    torch.save(expected, folder / "best_model.pt", _use_new_zipfile_serialization=False)
    assert_same(checkpoint.read_tensors(folder), expected)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


class Attack:
    ran = False

    def __reduce__(self):
        return (setattr, (Attack, "ran", True))


@pytest.mark.parametrize("save", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
def test_a_pickle_with_code_is_refused_and_its_code_does_not_run(folder, save):
    save({"encoder.embedding.weight": Attack()}, folder / "best_model.pt")
    with pytest.raises(InputError, match="more than plain tensors"):
        checkpoint.read(folder)
    assert not Attack.ran


def test_tensors_that_are_not_needed_may_be_missing(folder):
    change_tensors(folder, lambda tensors: tensors.pop("mvc_decoder.W.weight"))
    assert "mvc_decoder.W.weight" not in checkpoint.read(folder).tensors
    with pytest.raises(InputError, match=r"mvc_decoder\.W\.weight"):
        checkpoint.read(folder, prefixes=("mvc_decoder",))
