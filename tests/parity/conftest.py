"""Where the parity tests compute: on the CPU and, on a machine that has one, on a GPU too."""

import pytest
import torch

# Without a GPU these tests are not collected for one: test_on_gpu.py has the one test that is skipped for all of them.
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(scope="session", params=DEVICES)
def device(request) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(scope="session")
def tolerance(device) -> float:
    """Largest difference in fp32 between values around 1; fused kernels on a GPU make a product of three in TF32."""
    return 1e-5 if device.type == "cpu" else 1e-4


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Small models gain nothing from threads, and lose much where other work runs beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
