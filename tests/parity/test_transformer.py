"""The layers compute what torch.nn.TransformerEncoder computes, in inference and in training."""

import pytest
import torch
from torch import nn

from scgpt_bench.scgpt.attention import Cells
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


def packed(ours, x):
    """Ours over cells [cells x length x width] of equal length."""
    return ours(x.flatten(0, 1), Cells([x.shape[1]] * len(x))).view(x.shape)


@pytest.mark.parametrize(("cells", "length"), [(1, 1), (3, 7), (2, 130)])
def test_inference_is_that_of_pytorch(cells, length, device, tolerance):
    upstream, ours = encoder(device)
    x = torch.randn(cells, length, 32).to(device)
    with torch.no_grad():
        assert largest_difference(packed(ours.eval(), x), upstream.eval()(x)) < tolerance


def test_gradients_are_those_of_pytorch(device, tolerance):
    upstream, ours = encoder(device)
    x = torch.randn(2, 11, 32).to(device)
    gradients = []
    for module, predicted in ((upstream, upstream.train()(x)), (ours, packed(ours.train(), x))):
        module.zero_grad()
        predicted.square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in module.parameters()])
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=10 * tolerance, atol=tolerance / 10)


def test_dropout_acts_in_training_only(device):
    _, ours = encoder(device, dropout=0.5)
    x = torch.randn(1, 5, 32).to(device)
    with torch.no_grad():
        assert largest_difference(packed(ours.train(), x), packed(ours, x)) > 0.1
        assert torch.equal(packed(ours.eval(), x), packed(ours, x))


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
        for predict in [ours.eval(), *([CpuEncoder(ours)] if device.type == "cpu" else [])]:
            assert largest_difference(predict(torch.cat(cells), Cells(lengths)), expected) < tolerance
