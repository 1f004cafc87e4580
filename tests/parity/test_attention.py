"""Attention over packed tokens equals the dense form, in values and gradients, and takes the kernel that it may."""

import numpy as np
import pytest
import torch

from scgpt_bench.scgpt import attention
from scgpt_bench.scgpt.attention import Cells, TokenMask

GPU = torch.device("cuda")
SHAPES = [  # heads, head width, known genes of each cell, unknown genes
    (1, 8, [1], [1]),
    (4, 16, [13, 13], [29, 29]),
    (2, 16, [40, 3, 3, 17], [7, 9, 9, 7]),
    (4, 16, [129, 129, 60], [200, 200, 200]),
    (8, 64, [300], [75]),
    (2, 32, [5, 5, 2], [64, 0, 0]),
]
BF16_TOLERANCE = 5e-2  # a GPU trains in bf16, which keeps 8 bits of values up to 6


def streams(heads, width, known, unknown, device, scale=1.0, number_type=torch.float32):
    """A projection [tokens x 3 x heads x width] of the known genes, and one of the unknown genes."""
    generator = torch.Generator().manual_seed(sum(known) * 1000 + sum(unknown))

    def draw(tokens):
        drawn = torch.randn(tokens, 3, heads, width, generator=generator) * scale
        return drawn.to(device, number_type).requires_grad_()

    return [draw(sum(known)), draw(sum(unknown))]


def merged(projections, known, unknown):
    of_known, of_unknown = (each.unbind(1) for each in projections)
    cells = Cells(known)
    return torch.cat(
        [
            attention.attend(*of_known, cells),
            attention.attend_to_known_and_self(*of_unknown, *of_known[1:], Cells(unknown), cells),
        ]
    )


def dense(projections, known, unknown):
    """allow(query, key) = known(key) or key == query, cell by cell."""
    of_known, of_unknown = [], []
    for own, new in zip(projections[0].split(known), projections[1].split(unknown), strict=True):
        query, key, value = torch.cat([own, new]).permute(1, 2, 0, 3)  # heads, tokens, width
        length, n_known = query.shape[1], len(own)
        allowed = (torch.arange(length) < n_known) | torch.eye(length, dtype=torch.bool)
        logits = (query @ key.transpose(1, 2) * query.shape[-1] ** -0.5).masked_fill(
            ~allowed.to(query.device), float("-inf")
        )
        attended = (logits.softmax(-1) @ value).transpose(0, 1)
        of_known.append(attended[:n_known])
        of_unknown.append(attended[n_known:])
    return torch.cat(of_known + of_unknown)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [0.3, 1.5])
@pytest.mark.parametrize("number_type", [torch.float32, torch.bfloat16], ids=str)
def test_packed_attention_equals_the_dense_mask_in_values_and_gradients(shape, scale, number_type, device, tolerance):
    """On views of one projection, as the models have them."""
    if number_type == torch.bfloat16:
        tolerance = BF16_TOLERANCE
    projections, lengths = streams(*shape, device, scale, number_type), shape[2:]
    exact = [each.detach().double().requires_grad_() for each in projections]
    ours, reference = merged(projections, *lengths), dense(exact, *lengths)
    assert ours.dtype == number_type
    assert (ours - reference).abs().max() < tolerance
    weight = torch.randn(reference.shape, generator=torch.Generator().manual_seed(1)).to(device)
    ours_gradients = torch.autograd.grad((ours * weight).sum(), projections)
    reference_gradients = torch.autograd.grad((reference * weight).sum(), exact)
    for one, other in zip(ours_gradients, reference_gradients, strict=True):
        assert (one - other).abs().max() < tolerance * max(1.0, float(other.abs().max()))


def test_gradients_equal_finite_differences_in_double_precision():
    """On the CPU alone: the kernel of a GPU has no double precision."""
    known, unknown = [5, 3], [4, 2]
    projections = streams(2, 8, known, unknown, "cpu", number_type=torch.float64)
    assert torch.autograd.gradcheck(lambda *parts: merged(parts, known, unknown), projections)


def test_no_unknown_gene_sees_another_one(device):
    known, unknown = [9, 9], [12, 12]
    projections = streams(2, 16, known, unknown, device)
    before = merged(projections, known, unknown)
    with torch.no_grad():
        projections[1][4] += 1.0
    after = merged(projections, known, unknown)
    changed = (before != after).flatten(1).any(1)
    assert changed.nonzero().flatten().tolist() == [18 + 4]


