"""What computes attention is chosen by what the device can do, and the reason is told."""

import pytest
import torch

from scgpt_bench.scgpt import transformer

GPU = torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch):
    """A machine with flash-attn and a GPU of the given compute capability."""
    monkeypatch.setattr(transformer, "flash_attn_varlen_qkvpacked_func", lambda *_: None)
    monkeypatch.setattr(transformer, "version", lambda package: "2.8.3" if package == "flash-attn" else "2.12")

    def with_capability(*capability):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    return with_capability


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (9, 0), (12, 0)])
def test_flash_attention_from_ampere_on(gpu, capability):
    gpu(*capability)
    assert transformer.backend_name(GPU, torch.bfloat16) == "flash_attn (flash-attn 2.8.3, bfloat16)"


@pytest.mark.parametrize("capability", [(7, 0), (7, 5)], ids=["V100", "T4"])
def test_an_older_gpu_takes_torchs_own_attention_and_says_why(gpu, capability):
    gpu(*capability)
    why = "flash-attn needs compute capability 8.0, this GPU has {}.{}".format(*capability)
    assert transformer.backend_name(GPU, torch.float16) == f"sdpa (torch 2.12, float16; {why})"


def test_the_gradients_of_flash_attention_are_added_up_in_a_fixed_order(monkeypatch):
    asked = []

    def attention(qkv, ends, longest, dropout, **options):
        asked.append(options)
        return qkv[:, 0]

    monkeypatch.setattr(transformer, "flash_attn_varlen_qkvpacked_func", attention)
    monkeypatch.setattr(transformer, "backend", lambda *_: "flash_attn")
    transformer.attend(torch.ones(5, 12), [2, 3], heads=2)
    assert asked == [{"deterministic": True}]


def test_a_gpu_without_flash_attention_says_so(gpu, monkeypatch):
    gpu(9, 0)
    assert transformer.backend_name(GPU, torch.float32).endswith("; flash-attn is for bf16 and fp16)")
    monkeypatch.setattr(transformer, "flash_attn_varlen_qkvpacked_func", None)
    assert transformer.backend_name(GPU, torch.bfloat16).endswith("; flash-attn is not installed)")
