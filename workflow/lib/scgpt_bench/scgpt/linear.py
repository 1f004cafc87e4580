"""Linear layers by oneDNN on a CPU in fp32, where PyTorch's own call MKL, which is slower on some processors.

Everywhere else, :func:`linear` is PyTorch's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """Compute a linear layer with gradients: [... x in] -> [... x out], ``relu`` of it if asked."""
    if _by_onednn(x, weight):
        return _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias, relu).unflatten(0, x.shape[:-1])
    y = functional.linear(x, weight, bias)
    return functional.relu(y) if relu else y


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
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
    )


class _Linear(torch.autograd.Function):
    """The products with the weight by oneDNN; the gradient of the weight by MKL, which is faster at it."""

    @staticmethod
    def forward(ctx, x, weight, bias, relu):
        y = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "relu" if relu else "none", [], "")
        ctx.save_for_backward(x, weight, y if relu else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight, y = ctx.saved_tensors
        gradient = gradient.contiguous()
        if y is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, y, 0)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = torch.ops.mkldnn._linear_pointwise.default(gradient, weight.t(), None, "none", [], "")
        if ctx.needs_input_grad[1]:
            of_weight = gradient.t() @ x
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum(0)
        return of_x, of_weight, of_bias, None


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
        return torch.ops.mkldnn._linear_pointwise.default(x, self.weight, self.bias, activation, scalars, "")

    def added_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """``residual`` [rows x out] plus the projection of ``x`` [rows x in]."""
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.weight, self.bias, "add")
