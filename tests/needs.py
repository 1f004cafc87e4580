"""What tests need of a machine, other than a GPU."""

import os
from pathlib import Path
from typing import NoReturn

import pytest

from scgpt_bench.data.download import fetch
from scgpt_bench.errors import InputError

MUST_RUN = "SCGPT_BENCH_MUST_RUN"


def missing(what: str) -> NoReturn:
    """Skip a test for want of ``what``; fail it where ``SCGPT_BENCH_MUST_RUN`` is set, as in CI."""
    if os.environ.get(MUST_RUN):
        pytest.fail(f"{what}; {MUST_RUN} is set: this test may not be skipped", pytrace=False)
    pytest.skip(what)


def fetched(address: str, sha256: str, destination: Path, mirror: Path, **checks) -> Path:
    """A file of the catalogue, as a run gets it: from the mirror, else from its address; missing without both."""
    try:
        fetch(address, sha256, destination, mirrors=[mirror], retries=0, **checks)
    except InputError as error:
        if not error.where.startswith("download"):
            raise
        missing(str(error))
    return destination
