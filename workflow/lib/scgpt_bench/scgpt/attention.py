"""Attention over packed tokens: those of several cells follow one another, without padding.

One choice is made here, for prediction, fine-tuning and pretraining alike. Neighbouring cells with equally many tokens
are computed together by ``scaled_dot_product_attention``, in one call for each run of them. On a GPU, cells of
different lengths are computed in one call by FlashAttention 2: of the package flash-attn where it is installed, else
PyTorch's own (``torch.nn.attention.varlen``), which has no dropout; elsewhere run by run. :func:`kernel_name` describes
the choice for the record of a method.

Pretraining has a rule of its own: a known gene attends to the known genes, an unknown gene to these and to itself, or
``allow(query, key) = known(key) or key == query`` (scGPT, Cui et al. 2024, "Attention mask for generative
pretraining"). A dense mask costs memory quadratic in the number of genes. Here unknown genes attend to the known keys
in a fused kernel that also returns the log-sum-exp of its logits, and the single self key is merged exactly. The
backward pass needs no second formula: the fused backward kernel, given the *merged* output and the *merged*
log-sum-exp, returns the exact gradients of the known part, since it only uses them to rebuild the probabilities and the
row sum of (output x its gradient).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

try:
    from flash_attn import flash_attn_varlen_func
except ImportError:
    flash_attn_varlen_func = None

HALF = (torch.bfloat16, torch.float16)
AMPERE = (8, 0)  # the compute capability that FlashAttention 2 needs
_ALIGNED = 8  # it reads heads whose width is a multiple of this


class Cells:
    """How many tokens each of several cells has, known on the host; made once for a forward pass.

    Parameters
    ----------
    lengths
        Tokens of each cell; none is allowed.
    """

    def __init__(self, lengths: Iterable[int]):
        self.lengths = tuple(map(int, lengths))
        self.longest = max(self.lengths, default=0)
        self._ends: dict[torch.device, Tensor] = {}

    def ends(self, device: torch.device) -> Tensor:
        """Return (cells + 1,) int32 on a device: 0, and where the tokens of each cell end."""
        if device not in self._ends:
            self._ends[device] = on_device(np.cumsum((0, *self.lengths), dtype=np.int32), device)
        return self._ends[device]

    def first_tokens(self, device: torch.device) -> Tensor:
        """Return (cells,) on a device: the place of the first token of each cell, of which it has one or more."""
        return self.ends(device)[:-1].long()

    def cell_of_token(self, device: torch.device) -> Tensor:
        """Return (n_tokens,) on a device: the cell of each token."""
        return on_device(np.repeat(np.arange(len(self.lengths)), self.lengths), device)


class TokenMask:
    """Which positions of [cells x length] hold a token; kept on the host, so that nobody waits for a GPU to count them.

    It belongs to a batch as tensors with a row for each cell do: rows can be taken, and moving it moves nothing.

    Parameters
    ----------
    mask
        (n_cells, length) bool.
    """

    def __init__(self, mask: np.ndarray):
        self.mask = mask
        self.full = bool(mask.all())
        self.cells = Cells(mask.sum(axis=1))

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, rows: slice) -> TokenMask:
        return TokenMask(self.mask[rows])

    def to(self, *_: Any, **__: Any) -> TokenMask:
        return self

    def pin_memory(self) -> TokenMask:
        return self

    def positions(self, device: torch.device) -> Tensor:
        """Return (n_tokens,) places of the tokens in the flattened mask."""
        return on_device(np.flatnonzero(self.mask), device)

    def rows_of(self, tokens: TokenMask, device: torch.device) -> Tensor:
        """Return which of the packed tokens of this mask are ``tokens``, some of them."""
        return on_device(np.flatnonzero(tokens.mask[self.mask]), device)

    def pack(self, padded: Tensor) -> Tensor:
        """Take the tokens of [cells x length x ...]: [tokens x ...]."""
        flat = padded.flatten(0, 1)
        return flat if self.full else flat.index_select(0, self.positions(padded.device))

    def unpack(self, packed: Tensor) -> Tensor:
        """Put [tokens x ...] back in their places: [cells x length x ...], 0 elsewhere."""
        if not self.full:
            empty = packed.new_zeros(self.mask.size, *packed.shape[1:])
            packed = empty.index_copy(0, self.positions(packed.device), packed)
        return packed.unflatten(0, self.mask.shape)


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array to a device without waiting for it."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def kernel(device: torch.device, number_type: torch.dtype, head_width: int = _ALIGNED) -> str:
    """Choose what computes cells of different lengths: ``flash_attn`` or ``varlen`` at once, or ``sdpa`` by runs."""
    if device.type != "cuda" or _against_flash_attention(device, number_type, head_width):
        return "sdpa"
    return "varlen" if flash_attn_varlen_func is None else "flash_attn"


def kernel_name(device: torch.device, number_type: torch.dtype, head_width: int = _ALIGNED) -> str:
    """Name what computes attention, its versions and number type, and why nothing faster does, for a method record."""
    name = kernel(device, number_type, head_width)
    about = [f"torch {torch.__version__}, {str(number_type).removeprefix('torch.')}"]
    if device.type == "cuda" and name == "sdpa":
        about.append(_against_flash_attention(device, number_type, head_width))
    if name == "varlen":
        about.append("flash-attn cannot be imported: with dropout run by run")
    with_version = f"flash_attn {version('flash-attn')}" if name == "flash_attn" else name
    others = "" if name == "sdpa" else f", for cells of different lengths {with_version}"
    return f"sdpa{others} ({'; '.join(about)})"


def _against_flash_attention(device: torch.device, number_type: torch.dtype, head_width: int) -> str:
    """Why FlashAttention 2 cannot be used on this GPU; empty where it can."""
    if number_type not in HALF:
        return "FlashAttention 2 is for bf16 and fp16"
    if head_width % _ALIGNED:
        return f"FlashAttention 2 needs heads whose width is a multiple of {_ALIGNED}, these have {head_width}"
    capability = torch.cuda.get_device_capability(device)
    if capability < AMPERE:
        return "FlashAttention 2 needs compute capability {}.{}, this GPU has {}.{}".format(*AMPERE, *capability)
    return ""


def attend(query: Tensor, key: Tensor, value: Tensor, cells: Cells, dropout: float = 0.0) -> Tensor:
    """Self-attention within each cell.

    Its gradients are added up in a fixed order on a CPU, and on a GPU where deterministic algorithms are asked for, as
    :func:`scgpt_bench.scgpt.training.train` does.

    Parameters
    ----------
    query, key, value
        (n_tokens, heads, head_width); views of one projection need not be copied.
    dropout
        Of the attention weights. PyTorch's own FlashAttention 2 for different lengths has none: with it, run by run.

    Returns
    -------
    (n_tokens, heads, head_width).
    """
    runs = [run for run in _runs(cells, cells) if run[1]]
    chosen = kernel(query.device, query.dtype, query.shape[-1]) if len(runs) > 1 else "sdpa"
    where = (cells.ends(query.device),) * 2 + (cells.longest,) * 2 if chosen != "sdpa" else ()
    if chosen == "flash_attn":
        fixed_order = torch.are_deterministic_algorithms_enabled()
        return flash_attn_varlen_func(query, key, value, *where, dropout_p=dropout, deterministic=fixed_order)
    if chosen == "varlen" and not dropout:
        from torch.nn.attention.varlen import varlen_attn  # takes a second to import, and only GPUs have it

        return varlen_attn(query, key, value, *where)
    attended = [
        functional.scaled_dot_product_attention(*parts, dropout_p=dropout) for parts in _zipped(runs, query, key, value)
    ]
    return _joined(attended)


def attend_to_known_and_self(
    query: Tensor, key: Tensor, value: Tensor, known_key: Tensor, known_value: Tensor, cells: Cells, known_cells: Cells
) -> Tensor:
    """Attention of each unknown gene to the known genes of its cell and to itself, never to another unknown gene.

    Parameters
    ----------
    query, key, value
        (n_unknown, heads, head_width) of the unknown genes of all cells.
    known_key, known_value
        (n_known, heads, head_width) of the known genes of all cells, at least one in each.
    cells, known_cells
        The numbers of unknown and of known genes of the same cells.

    Returns
    -------
    (n_unknown, heads, head_width).
    """
    return _KnownAndSelf.apply(query, key, value, known_key, known_value, cells, known_cells)


class _KnownAndSelf(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, known_key, known_value, cells, known_cells):
        output, log_sum_exp, states = _attend_to_others(query, known_key, known_value, cells, known_cells)
        self_logit = _self_logit(query, key)  # (n_unknown, heads)
        merged = torch.logaddexp(log_sum_exp, self_logit)
        known_share = (log_sum_exp - merged).exp().unsqueeze(-1)
        self_share = (self_logit - merged).exp().unsqueeze(-1)
        # Into the kernel's own output: in 16-bit types the backward kernels for a GPU read it where they wrote it,
        # whatever strides a tensor claims to have.
        output.copy_(known_share * output + self_share * value)
        ctx.save_for_backward(query, key, value, known_key, known_value, output, merged)
        ctx.cells, ctx.known_cells, ctx.states = cells, known_cells, states
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        query, key, value, known_key, known_value, output, merged = ctx.saved_tensors
        gradient = gradient.to(query.dtype)
        query_gradient, known_key_gradient, known_value_gradient = _gradients_of_others(
            gradient, query, known_key, known_value, ctx.cells, ctx.known_cells, output, merged, ctx.states
        )
        self_share = (_self_logit(query, key) - merged).exp()  # (n_unknown, heads)
        wide = merged.dtype  # a product of 16-bit numbers is summed in 32 bits
        logit_gradient = self_share * (gradient.to(wide) * (value.to(wide) - output.to(wide))).sum(-1)
        logit_gradient = (logit_gradient * query.shape[-1] ** -0.5).unsqueeze(-1)
        query_gradient = query_gradient + (logit_gradient * key).to(query.dtype)
        key_gradient = (logit_gradient * query).to(query.dtype)
        value_gradient = (self_share.unsqueeze(-1) * gradient).to(query.dtype)
        return query_gradient, key_gradient, value_gradient, known_key_gradient, known_value_gradient, None, None


def _self_logit(query: Tensor, key: Tensor) -> Tensor:
    wide = query.dtype if query.dtype == torch.float64 else torch.float32
    return (query.to(wide) * key.to(wide)).sum(-1) * query.shape[-1] ** -0.5


def _attend_to_others(
    query: Tensor, key: Tensor, value: Tensor, cells: Cells, key_cells: Cells
) -> tuple[Tensor, Tensor, list[tuple]]:
    """Attend to keys that are not the queries' own, cell by cell.

    Returns
    -------
    Output (n_queries, heads, head_width), log-sum-exp of the logits (n_queries, heads), and what the backward kernel
    needs besides, for each of its calls.
    """
    if kernel(query.device, query.dtype, query.shape[-1]) != "sdpa":  # PyTorch's own: it returns the log-sum-exp
        ends = cells.ends(query.device), key_cells.ends(query.device), cells.longest, key_cells.longest
        output, log_sum_exp, *state, _ = torch.ops.aten._flash_attention_forward(
            query, key, value, *ends, 0.0, False, False
        )
        return output, log_sum_exp.t(), [tuple(state)]
    runs = _runs(cells, key_cells)
    outputs, sums, states = [], [], []
    for queries, keys, values in _zipped(runs, query, key, value):
        if queries.numel():
            output, log_sum_exp, state = _kernel(queries, keys, values)
        else:
            output, log_sum_exp, state = queries, queries.new_empty(queries.shape[:3]), ()
        outputs.append(output)
        sums.append(log_sum_exp.unsqueeze(-1))
        states.append(state)
    return _joined(outputs).contiguous(), _joined(sums).squeeze(-1), states


def _gradients_of_others(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, cells: Cells, key_cells: Cells, output: Tensor,
    log_sum_exp: Tensor, states: Sequence[tuple],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return gradients for query, key and value of :func:`_attend_to_others`.

    On a GPU they are added up in a fixed order where deterministic algorithms are asked for, as
    :func:`scgpt_bench.scgpt.training.train` does.
    """
    if kernel(query.device, query.dtype, query.shape[-1]) != "sdpa":
        ends = cells.ends(query.device), key_cells.ends(query.device), cells.longest, key_cells.longest
        return torch.ops.aten._flash_attention_backward(
            gradient.contiguous(), query, key, value, output, log_sum_exp.t().contiguous(), *ends, 0.0, False,
            *states[0],
        )  # fmt: skip
    runs = _runs(cells, key_cells)
    outputs = _zipped(runs, gradient, output, log_sum_exp.unsqueeze(-1), (1, 1, 1))
    found: tuple[list[Tensor], ...] = ([], [], [])
    for given, made, state in zip(_zipped(runs, query, key, value), outputs, states, strict=True):
        if given[0].numel():
            gradients = _kernel_backward(made[0], *given, made[1], made[2].squeeze(-1), state)
        else:
            gradients = torch.zeros_like(given[0]), torch.zeros_like(given[1]), torch.zeros_like(given[2])
        for parts, part in zip(found, gradients, strict=True):
            parts.append(part)
    return _joined(found[0]), _joined(found[1]), _joined(found[2])


