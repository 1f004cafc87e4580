"""Files that are either whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import anndata
    import pandas as pd


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to (a file or a folder); it takes the name ``path`` only on success.

    A failure removes what was written. A kill leaves a ``.partial`` that nothing reads and the next try replaces.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    _remove(partial)
    try:
        yield partial
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(partial, path)
    except BaseException:
        _remove(partial)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_h5ad(adata: anndata.AnnData, path: str | Path) -> None:
    """Write ``adata`` whole or not at all."""
    with whole(path) as partial:
        adata.write_h5ad(partial, compression="lzf")


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a tab-separated table without index, floats in full (they round-trip), missing values empty."""
    with whole(path) as partial:
        table.to_csv(partial, sep="\t", index=False, lineterminator="\n")


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a table of :func:`write_table`. Only an empty cell is a missing value: NA and NAN are gene symbols."""
    import pandas as pd

    return pd.read_csv(path, sep="\t", keep_default_na=False, na_values=[""])


def write_json(document: object, path: str | Path) -> None:
    """Write JSON, indented, keys in the order given, no NaN."""
    with whole(path) as partial:
        partial.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
