"""What is used of the installed ``scgpt`` package, imported without the rest of it.

Its ``__init__`` imports its trainer, its data bank and its tools for networks, which takes seconds in every job.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _bare_package(name: str, **attributes: object) -> Iterator[None]:
    """Let modules of an installed package be imported without running its ``__init__``.

    A later ``import scgpt`` still gets the whole package, with the same classes.
    """
    if name in sys.modules:
        yield
        return
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    package = importlib.util.module_from_spec(spec)
    vars(package).update(attributes)
    sys.modules[name] = package
    try:
        yield
    finally:
        del sys.modules[name]


with warnings.catch_warnings(), _bare_package("scgpt", logger=logging.getLogger("scgpt")):
    # Upstream looks for flash-attn 1; which attention is really used is recorded beside every prediction.
    warnings.filterwarnings("ignore", message="flash_attn is not installed")
    from scgpt.loss import masked_mse_loss
    from scgpt.model import TransformerGenerator
    from scgpt.model.model import ContinuousValueEncoder, ExprDecoder, GeneEncoder, MVCDecoder

__all__ = [
    "ContinuousValueEncoder",
    "ExprDecoder",
    "GeneEncoder",
    "MVCDecoder",
    "TransformerGenerator",
    "masked_mse_loss",
]
