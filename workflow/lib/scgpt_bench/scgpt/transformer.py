"""How scGPT's transformer layers compute attention and feed-forward here; their weights and names stay upstream's.

Upstream (scgpt 0.2.4) runs ``torch.nn.TransformerEncoderLayer`` with a padding mask that is False everywhere, which
costs PyTorch its fused attention and genes x genes of memory. Here the same sums are computed by the kernels of
:mod:`attention`, over tokens that are packed without padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version

from torch import Tensor, nn

from scgpt_bench.scgpt import attention
from scgpt_bench.scgpt.attention import Cells, attend
from scgpt_bench.scgpt.linear import Projection, linear, projections


def versions() -> dict[str, str]:
    """Return the versions of the packages that compute scGPT, by name: flash-attn where it can be used at all."""
    flash_attention = ["flash-attn"] if attention.flash_attn_varlen_func else []
    return {name: version(name) for name in ("torch", "numpy", "scgpt", *flash_attention)}


class Encoder(nn.Module):
    """Upstream's stack of post-norm ReLU layers, computed as above, in place of ``torch.nn.TransformerEncoder``.

    Parameters
    ----------
    upstream
        Its layers are used as they are, so the names and shapes of all parameters stay the same.
    """

    def __init__(self, upstream: nn.TransformerEncoder):
        super().__init__()
        self.layers = upstream.layers

    def forward(self, x: Tensor, cells: Cells) -> Tensor:
        """Compute hidden states [tokens x width] of cells whose tokens follow one another."""
        for layer in self.layers:
            x = _layer(layer, x, cells)
        return x


def _layer(layer: nn.TransformerEncoderLayer, x: Tensor, cells: Cells) -> Tensor:
    attention = layer.self_attn
    dropout = attention.dropout if layer.training else 0.0
    parts = projections(x, attention.in_proj_weight, attention.in_proj_bias)  # each: tokens x width
    attended = attend(*heads_of(parts, attention.num_heads), cells, dropout).flatten(1)  # tokens x width
    x = layer.norm1(residual(x, attended, attention.out_proj, layer.dropout1))
    hidden = layer.dropout(linear(x, layer.linear1.weight, layer.linear1.bias, relu=True))  # tokens x d_hid
    return layer.norm2(residual(x, hidden, layer.linear2, layer.dropout2))


def heads_of(parts: Sequence[Tensor], heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """View query, key and value [tokens x width] by heads, each [tokens x heads x width / heads]."""
    query, key, value = (part.unflatten(1, (heads, -1)) for part in parts)
    return query, key, value


def residual(x: Tensor, hidden: Tensor, layer: nn.Linear, dropout: nn.Dropout) -> Tensor:
    """Add a linear layer of ``hidden`` [tokens x in] to ``x`` [tokens x width], after dropout if there is any."""
    if dropout.p and dropout.training:
        return x + dropout(linear(hidden, layer.weight, layer.bias))
    return linear(hidden, layer.weight, layer.bias, added_to=x)


class CpuEncoder:
    """The same layers for inference in fp32 on a CPU: in place, in blocks of rows that stay in the cache."""

    ROWS = 512  # hidden states of one block: 1 MB at the width of the published checkpoints

    def __init__(self, encoder: Encoder):
        self.layers = [_CpuLayer(layer) for layer in encoder.layers]

    def first_projection(self, x: Tensor) -> Tensor:
        """Query, key and value [tokens x 3 width] of the first layer, for tokens that many cells share."""
        return self.layers[0].qkv(x)

    def __call__(self, x: Tensor, cells: Cells, first_projection: Callable[[], Tensor] | None = None) -> Tensor:
        """As :class:`Encoder`; overwrites ``x``. The first layer's projection may come from elsewhere."""
        for i, layer in enumerate(self.layers):
            qkv = layer.qkv(x) if i or first_projection is None else first_projection()
            attended = attend(*heads_of(qkv.chunk(3, dim=1), layer.heads), cells).flatten(1)
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
