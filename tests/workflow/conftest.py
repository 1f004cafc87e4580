"""What every workflow test may ask for."""

import pytest

from snakemake_checkout import copy_of_checkout


@pytest.fixture
def checkout(tmp_path):
    """A fresh copy of the checkout, with nothing computed."""
    return copy_of_checkout(tmp_path)
