"""Where a model runs, and the number type that it computes in there."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from scgpt_bench.errors import InputError
from scgpt_bench.options import Precision

log = logging.getLogger(__name__)
ON_CPU = "SCGPT_BENCH_CPU_FOR_GPU"

# Dense products per second, as NVIDIA's data sheets give them, in 10^12 operations: bf16, tf32, fp32.
PEAK = {
    "A100": (312, 156, 19.5),
    "A10": (125, 62.5, 31.2),
    "A30": (165, 82, 10.3),
    "A40": (150, 75, 37.4),
    "H100 NVL": (835, 418, 60),
    "H100 PCIe": (756, 378, 51),
    "H100": (989, 495, 67),
    "H200 NVL": (835, 418, 60),
    "H200": (989, 495, 67),
    "B200": (2250, 1100, 75),
    "L4": (121, 60, 30.3),
    "L40S": (362, 183, 91.6),
    "L40": (181, 90.5, 90.5),
}


def finds_gpus(asked: int) -> bool:
    """Say whether to compute on GPUs: where some are asked for (``hardware.gpu``).

    Raises
    ------
    InputError
        If CUDA finds fewer on this machine, unless the variable ``ON_CPU`` is set: a job would compute for days on the
        CPU and hold GPUs.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found >= asked or os.environ.get(ON_CPU):
        return 0 < asked <= found
    raise InputError(
        "configuration",
        "hardware.gpu",
        f"{asked}, but CUDA finds {found} on {socket.gethostname()}",
        f"as many, with a driver and a PyTorch for CUDA (docs/gpu.md); or 0; or {ON_CPU}=1 to try the jobs on CPUs",
    )


def device_of(gpu: int) -> torch.device:
    """Choose where a job that asked for ``gpu`` GPUs predicts: on one of them, or on the CPU; :func:`finds_gpus`."""
    return torch.device("cuda" if finds_gpus(min(1, gpu)) else "cpu")


def device_name(device: torch.device) -> str:
    """Name the model of a GPU; ``cpu`` otherwise."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def peak(device: torch.device, precision: Precision) -> float | None:
    """Look up the operations per second that a GPU is specified for; None for a CPU and for other GPUs."""
    name = device_name(device).removeprefix("NVIDIA ")
    known = [model for model in PEAK if re.match(rf"{model}\b", name)]
    if not known:
        return None
    return 1e12 * PEAK[max(known, key=len)][("bf16", "tf32", "fp32").index(precision)]


def has_bf16(device: torch.device) -> bool:
    """Tell whether this is a GPU that computes in bf16."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def has_tf32(device: torch.device) -> bool:
    """Tell whether this is a GPU that computes in TF32."""
    return device.type == "cuda" and torch.cuda.is_tf32_supported()


def number_type(device: torch.device, precision: Precision | None = None) -> torch.dtype:
    """Choose what the transformer predicts in: as asked for, or bf16 on a GPU that has it, else fp16; fp32 on a CPU."""
    if precision:
        return torch.bfloat16 if precision == "bf16" else torch.float32
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if has_bf16(device) else torch.float16


def training_precision(device: torch.device, precision: Precision | None) -> Precision:
    """Choose what a model is trained in: as asked for, or bf16 on a GPU that has it, else fp32."""
    if precision == "tf32" and not has_tf32(device):
        log.warning("tf32 asked for (hardware.precision), which a %s does not have: fp32 is used", device_name(device))
        return "fp32"
    return precision or ("bf16" if has_bf16(device) else "fp32")


def precision_name(device: torch.device, computed_in: torch.dtype, precision: Precision | None = None) -> str:
    """Name what a prediction is computed in: ``fp32``, ``tf32``, ``bf16`` or ``fp16``."""
    if computed_in == torch.float32:
        return "tf32" if precision == "tf32" and has_tf32(device) else "fp32"
    return {torch.bfloat16: "bf16", torch.float16: "fp16"}[computed_in]


@contextmanager
def products_in(device: torch.device, precision: Precision | None) -> Iterator[None]:
    """Let a GPU multiply float32 matrices in TF32 where that was asked for."""
    before = torch.get_float32_matmul_precision()
    if precision == "tf32" and device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
