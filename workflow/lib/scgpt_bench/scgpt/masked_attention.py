"""scGPT's pretraining attention in linear memory: known attends known, unknown attends known and itself.

The dense rule is ``allow(query, key) = known(key) or key == query`` (scGPT, Cui et al. 2024, "Attention mask for
generative pretraining"). A dense mask costs memory quadratic in the number of genes. Here the unknown genes attend to
the known keys in a fused kernel that also returns the log-sum-exp of its logits, and the single self key is merged
exactly. The backward pass needs no second formula: the fused backward kernel, given the *merged* output and the
*merged* log-sum-exp, returns the exact gradients of the known part, since it only uses them to rebuild the
probabilities and the row sum of (output x its gradient).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

_BIAS_ALIGNMENT = 16  # the CUDA kernel reads its bias in aligned vectors


def attend_to_known(query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None = None) -> Tensor:
    """Attention of known genes to all known genes.

    Parameters
    ----------
    query, key, value
        (batch, heads, n_known, head_width).
    padding
        (batch, n_known) bool, True where there is no gene; None where every position holds one.

    Returns
    -------
    (batch, heads, n_known, head_width).
    """
    allowed = None if padding is None else ~padding[:, None, None, :]  # (batch, 1, 1, n_known)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed)


def attend_to_known_and_self(
    query: Tensor, key: Tensor, value: Tensor, known_key: Tensor, known_value: Tensor, padding: Tensor | None = None
) -> Tensor:
    """Attention of each unknown gene to all known genes and to itself, never to another unknown gene.

    Parameters
    ----------
    query, key, value
        (batch, heads, n_unknown, head_width) of the unknown genes.
    known_key, known_value
        (batch, heads, n_known, head_width), with n_known at least 1.
    padding
        (batch, n_known) bool, True where there is no known gene.

    Returns
    -------
    (batch, heads, n_unknown, head_width).
    """
    bias = None
    if padding is not None:
        n_known = padding.shape[1]
        aligned = -(-n_known // _BIAS_ALIGNMENT) * _BIAS_ALIGNMENT
        bias = query.new_zeros(padding.shape[0], 1, 1, aligned)[..., :n_known]
        bias.masked_fill_(padding[:, None, None, :], float("-inf"))
        bias = bias.expand(*query.shape[:3], n_known)  # a view: no quadratic memory
    return _KnownAndSelf.apply(query, key, value, known_key, known_value, bias)


class _KnownAndSelf(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, known_key, known_value, bias):
        output, log_sum_exp, kernel_state = _kernel(query, known_key, known_value, bias)
        self_logit = _self_logit(query, key)  # (batch, heads, n_unknown)
        merged = torch.logaddexp(log_sum_exp, self_logit)
        known_share = (log_sum_exp - merged).exp().unsqueeze(-1)
        self_share = (self_logit - merged).exp().unsqueeze(-1)
        output = _rows_of_heads((known_share * output + self_share * value).to(query.dtype))
        ctx.save_for_backward(query, key, value, known_key, known_value, bias, output, merged, *kernel_state)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        query, key, value, known_key, known_value, bias, output, merged, *kernel_state = ctx.saved_tensors
        gradient = gradient.to(query.dtype)
        query_gradient, known_key_gradient, known_value_gradient = _kernel_backward(
            gradient, query, known_key, known_value, bias, output, merged, kernel_state
        )
        self_share = (_self_logit(query, key) - merged).exp()  # (batch, heads, n_unknown)
        wide = merged.dtype  # a product of 16-bit numbers is summed in 32 bits
        logit_gradient = self_share * (gradient.to(wide) * (value.to(wide) - output.to(wide))).sum(-1)
        logit_gradient = (logit_gradient * query.shape[-1] ** -0.5).unsqueeze(-1)
        query_gradient = query_gradient + (logit_gradient * key).to(query.dtype)
        key_gradient = (logit_gradient * query).to(query.dtype)
        value_gradient = (self_share.unsqueeze(-1) * gradient).to(query.dtype)
        return query_gradient, key_gradient, value_gradient, known_key_gradient, known_value_gradient, None


def _rows_of_heads(tensor: Tensor) -> Tensor:
    """Store (batch, heads, length, head_width) as (batch, length, heads, head_width); a view where it is so already.

    The CUDA kernels write their output in this order, and in 16-bit types the backward kernel reads it again without
    looking at the strides between queries. The sum of two tensors takes the order of the first one.
    """
    return tensor.transpose(1, 2).contiguous().transpose(1, 2)


def _self_logit(query: Tensor, key: Tensor) -> Tensor:
    wide = query.dtype if query.dtype == torch.float64 else torch.float32
    return (query.to(wide) * key.to(wide)).sum(-1) * query.shape[-1] ** -0.5


def _kernel(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, tuple]:
    """Fused attention: output, log-sum-exp (batch, heads, n_query) and what the backward kernel needs besides."""
    if query.is_cuda:
        output, log_sum_exp, *random_state = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, True
        )
        return output, log_sum_exp[..., : query.shape[2]], tuple(random_state)
    return *torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, attn_mask=bias), ()


def _kernel_backward(gradient, query, key, value, bias, output, log_sum_exp, random_state) -> tuple[Tensor, ...]:
    """Gradients for query, key and value of the fused attention.

    On a GPU they are added up in a fixed order where deterministic algorithms are asked for, as
    :func:`scgpt_bench.scgpt.training.train` does.
    """
    if query.is_cuda:
        n_query, aligned = query.shape[2], -(-query.shape[2] // 32) * 32  # the kernel's own row padding
        log_sum_exp = functional.pad(log_sum_exp, (0, aligned - n_query), value=float("inf")).contiguous()
        return torch.ops.aten._scaled_dot_product_efficient_attention_backward(
            gradient, query, key, value, bias, output, log_sum_exp, *random_state, 0.0, [True, True, True, False]
        )[:3]
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        gradient, query, key, value, output, log_sum_exp, 0.0, False, attn_mask=bias
    )
