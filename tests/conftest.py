"""What every test may ask for."""

import os
from pathlib import Path

import pytest

import needs

# Tests run side by side, one per core: numerical libraries that each take every core would only wait for each other.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

MIRROR = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder of small real data beside the checkout; tests that need it skip where it is absent."""
    if not MIRROR.is_dir():
        needs.missing(f"no mirror of real data at {MIRROR}")
    return MIRROR