def _kernel(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, tuple]:
    """Fused attention of cells of equal length, each (cells, heads, length, head_width).

    Returns
    -------
    Output, log-sum-exp (cells, heads, n_query) and what the backward kernel needs besides.
    """
    if query.is_cuda:
        output, log_sum_exp, *random_state = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True
        )
        return output, log_sum_exp[..., : query.shape[2]], tuple(random_state)
    return *torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value), ()


def _kernel_backward(gradient, query, key, value, output, log_sum_exp, random_state) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for query, key and value of :func:`_kernel`."""
    if query.is_cuda:
        n_query, aligned = query.shape[2], -(-query.shape[2] // 32) * 32  # the kernel's own row padding
        log_sum_exp = functional.pad(log_sum_exp, (0, aligned - n_query), value=float("inf")).contiguous()
        return torch.ops.aten._scaled_dot_product_efficient_attention_backward(
            gradient, query, key, value, None, output, log_sum_exp, *random_state, 0.0, [True, True, True, False]
        )[:3]
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        gradient, query, key, value, output, log_sum_exp, 0.0, False
    )


Run = tuple[int, int, int]  # neighbouring cells of equal lengths: how many, and the queries and keys of each


def _runs(cells: Cells, key_cells: Cells) -> list[Run]:
    pairs = zip(cells.lengths, key_cells.lengths, strict=True)
    return [(len(list(run)), *lengths) for lengths, run in groupby(pairs)]


def _zipped(
    runs: Sequence[Run], one: Tensor, two: Tensor, three: Tensor, which: tuple[int, int, int] = (1, 2, 2)
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Cut queries, keys and values, or three other streams, into views of each run (:func:`_split`)."""
    parts = (_split(stream, runs, of) for stream, of in zip((one, two, three), which, strict=True))
    return list(zip(*parts, strict=True))


def _split(stream: Tensor, runs: Sequence[Run], which: int) -> list[Tensor]:
    """Cut (n_tokens, heads, width) into a view (cells, heads, length, width) for each run."""
    parts = stream.split([run[0] * run[which] for run in runs])
    return [part.unflatten(0, (run[0], run[which])).transpose(1, 2) for part, run in zip(parts, runs, strict=True)]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Join (cells, heads, length, width) of the runs to (n_tokens, heads, width); one of them is not copied."""
    packed = [part.transpose(1, 2).flatten(0, 1) for part in parts]
    return packed[0] if len(packed) == 1 else torch.cat(packed)
