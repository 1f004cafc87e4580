"""Damage of what torch saved is noticed."""

import numpy as np
import pytest
import torch

from scgpt_bench.errors import InputError
from scgpt_bench.scgpt import torch_files


def test_tensors_with_any_bit_flipped_are_refused_or_the_same(tmp_path):
    path = tmp_path / "model.pt"
    expected = torch.randn(30, 30, generator=torch.Generator().manual_seed(0))
    torch.save({"weight": expected}, path)
    content = path.read_bytes()
    refused = 0
    for bit in np.random.default_rng(0).integers(8 * len(content), size=200):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert torch.equal(torch_files.read(path, "weights")["weight"], expected)  # between parts nothing is read
        except InputError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_tensors_cut_short_or_absent_are_refused(tmp_path, share):
    path = tmp_path / "model.pt"
    with pytest.raises(InputError, match="no such file"):
        torch_files.read(path, "weights")
    torch.save({"weight": torch.ones(30, 30)}, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=r"bytes.*expected weights"):
        torch_files.read(path, "weights")
