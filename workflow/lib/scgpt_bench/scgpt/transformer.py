"""How scGPT's transformer layers compute attention and feed-forward here; their weights and names stay upstream's.

Upstream (scgpt 0.2.4) runs ``torch.nn.TransformerEncoderLayer`` with a padding mask that is False everywhere, which
costs PyTorch its fused attention and genes x genes of memory. Here the same sums are computed by FlashAttention 2 or
by ``scaled_dot_product_attention``, over tokens that are packed without padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version

import torch
from torch import Tensor, nn
from torch.nn import functional

try:
    from flash_attn import flash_attn_varlen_qkvpacked_func
except ImportError:
    flash_attn_varlen_qkvpacked_func = None

HALF = (torch.bfloat16, torch.float16)
AMPERE = (8, 0)  # the compute capability that FlashAttention 2 needs


def backend(device: torch.device, dtype: torch.dtype) -> str:
    """``flash_attn`` or ``sdpa``: what computes attention for this device and number type."""
    return "flash_attn" if device.type == "cuda" and not _against_flash(device, dtype) else "sdpa"


def backend_name(device: torch.device, dtype: torch.dtype) -> str:
    """Name the backend with its version and number type, for the record of a prediction; on a GPU, why no other one."""
    name = backend(device, dtype)
    package = {"flash_attn": "flash-attn", "sdpa": "torch"}[name]
    told = [f"{package} {version(package)}, {str(dtype).removeprefix('torch.')}"]
    if device.type == "cuda" and name == "sdpa":
        told.append(_against_flash(device, dtype))
    return f"{name} ({'; '.join(told)})"


def versions() -> dict[str, str]:
    """Return the versions of the packages that compute scGPT, by name: flash-attn where it can be used at all."""
    names = ["torch", "numpy", "scgpt", *(["flash-attn"] if flash_attn_varlen_qkvpacked_func else [])]
    return {name: version(name) for name in names}


def _against_flash(device: torch.device, dtype: torch.dtype) -> str:
    """Why FlashAttention 2 cannot be used on this GPU; empty where it can."""
    if flash_attn_varlen_qkvpacked_func is None:
        return "flash-attn is not installed"
    if dtype not in HALF:
        return "flash-attn is for bf16 and fp16"
    capability = torch.cuda.get_device_capability(device)
    if capability < AMPERE:
        return "flash-attn needs compute capability {}.{}, this GPU has {}.{}".format(*AMPERE, *capability)
    return ""


def attend(qkv: Tensor, lengths: Sequence[int], heads: int, dropout: float = 0.0) -> Tensor:
    """Self-attention within each cell.

    FlashAttention's gradients are added up in a fixed order; those of ``scaled_dot_product_attention`` on a GPU where
    deterministic algorithms are asked for, as :func:`scgpt_bench.scgpt.training.train` does.

    Parameters
    ----------
    qkv
        [tokens x 3 width]: query, key and value of each token; the cells' tokens follow one another.
    lengths
        Tokens of each cell.

    Returns
    -------
    [tokens x width]
    """
    n_tokens, width = qkv.shape[0], qkv.shape[1] // 3
    lengths = [length for length in lengths if length]  # a cell without tokens has no part in this
    qkv = qkv.view(n_tokens, 3, heads, width // heads)
    if backend(qkv.device, qkv.dtype) == "flash_attn":
        ends = torch.tensor([0, *lengths], device=qkv.device).cumsum(0, dtype=torch.int32)
        attended = flash_attn_varlen_qkvpacked_func(qkv, ends, max(lengths), dropout, deterministic=True)
        return attended.view(n_tokens, width)
    if len(set(lengths)) == 1:
        return _attend_equal(qkv, len(lengths), dropout)
    return torch.cat([_attend_equal(cell, 1, dropout) for cell in qkv.split(lengths)])


def _attend_equal(qkv: Tensor, n_cells: int, dropout: float) -> Tensor:
    """Attention of cells with equally many tokens: [tokens x 3 x heads x head width] -> [tokens x width]."""
    query, key, value = qkv.unflatten(0, (n_cells, -1)).permute(2, 0, 3, 1, 4)  # each: cells, heads, length, head width
    attended = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    return attended.transpose(1, 2).reshape(qkv.shape[0], -1)


class Encoder(nn.Module):
    """Upstream's stack of post-norm ReLU layers, computed as above; a drop-in for ``torch.nn.TransformerEncoder``.

    Parameters
    ----------
    upstream
        Its layers are used as they are, so the names and shapes of all parameters stay the same.
    """

    def __init__(self, upstream: nn.TransformerEncoder):
        super().__init__()
        self.layers = upstream.layers

    def forward(self, src: Tensor, src_key_padding_mask: Tensor | None = None) -> Tensor:
        """Hidden states [cells x length x width]; 0 where ``src_key_padding_mask`` [cells x length] is True."""
        n_cells, length, width = src.shape
        if src_key_padding_mask is None or not src_key_padding_mask.any():
            return self.packed(src.reshape(-1, width), [length] * n_cells).view(n_cells, length, width)
        kept = ~src_key_padding_mask
        packed = self.packed(src[kept], kept.sum(dim=1).tolist())
        return torch.zeros_like(src, dtype=packed.dtype).masked_scatter(kept.unsqueeze(-1), packed)

    def packed(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """Hidden states [tokens x width] of cells whose tokens follow one another, ``lengths`` tokens each."""
        for layer in self.layers:
            x = _layer(layer, x, lengths)
        return x


def _layer(layer: nn.TransformerEncoderLayer, x: Tensor, lengths: Sequence[int]) -> Tensor:
    attention = layer.self_attn
    dropout = attention.dropout if layer.training else 0.0
    qkv = functional.linear(x, attention.in_proj_weight, attention.in_proj_bias)  # tokens x 3 width
    attended = attend(qkv, lengths, attention.num_heads, dropout)
    x = layer.norm1(x + layer.dropout1(attention.out_proj(attended)))
    hidden = layer.dropout(functional.relu(layer.linear1(x)))  # tokens x d_hid
    return layer.norm2(x + layer.dropout2(layer.linear2(hidden)))


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


class CpuEncoder:
    """The same layers for inference in fp32 on a CPU: in place, in blocks of rows that stay in the cache."""

    ROWS = 512  # hidden states of one block: 1 MB at the width of the published checkpoints

    def __init__(self, encoder: Encoder):
        self.layers = [_CpuLayer(layer) for layer in encoder.layers]

    def first_projection(self, x: Tensor) -> Tensor:
        """Query, key and value [tokens x 3 width] of the first layer, for tokens that many cells share."""
        return self.layers[0].qkv(x)

    def __call__(
        self, x: Tensor, lengths: Sequence[int], first_projection: Callable[[], Tensor] | None = None
    ) -> Tensor:
        """As :meth:`Encoder.packed`; overwrites ``x``. The first layer's projection may come from elsewhere."""
        for i, layer in enumerate(self.layers):
            qkv = layer.qkv(x) if i or first_projection is None else first_projection()
            attended = attend(qkv, lengths, layer.heads)
            del qkv  # the largest array, and not needed below
            for rows, attended_rows in zip(x.split(self.ROWS), attended.split(self.ROWS), strict=True):
                rows.copy_(layer.after_attention(rows, attended_rows))
        return x


class _CpuLayer:
    def __init__(self, layer: nn.TransformerEncoderLayer):
        attention = layer.self_attn
        self.heads, self.norm1, self.norm2 = attention.num_heads, layer.norm1, layer.norm2
        self.qkv = Projection(attention.in_proj_weight, attention.in_proj_bias)
        self.out = Projection(attention.out_proj.weight, attention.out_proj.bias)
        self.linear1 = Projection(layer.linear1.weight, layer.linear1.bias)
        self.linear2 = Projection(layer.linear2.weight, layer.linear2.bias)

    def after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.norm1(self.out.added_to(x, attended))
        return self.norm2(self.linear2.added_to(x, self.linear1(x, "relu")))