def test_memory_of_the_backward_graph_grows_linearly(device):
    """What autograd keeps for 8 times the genes is 8 times as much: a dense mask would keep 64 times as much."""

    def kept(length):
        sizes = {}

        def count(tensor):
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        projections = streams(1, 8, [length], [length], device)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            result = merged(projections, [length], [length])
        assert result.requires_grad
        return sum(sizes.values())

    assert np.isclose(kept(4096) / kept(512), 8, rtol=0.1)


def test_neighbouring_cells_of_equal_length_are_computed_in_one_call(monkeypatch):
    calls, right = [], torch.nn.functional.scaled_dot_product_attention

    def counted(query, *others, **options):
        calls.append((len(query), query.shape[2]))
        return right(query, *others, **options)

    monkeypatch.setattr(attention.functional, "scaled_dot_product_attention", counted)
    lengths = [*[30] * 62, 31, 32]
    attention.attend(*torch.randn(sum(lengths), 3, 2, 8).unbind(1), Cells(lengths))
    assert calls == [(62, 30), (1, 31), (1, 32)]


class CudaLayout:
    """Stands in for the CUDA kernels of 16-bit types: in exact arithmetic, with their layout in memory.

    The forward kernel stores its output as (cells, length, heads, head_width) and rows of log-sum-exp padded to 32. The
    backward kernel computes delta = row sum of (output x its gradient) itself. Of the output it looks at the strides
    between cells and between heads; between queries it takes head_width x heads, whatever the tensor says
    (kernel_backward.h of PyTorch 2.11 to 2.13). Of log-sum-exp it takes neighbours to be adjacent.
    """

    def forward(self, query, key, value):
        logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        n_query = query.shape[2]
        padded = torch.nn.functional.pad(logits.logsumexp(-1), (0, -n_query % 32), value=float("inf"))
        output = (logits.softmax(-1) @ value).transpose(1, 2).contiguous().transpose(1, 2)
        return output, padded[..., :n_query], ()

    def backward(self, gradient, query, key, value, output, log_sum_exp, random_state):
        cells, heads, n_query, width = output.shape
        between_cells, between_heads = output.stride()[:2]
        read = self.memory(output, (cells, heads, n_query, width), (between_cells, between_heads, width * heads, 1))
        log_sum_exp = torch.nn.functional.pad(log_sum_exp, (0, -n_query % 32), value=float("inf")).contiguous()
        logits = query @ key.transpose(-1, -2) * width**-0.5
        shares = (logits - log_sum_exp[..., :n_query].unsqueeze(-1)).exp()
        delta = (read * gradient).sum(-1, keepdim=True)
        errors = shares * (gradient @ value.transpose(-1, -2) - delta) * width**-0.5
        return errors @ key, errors.transpose(-1, -2) @ query, shares.transpose(-1, -2) @ gradient

    @staticmethod
    def memory(tensor, shape, strides):
        """What lies at these strides from the tensor's first number; NaN behind the end of its memory."""
        stored = tensor.as_strided((tensor.untyped_storage().nbytes() // tensor.element_size(),), (1,), 0)
        behind = torch.full((2 * stored.numel(),), torch.nan, dtype=tensor.dtype)
        return torch.cat([stored, behind]).as_strided(shape, strides, tensor.storage_offset())


class Varlen:
    """Stands in for FlashAttention 2 over packed tokens, with its signature and layout; in exact arithmetic.

    Its log-sum-exp is (heads, n_queries), and it says where cells end as int32. The output and log-sum-exp that the
    backward kernel is given must lie as its own did.
    """

    def __init__(self):
        self.calls = 0

    def cells(self, ends, *streams):
        self.calls += 1
        assert ends.dtype == torch.int32
        lengths = ends.diff().tolist()
        return zip(*(stream.split(lengths) for stream in streams), strict=True)

    def forward(self, query, key, value, query_ends, key_ends, most_queries, most_keys, dropout, causal, debug):
        assert (dropout, causal, debug) == (0.0, False, False)
        assert (query_ends.diff().max(), key_ends.diff().max()) == (most_queries, most_keys)
        outputs, sums = [], []
        pairs = zip(self.cells(query_ends, query), self.cells(key_ends, key, value), strict=True)
        for (queries,), (keys, values) in pairs:
            logits = torch.einsum("qhw,khw->hqk", queries, keys) * query.shape[-1] ** -0.5
            outputs.append(torch.einsum("hqk,khw->qhw", logits.softmax(-1), values))
            sums.append(logits.logsumexp(-1))
        empty = torch.empty(0)
        return torch.cat(outputs).contiguous(), torch.cat(sums, dim=1).contiguous(), empty, empty, empty

    def backward(
        self, gradient, query, key, value, output, log_sum_exp, query_ends, key_ends, most_queries, most_keys, dropout,
        causal, random_state, unused,
    ):  # fmt: skip
        assert gradient.is_contiguous()
        assert output.is_contiguous()
        assert log_sum_exp.is_contiguous()
        assert log_sum_exp.shape == query.shape[1::-1]
        found = []
        sums = log_sum_exp.t()
        pairs = zip(
            self.cells(query_ends, query, gradient, output, sums), self.cells(key_ends, key, value), strict=True
        )
        for (queries, gradients, outputs, sums), (keys, values) in pairs:
            scale = query.shape[-1] ** -0.5
            shares = (torch.einsum("qhw,khw->hqk", queries, keys) * scale - sums.t().unsqueeze(-1)).exp()
            delta = (outputs * gradients).sum(-1).t().unsqueeze(-1)
            errors = shares * (torch.einsum("qhw,khw->hqk", gradients, values) - delta) * scale
            found.append(
                (
                    torch.einsum("hqk,khw->qhw", errors, keys),
                    torch.einsum("hqk,qhw->khw", errors, queries),
                    torch.einsum("hqk,qhw->khw", shares, gradients),
                )
            )
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def assert_exact(known, unknown, contiguous=False):
    projections = streams(4, 8, known, unknown, "cpu", number_type=torch.float64)
    of_known, of_unknown = (each.unbind(1) for each in projections)
    if contiguous:
        of_known, of_unknown = ([part.contiguous() for part in each] for each in (of_known, of_unknown))
    ours = attention.attend_to_known_and_self(*of_unknown, *of_known[1:], Cells(unknown), Cells(known))
    expected = dense(projections, known, unknown)[sum(known) :]
    assert (ours - expected).abs().max() < 1e-12
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours_gradients = torch.autograd.grad((ours * weight).sum(), projections)
    expected_gradients = torch.autograd.grad((expected * weight).sum(), projections)
    for one, other in zip(ours_gradients, expected_gradients, strict=True):
        assert (one - other).abs().max() < 1e-12


@pytest.mark.parametrize("contiguous", [False, True], ids=["views of one projection", "contiguous"])
@pytest.mark.parametrize(
    ("known", "unknown"),
    [([40], [45]), ([40] * 3, [1] * 3), ([40] * 3, [45] * 3), ([40, 40, 25], [32, 32, 7])],
    ids=str,
)
def test_what_the_backward_kernel_of_a_gpu_is_given_lies_where_it_looks(known, unknown, contiguous, monkeypatch):
    kernels = CudaLayout()
    monkeypatch.setattr(attention, "_kernel", kernels.forward)
    monkeypatch.setattr(attention, "_kernel_backward", kernels.backward)
    assert_exact(known, unknown, contiguous)


def test_cells_of_all_lengths_go_through_flash_attention_in_one_call(monkeypatch):
    kernels = Varlen()
    monkeypatch.setattr(attention, "kernel", lambda *_: "varlen")
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", kernels.forward)
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_backward", kernels.backward)
    assert_exact([40, 25, 7], [12, 3, 30])
    assert kernels.calls == 4  # forward and backward, queries and keys


def test_self_attention_of_cells_of_different_lengths_is_one_call_where_a_gpu_has_it(monkeypatch):
    from torch.nn.attention import varlen

    asked = []

    def varlen_attn(query, key, value, ends, key_ends, longest, longest_key):
        asked.append((ends.tolist(), key_ends is ends, longest, longest_key))
        return value

    monkeypatch.setattr(attention, "kernel", lambda *_: "varlen")
    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn)
    stream = torch.randn(11, 3, 2, 8).unbind(1)
    assert attention.attend(*stream, Cells([3, 2, 6])) is stream[2]
    assert asked == [([0, 3, 5, 11], True, 6, 6)]
    attention.attend(*stream[:3], Cells([11]))
    attention.attend(*stream, Cells([3, 2, 6]), dropout=0.1)  # which it does not have
    assert len(asked) == 1


@pytest.mark.parametrize("deterministic", [True, False])
def test_flash_attn_computes_cells_of_different_lengths_with_dropout(deterministic, monkeypatch):
    asked = []

    def flash_attention(query, key, value, ends, key_ends, longest, longest_key, **options):
        asked.append((ends.tolist(), key_ends is ends, longest, longest_key, options))
        return value

    monkeypatch.setattr(attention, "kernel", lambda *_: "flash_attn")
    monkeypatch.setattr(attention, "flash_attn_varlen_func", flash_attention)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: deterministic)
    stream = torch.randn(11, 3, 2, 8).unbind(1)
    assert attention.attend(*stream, Cells([3, 2, 6]), dropout=0.1) is stream[2]
    assert asked == [([0, 3, 5, 11], True, 6, 6, {"dropout_p": 0.1, "deterministic": deterministic})]
    attention.attend(*stream, Cells([11]))  # equal lengths: PyTorch chooses the fastest kernel
    assert len(asked) == 1


