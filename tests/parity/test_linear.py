"""Linear layers by oneDNN equal PyTorch's, in values and gradients; other numbers than fp32 on a CPU are PyTorch's."""

import pytest
import torch
from torch.nn import functional

from scgpt_bench.scgpt import linear as module
from scgpt_bench.scgpt.linear import linear, projections


@pytest.fixture(autouse=True)
def of_every_size(monkeypatch):
    monkeypatch.setattr(module, "WORTH_IT", 1)


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).requires_grad_()


def assert_same(ours, theirs, *inputs):
    """The outputs, and the gradients of all inputs."""
    found = []
    for function in (ours, theirs):
        output = function(*inputs)
        weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
        found.append([output, *torch.autograd.grad((output * weight).sum(), inputs)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 300])
def test_a_layer_and_its_gradients_are_pytorchs(rows):
    x, weight, bias, residual = draw(rows, 48), draw(32, 48), draw(32), draw(rows, 32)
    assert module._by_onednn(x, weight)
    assert_same(linear, functional.linear, x, weight, bias)
    assert_same(linear, functional.linear, x, weight)
    assert_same(
        lambda *given: linear(*given, relu=True), lambda *given: functional.linear(*given).relu(), x, weight, bias
    )
    assert_same(
        lambda *given: linear(*given[:3], added_to=given[3]),
        lambda *given: given[3] + functional.linear(*given[:3]),
        x, weight, bias, residual,
    )  # fmt: skip


def test_a_projection_and_its_gradients_are_pytorchs():
    assert_same(
        lambda *given: torch.cat(projections(*given), dim=1), functional.linear, draw(50, 24), draw(72, 24), draw(72)
    )


def test_views_of_memory_in_another_order_are_read_right():
    x = draw(48, 300)
    assert_same(lambda x, w: linear(x.t(), w), lambda x, w: functional.linear(x.t(), w), x, draw(32, 48))
    assert_same(
        lambda x, w, b: linear(x, w, b).t(),
        lambda x, w, b: functional.linear(x, w, b).t(),
        draw(9, 48),
        draw(32, 48),
        draw(32),
    )


def test_small_weights_are_left_to_pytorch(monkeypatch):
    monkeypatch.setattr(module, "WORTH_IT", 256 * 256)
    assert not module._by_onednn(draw(9, 64), draw(192, 64))
    assert module._by_onednn(draw(9, 512), draw(512, 512))


def test_what_is_not_fp32_is_left_to_pytorch(monkeypatch):
    x, weight = draw(7, 48), draw(32, 48)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    assert not module._by_onednn(x.double(), weight.double())
    assert not module._by_onednn(x[:0], weight)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert_same(lambda *given: linear(*given, relu=True), lambda *given: functional.linear(*given).relu(), x, weight)
