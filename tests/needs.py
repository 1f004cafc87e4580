"""What tests need of a machine, other than a GPU."""

import os
from typing import NoReturn

import pytest

MUST_RUN = "SCGPT_BENCH_MUST_RUN"


def missing(what: str) -> NoReturn:
    """Skip a test for want of ``what``; fail it where ``SCGPT_BENCH_MUST_RUN`` is set, as in CI."""
    if os.environ.get(MUST_RUN):
        pytest.fail(f"{what}; {MUST_RUN} is set: this test may not be skipped", pytrace=False)
    pytest.skip(what)