def test_where_cells_end_is_put_on_a_device_once():
    cells = Cells([3, 2, 6])
    assert cells.ends(torch.device("cpu")) is cells.ends(torch.device("cpu"))
    assert cells.first_tokens(torch.device("cpu")).tolist() == [0, 3, 5]
    assert cells.cell_of_token(torch.device("cpu")).tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 2]


def test_a_product_of_16_bit_numbers_is_summed_in_32_bits():
    """The gradient of the self logit, against one computed in double precision from the same rounded numbers."""
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(60, 3, 2, 64, generator=generator).bfloat16().double().requires_grad_() for _ in range(2)]
    rounded = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    weight = torch.randn(60, 2, 64, generator=generator).bfloat16()
    ours = torch.autograd.grad((merged(rounded, [60], [60])[60:] * weight).sum(), rounded[1])[0][:, 1].double()
    expected = torch.autograd.grad((dense(exact, [60], [60])[60:] * weight).sum(), exact[1])[0][:, 1]
    # Summed in 16 bits: 3.3e-3; rounded to 16 bits once: 1.7e-3.
    assert (ours - expected).norm() < 2.5e-3 * expected.norm()


def test_tokens_are_packed_and_put_back():
    mask = np.array([[True, True, False], [False, True, False], [False, False, False]])
    tokens, padded = TokenMask(mask), torch.arange(9.0).view(3, 3)
    assert tokens.pack(padded).tolist() == [0, 1, 4]
    assert tokens.cells.lengths == (2, 1, 0)
    assert tokens.unpack(tokens.pack(padded)).tolist() == (padded.numpy() * mask).tolist()
    some = TokenMask(mask & (np.arange(3) == 1))
    assert tokens.rows_of(some, torch.device("cpu")).tolist() == [1, 2]
    assert tokens[1:].cells.lengths == (1, 0)
    assert TokenMask(np.ones((2, 2), dtype=bool)).pack(padded[:2, :2]).tolist() == [0, 1, 3, 4]


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of the given compute capability, without flash-attn."""
    monkeypatch.setattr(torch, "__version__", "2.12")
    monkeypatch.setattr(attention, "flash_attn_varlen_func", None)

    def with_capability(*capability):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    return with_capability


def test_a_cpu_has_one_kernel():
    name = attention.kernel_name(torch.device("cpu"), torch.float32)
    assert name == f"sdpa (torch {torch.__version__}, float32)"


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (9, 0), (12, 0)])
def test_different_lengths_go_through_flash_attention_from_ampere_on(gpu, capability, monkeypatch):
    gpu(*capability)
    of_torch = "varlen (torch 2.12, bfloat16; flash-attn cannot be imported: with dropout run by run)"
    assert attention.kernel_name(GPU, torch.bfloat16) == f"sdpa, for cells of different lengths {of_torch}"
    monkeypatch.setattr(attention, "flash_attn_varlen_func", lambda *_: None)
    monkeypatch.setattr(attention, "version", {"flash-attn": "2.8.3"}.__getitem__)
    of_package = "flash_attn 2.8.3 (torch 2.12, bfloat16)"
    assert attention.kernel_name(GPU, torch.bfloat16) == f"sdpa, for cells of different lengths {of_package}"


@pytest.mark.parametrize(
    ("capability", "number_type", "width", "why"),
    [
        ((7, 0), torch.float16, 64, "FlashAttention 2 needs compute capability 8.0, this GPU has 7.0"),
        ((7, 5), torch.float16, 64, "FlashAttention 2 needs compute capability 8.0, this GPU has 7.5"),
        ((9, 0), torch.float32, 64, "FlashAttention 2 is for bf16 and fp16"),
        ((9, 0), torch.bfloat16, 12, "FlashAttention 2 needs heads whose width is a multiple of 8, these have 12"),
    ],
    ids=["V100", "T4", "fp32", "width"],
)
def test_another_gpu_goes_run_by_run_and_says_why(gpu, capability, number_type, width, why):
    gpu(*capability)
    name = attention.kernel_name(GPU, number_type, width)
    assert name == f"sdpa (torch 2.12, {str(number_type).removeprefix('torch.')}; {why})"
