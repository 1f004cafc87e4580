"""What ``torch.save`` wrote, read with its checksums: checkpoints, fine-tuned weights, states of trainings."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from scgpt_bench.data import file_kinds
from scgpt_bench.errors import InputError
from scgpt_bench.files import first_line


def read(path: str | Path, expected: str, *, mapped: bool = False) -> Any:
    """Read what ``torch.save`` wrote, or safetensors, to the CPU; no code in it is ever run.

    Parts that ``torch.save`` wrote are compared with their checksums; safetensors have none.

    Parameters
    ----------
    expected
        What the file should hold, for the error.
    mapped
        Leave tensors in the file, so that only what is used is read. Not for a file that may change while it is used.

    Raises
    ------
    InputError
        For a file that is absent, damaged, cut short or of another kind, or holds more than tensors, numbers and text.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "file", "no such file", expected)
    try:
        archive = zipfile.is_zipfile(path)  # files of torch before 1.6 are not
        if archive:
            _check_parts(path, expected)
        else:
            kind = file_kinds.kind_of_file(path)
            if kind.form != "torch":
                raise InputError(path, "file", f"{kind.words} ({path.stat().st_size} bytes)", expected)
            if kind.words == file_kinds.SAFETENSORS:
                from safetensors.torch import load_file

                return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and archive)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        # Not torch's own text, which advises to load the file with its code.
        code = re.search(r"GLOBAL (\S+)", str(error))
        what = code[1] if code else f"a broken or foreign pickle of {path.stat().st_size} bytes"
        raise InputError(path, "file", f"more than plain tensors: {what}", expected) from None
    except Exception as error:  # torch and safetensors raise a dozen types for a broken file
        raise InputError(path, "file", f"{first_line(error)} ({path.stat().st_size} bytes)", expected) from None


def _check_parts(path: Path, expected: str) -> None:
    """Compare every part of the archive with its CRC-32, which torch does not; refuse archives of other programs."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            raise InputError(path, "file", "a TorchScript program", expected)
        if not any(name.endswith("/data.pkl") for name in names):
            raise InputError(path, "file", file_kinds.kind_of_file(path).words, expected)
        damaged = archive.testzip()
    if damaged:
        raise InputError(path, damaged, "bytes that differ from their checksum", "an undamaged file")
