"""Files that come with this package: what is in ``config/``."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent
# Where an installed package has them (pyproject.toml), and where a clone does: in ``workflow`` and above it.
_FOLDERS = (_PACKAGE, *_PACKAGE.parents[1:3])


def own_or_shipped(path: str) -> str:
    """Return ``path``, such as ``config/datasets.tsv``; where the current folder has none, that of the package."""
    if Path(path).exists():
        return path
    return str(next((folder / path for folder in _FOLDERS if (folder / path).is_file()), _FOLDERS[-1] / path))
