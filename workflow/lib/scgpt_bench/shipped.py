"""Files that come with this package: the schema, and what is in ``config/``."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent
# Where an installed package has them (pyproject.toml), and where a clone does: in ``workflow`` and above it.
_FOLDERS = (_PACKAGE, *_PACKAGE.parents[1:3])


def shipped(path: str) -> Path:
    """Return where the file ``path`` is, such as ``config/datasets.tsv`` or ``schemas/config.schema.yaml``."""
    return next((folder / path for folder in _FOLDERS if (folder / path).is_file()), _FOLDERS[-1] / path)


def own_or_shipped(path: str) -> str:
    """Return ``path``, or the file that comes with the package where the current folder has none of this path."""
    return path if Path(path).exists() else str(shipped(path))
