"""The merged attention of pretraining equals the dense masked form, in values and gradients, in linear memory."""

import numpy as np
import pytest
import torch

from scgpt_bench.scgpt import masked_attention

SHAPES = [  # batch, heads, known, unknown, head width, padded
    (1, 1, 1, 1, 8, False),
    (2, 4, 13, 29, 16, False),
    (3, 2, 40, 7, 16, True),
    (2, 4, 129, 200, 16, True),
    (1, 8, 300, 75, 64, False),
    (4, 2, 5, 64, 32, True),
]
BF16_TOLERANCE = 5e-2  # a GPU trains in bf16, which keeps 8 bits of values up to 6


def streams(batch, heads, known, unknown, width, padded, device, scale=1.0, number_type=torch.float32):
    generator = torch.Generator().manual_seed(known * 1000 + unknown)

    def draw(length):
        drawn = torch.randn(batch, heads, length, width, generator=generator) * scale
        return drawn.to(device, number_type).requires_grad_()

    tensors = [draw(known), draw(known), draw(known), draw(unknown), draw(unknown), draw(unknown)]
    padding = None
    if padded:
        lengths = torch.randint(1, known + 1, (batch,), generator=generator)
        padding = (torch.arange(known)[None, :] >= lengths[:, None]).to(device)
    return tensors, padding


def merged(tensors, padding):
    query, key, value, unknown_query, unknown_key, unknown_value = tensors
    known = masked_attention.attend_to_known(query, key, value, padding)
    unknown = masked_attention.attend_to_known_and_self(unknown_query, unknown_key, unknown_value, key, value, padding)
    return torch.cat([known, unknown], dim=2)


def dense(tensors, padding):
    """allow(query, key) = known(key) or key == query, over one concatenated sequence."""
    query, key, value = (torch.cat([tensors[i], tensors[i + 3]], dim=2) for i in range(3))
    batch, _, length, width = query.shape
    n_known = tensors[0].shape[2]
    known_key = (torch.arange(length, device=query.device) < n_known).repeat(batch, 1)
    if padding is not None:
        known_key[:, :n_known] &= ~padding
    allowed = known_key[:, None, :] | torch.eye(length, dtype=torch.bool, device=query.device)
    if padding is not None:  # a padded position is no gene: no query of it is ever read
        allowed[:, :n_known] &= known_key[:, None, :]
    logits = query @ key.transpose(-1, -2) * width**-0.5
    return logits.masked_fill(~allowed[:, None], float("-inf")).softmax(-1) @ value


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [0.3, 1.0, 1.5])
@pytest.mark.parametrize("number_type", [torch.float32, torch.bfloat16], ids=str)
def test_merged_attention_equals_the_dense_mask_in_values_and_gradients(shape, scale, number_type, device, tolerance):
    if number_type == torch.bfloat16:
        tolerance = BF16_TOLERANCE
    tensors, padding = streams(*shape, device, scale, number_type)
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    ours, reference = merged(tensors, padding), dense(exact, padding)
    assert ours.dtype == number_type
    assert (ours - reference).abs().max() < tolerance
    weight = torch.randn(reference.shape, generator=torch.Generator().manual_seed(1)).to(device)
    if padding is not None:
        weight[:, :, : padding.shape[1]] *= ~padding[:, None, :, None]
    ours_gradients = torch.autograd.grad((ours * weight).sum(), tensors)
    reference_gradients = torch.autograd.grad((reference * weight).sum(), exact)
    for one, other in zip(ours_gradients, reference_gradients, strict=True):
        assert (one - other).abs().max() < tolerance * max(1.0, float(other.abs().max()))


def test_gradients_equal_finite_differences_in_double_precision():
    """On the CPU alone: the kernel of a GPU has no double precision."""
    tensors, padding = streams(2, 2, 5, 4, 8, True, "cpu", number_type=torch.float64)
    assert torch.autograd.gradcheck(lambda *parts: merged(parts, padding), tensors)


def test_no_unknown_gene_sees_another_one(device):
    tensors, _ = streams(2, 2, 9, 12, 16, False, device)
    before = merged(tensors, None)
    with torch.no_grad():
        for tensor in tensors[3:]:
            tensor[:, :, 4] += 1.0
    after = merged(tensors, None)
    changed = (before != after).any(-1).any(1).any(0)
    assert changed.nonzero().flatten().tolist() == [9 + 4]


def test_padded_known_genes_are_never_read(device):
    tensors, padding = streams(3, 2, 40, 7, 16, True, device)
    before = merged(tensors, padding)[:, :, 40:]
    with torch.no_grad():
        for tensor in tensors[1:3]:
            tensor.masked_fill_(padding[:, None, :, None], 7.0)
    assert torch.equal(before, merged(tensors, padding)[:, :, 40:])


def test_memory_of_the_backward_graph_grows_linearly(device):
    """What autograd keeps for 8 times the genes is 8 times as much: a dense mask would keep 64 times as much."""

    def kept(length):
        sizes = {}

        def count(tensor):
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        tensors, padding = streams(1, 1, length, length, 8, True, device)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            result = masked_attention.attend_to_known_and_self(*tensors[3:], *tensors[1:3], padding)
        assert result.requires_grad
        return sum(sizes.values())

    assert np.isclose(kept(4096) / kept(512), 8, rtol=0.1)


