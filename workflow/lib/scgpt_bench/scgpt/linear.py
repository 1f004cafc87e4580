"""Linear layers by oneDNN on a CPU in fp32, where PyTorch calls MKL, which is slower on some processors.

Everywhere else, :func:`linear` is PyTorch's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Values of a weight. oneDNN makes and keeps a program for every number of rows, and tokens of a batch vary: for smaller
# weights that costs more time than it saves (the demo's, 64 x 64: 8 % of the training and 300 MB).
WORTH_IT = 256 * 256


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False, added_to: Tensor | None = None
) -> Tensor:
    """Compute a linear layer with gradients, [rows x in] -> [rows x out]: its ``relu``, or ``added_to`` a residual."""
    if _by_onednn(x, weight):
        return _Linear.apply(x, weight, bias, relu, added_to)
    y = functional.linear(x, weight, bias)
    y = functional.relu(y) if relu else y
    return y if added_to is None else added_to + y


def projections(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project [rows x width] to query, key and value, each [rows x width], by a weight (3 width, width)."""
    if _by_onednn(x, weight):
        return _Projections.apply(x, weight, bias)
    query, key, value = functional.linear(x, weight, bias).chunk(3, dim=1)
    return query, key, value


def through(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Apply layers one after the other, linear ones by :func:`linear`."""
    for layer in layers:
        x = linear(x, layer.weight, layer.bias) if isinstance(layer, nn.Linear) else layer(x)
    return x


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and weight.numel() >= WORTH_IT
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
    )


def _onednn():
    """Return the operator; builds of PyTorch without oneDNN lack it, so it is not looked up before it is needed."""
    return torch.ops.mkldnn._linear_pointwise


class _Linear(torch.autograd.Function):
    """The products with the weight by oneDNN; the gradient of the weight by MKL, which is faster at it."""

    @staticmethod
    def forward(ctx, x, weight, bias, relu, added_to):
        if added_to is None:
            y = _onednn().default(x, weight, bias, "relu" if relu else "none", [], "")
        else:
            y = _onednn().binary(x, added_to, weight, bias, "add")
        ctx.save_for_backward(x, weight, y if relu else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight, y = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_residual = gradient if ctx.needs_input_grad[4] else None
        if y is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, y, 0)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = _onednn().default(gradient, weight.t(), None, "none", [], "")
        if ctx.needs_input_grad[1]:
            of_weight = gradient.t() @ x
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum(0)
        return of_x, of_weight, of_bias, None, of_residual


class _Projections(torch.autograd.Function):
    """Three linear layers whose weights lie in one tensor: attention needs no copy of a gradient that they share."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        parts = zip(weight.chunk(3), bias.chunk(3), strict=True)
        return tuple(_onednn().default(x, own_weight, own_bias, "none", [], "") for own_weight, own_bias in parts)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = None, torch.empty_like(weight), weight.new_empty(len(weight))
        parts = zip(gradients, weight.chunk(3), of_weight.chunk(3), of_bias.chunk(3), strict=True)
        for gradient, own_weight, of_own_weight, of_own_bias in parts:
            gradient = gradient.contiguous()
            if of_x is None:
                of_x = _onednn().default(gradient, own_weight.t(), None, "none", [], "")
            else:
                of_x = _onednn().binary(gradient, of_x, own_weight.t(), None, "add")
            torch.mm(gradient.t(), x, out=of_own_weight)
            torch.sum(gradient, 0, out=of_own_bias)
        return of_x, of_weight, of_bias


class Projection:
    """A linear layer for inference, computed by oneDNN on a CPU in fp32: weights reordered once, the rest fused in.

    PyTorch's own linear layer calls MKL there, which is slower on some processors and passes over memory once more for
    every activation and residual.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        self.bias = bias
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight)

    def __call__(self, x: Tensor, activation: str = "none", slope: float | None = None) -> Tensor:
        """[rows x in] -> [rows x out], after ``none``, ``relu`` or ``leaky_relu`` (with its slope)."""
        scalars = [] if slope is None else [slope]
        return _onednn().default(x, self.weight, self.bias, activation, scalars, "")

    def added_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """``residual`` [rows x out] plus the projection of ``x`` [rows x in]."""
        return _onednn().binary(x, residual, self.weight, self.bias, "add")
