"""The layers compute what torch.nn.TransformerEncoder computes, in inference and in training."""

import pytest
import torch
from torch import nn

from scgpt_bench.scgpt import transformer
from scgpt_bench.scgpt.transformer import CpuEncoder, Encoder


def encoder(device, width=32, heads=4, hidden=48, layers=3, dropout=0.0):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(width, heads, hidden, dropout, batch_first=True)
    upstream = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
    for parameter in upstream.parameters():
        nn.init.normal_(parameter, std=0.3)
    upstream = upstream.to(device)
    return upstream, Encoder(upstream)


def largest_difference(a, b):
    return (a - b).abs().max().item()


@pytest.mark.parametrize(("cells", "length"), [(1, 1), (3, 7), (2, 130)])
def test_inference_is_that_of_pytorch(cells, length, device, tolerance):
    upstream, ours = encoder(device)
    x = torch.randn(cells, length, 32).to(device)
    with torch.no_grad():
        assert largest_difference(ours.eval()(x), upstream.eval()(x)) < tolerance


def test_padded_positions_are_neither_read_nor_written(device, tolerance):
    upstream, ours = encoder(device)
    x, padding = torch.randn(3, 9, 32).to(device), torch.zeros(3, 9, dtype=torch.bool, device=device)
    padding[1, 5:] = padding[2, :4] = True
    with torch.no_grad():
        expected = upstream.eval()(x, src_key_padding_mask=padding)
        found = ours.eval()(x, src_key_padding_mask=padding)
    assert largest_difference(found[~padding], expected[~padding]) < tolerance
    assert not found[padding].any()


def test_gradients_are_those_of_pytorch(device, tolerance):
    upstream, ours = encoder(device)
    x = torch.randn(2, 11, 32).to(device)
    gradients = []
    for module in (upstream.train(), ours.train()):
        module.zero_grad()
        module(x).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in module.parameters()])
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=10 * tolerance, atol=tolerance / 10)


def test_dropout_acts_in_training_only(device):
    _, ours = encoder(device, dropout=0.5)
    x = torch.randn(1, 5, 32).to(device)
    with torch.no_grad():
        assert largest_difference(ours.train()(x), ours(x)) > 0.1
        assert torch.equal(ours.eval()(x), ours(x))


def test_names_and_shapes_of_parameters_stay_those_of_upstream():
    upstream, ours = encoder("cpu")
    assert {name: p.shape for name, p in ours.state_dict().items()} == {
        name: p.shape for name, p in upstream.state_dict().items()
    }


@pytest.mark.parametrize("lengths", [[5, 5, 5], [3, 900, 1, 40], [3100]])
def test_packed_cells_do_not_see_each_other(lengths, device, tolerance):
    upstream, ours = encoder(device)
    cells = [torch.randn(length, 32).to(device) for length in lengths]
    with torch.no_grad():
        expected = torch.cat([upstream.eval()(cell[None])[0] for cell in cells])
        for packed in [ours.eval().packed, *([CpuEncoder(ours)] if device.type == "cpu" else [])]:
            assert largest_difference(packed(torch.cat(cells), lengths), expected) < tolerance


def test_the_backend_is_named_with_its_version():
    name = transformer.backend_name(torch.device("cpu"), torch.float32)
    assert name == f"sdpa (torch {torch.__version__}, float32)"
    assert transformer.backend(torch.device("cuda"), torch.float32) == "sdpa"


@pytest.mark.skipif(
    not torch.cuda.is_available() or transformer.flash_attn_varlen_qkvpacked_func is None,
    reason="needs a CUDA device and flash-attn 2",
)
def test_flash_attention_and_sdpa_agree_in_bf16():
    torch.manual_seed(0)
    lengths = [300, 17, 1100]
    qkv = torch.randn(sum(lengths), 3 * 512, device="cuda")
    exact = transformer.attend(qkv, lengths, heads=8)
    assert transformer.backend(qkv.device, torch.bfloat16) == "flash_attn"
    assert largest_difference(transformer.attend(qkv.bfloat16(), lengths, heads=8).float(), exact) < 2e-2