class CudaLayout:
    """Stands in for the CUDA kernels of 16-bit types: in exact arithmetic, with their layout in memory.

    The forward kernel stores its output as (batch, length, heads, head_width) and rows of log-sum-exp padded to 32. The
    backward kernel computes delta = row sum of (output x its gradient) itself. Of the output it looks at the strides
    between cells and between heads; between queries it takes head_width x heads, whatever the tensor says
    (kernel_backward.h of PyTorch 2.11 to 2.13). Of log-sum-exp it takes neighbours to be adjacent.
    """

    def forward(self, query, key, value, bias):
        logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        logits = logits if bias is None else logits + bias
        n_query = query.shape[2]
        padded = torch.nn.functional.pad(logits.logsumexp(-1), (0, -n_query % 32), value=float("inf"))
        output = (logits.softmax(-1) @ value).transpose(1, 2).contiguous().transpose(1, 2)
        return output, padded[..., :n_query], ()

    def backward(self, gradient, query, key, value, bias, output, log_sum_exp, random_state):
        batch, heads, n_query, width = output.shape
        between_cells, between_heads = output.stride()[:2]
        read = self.memory(output, (batch, heads, n_query, width), (between_cells, between_heads, width * heads, 1))
        log_sum_exp = self.memory(log_sum_exp, log_sum_exp.shape, (*log_sum_exp.stride()[:2], 1))
        logits = query @ key.transpose(-1, -2) * width**-0.5
        logits = logits if bias is None else logits + bias
        shares = (logits - log_sum_exp.unsqueeze(-1)).exp()
        delta = (read * gradient).sum(-1, keepdim=True)
        errors = shares * (gradient @ value.transpose(-1, -2) - delta) * width**-0.5
        return errors @ key, errors.transpose(-1, -2) @ query, shares.transpose(-1, -2) @ gradient

    @staticmethod
    def memory(tensor, shape, strides):
        """What lies at these strides from the tensor's first number; NaN behind the end of its memory."""
        stored = tensor.as_strided((tensor.untyped_storage().nbytes() // tensor.element_size(),), (1,), 0)
        behind = torch.full((2 * stored.numel(),), torch.nan, dtype=tensor.dtype)
        return torch.cat([stored, behind]).as_strided(shape, strides, tensor.storage_offset())


def projection(length, heads=4, width=8, batch=3):
    """Queries, keys and values of one projection: (batch, length, 3, heads, width)."""
    generator = torch.Generator().manual_seed(length)
    return torch.randn(batch, length, 3, heads, width, generator=generator, dtype=torch.float64).requires_grad_()


def views(packed):
    """query, key and value as the model has them, each (batch, heads, length, width)."""
    return packed.permute(2, 0, 3, 1, 4).unbind(0)


@pytest.mark.parametrize("unknown", [1, 32, 45])
@pytest.mark.parametrize("layout", ["views of one projection", "contiguous"])
@pytest.mark.parametrize("padded", [False, True])
def test_what_the_backward_kernel_of_a_gpu_is_given_lies_where_it_looks(unknown, layout, padded, monkeypatch):
    kernels = CudaLayout()
    monkeypatch.setattr(masked_attention, "_kernel", kernels.forward)
    monkeypatch.setattr(masked_attention, "_kernel_backward", kernels.backward)
    packed = [projection(40), projection(unknown)]
    padding = None
    if padded:
        padding = torch.arange(40)[None, :] >= torch.tensor([40, 25, 7])[:, None]

    parts = [part for stream in packed for part in views(stream)]
    if layout == "contiguous":
        parts = [part.contiguous() for part in parts]
    ours = masked_attention.attend_to_known_and_self(*parts[3:], *parts[1:3], padding)
    expected = dense(parts, padding)[:, :, 40:]
    assert (ours - expected).abs().max() < 1e-12
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours_gradients = torch.autograd.grad((ours * weight).sum(), packed)
    expected_gradients = torch.autograd.grad((expected * weight).sum(), packed)
    for one, other in zip(ours_gradients, expected_gradients, strict=True):
        assert (one - other).abs().max() < 1e-12


def test_a_product_of_16_bit_numbers_is_summed_in_32_bits():
    """The gradient of the self logit, against one computed in double precision from the same rounded numbers."""
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(1, 2, 60, 64, generator=generator).bfloat16().double().requires_grad_() for _ in range(6)]
    rounded = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    weight = torch.randn(1, 2, 60, 64, generator=generator).bfloat16()
    ours = torch.autograd.grad((merged(rounded, None)[:, :, 60:] * weight).sum(), rounded[4])[0].double()
    expected = torch.autograd.grad((dense(exact, None)[:, :, 60:] * weight).sum(), exact[4])[0]
    assert (
        ours - expected
    ).norm() < 2.5e-3 * expected.norm()  # summed in 16 bits: 3.3e-3; rounded to 16 bits once: 1.7e-3
