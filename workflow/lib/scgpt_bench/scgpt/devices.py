"""Where a model runs, and the number type that it computes in there."""

from __future__ import annotations

import logging

import torch

log = logging.getLogger(__name__)


def device_of(gpu: int) -> torch.device:
    """Choose where a job that asked for ``gpu`` GPUs predicts: on one of them, or on the CPU."""
    if gpu and torch.cuda.is_available():
        return torch.device("cuda")
    if gpu:
        log.warning("a GPU asked for (hardware.gpu), but CUDA finds none: predicting on the CPU")
    return torch.device("cpu")


def device_name(device: torch.device) -> str:
    """Name the model of a GPU; ``cpu`` otherwise."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def number_type(device: torch.device) -> torch.dtype:
    """Choose what the transformer computes in: bf16 on a GPU that has it, else fp16; fp32 on a CPU."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
