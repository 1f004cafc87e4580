"""Bring the file of an address to where it is needed, whole and with the right checksum, or not at all."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlparse

from scgpt_bench import files
from scgpt_bench.data.catalogue import is_remote
from scgpt_bench.errors import InputError

logger = logging.getLogger(__name__)

SECONDS_WITHOUT_DATA = 60


def fetch(
    address: str,
    sha256: str | None,
    destination: str | Path,
    *,
    mirrors: Iterable[str | Path] = (),
    size: int | None = None,
    retries: int = 5,
) -> str:
    """Write the file of ``address`` to ``destination``: from a mirror that has it, else from the address.

    A failure leaves no file behind. An interrupted download starts again from the beginning.

    Parameters
    ----------
    address
        A URL (http or https) or the path of a local file.
    sha256
        The checksum that decides; None accepts any content, which only makes sense for a local path.
    mirrors
        Folders, searched with everything below them for a file with this checksum: files of the same name first, then
        the others. A mirror is a shortcut that a machine may lack, so one that does not exist is a note in the log.
    size
        Bytes of the file; spares hashing the mirror's files of other sizes.
    retries
        Further attempts after a failed download, 1, 2, 3 ... seconds apart (at most 10).

    Returns
    -------
    The checksum of the file.

    Raises
    ------
    InputError
        When no attempt gave a file with this checksum, with the address and both checksums or the server's answer.
    """
    mirrored = _find_in_mirrors(address, sha256, size, mirrors) if sha256 else None
    if mirrored is not None:
        logger.info("%s: taken from the mirror %s", address, mirrored)
        return _copy(mirrored, sha256, address, destination)
    if is_remote(address):
        return _download(address, sha256, Path(destination), retries)
    if not Path(address).is_file():
        raise InputError(address, "file", "no such file", "the data set's local path, or a URL")
    return _copy(Path(address), sha256, address, destination)


def _find_in_mirrors(address: str, sha256: str, size: int | None, mirrors: Iterable[str | Path]) -> Path | None:
    for mirror in map(Path, mirrors):
        if not mirror.is_dir():
            logger.warning("mirror folder %s: not there, skipped", mirror)
            continue
        for path in _candidates(mirror, _file_name(address), size):
            if files.sha256(path) == sha256:
                return path
    return None


def _candidates(mirror: Path, name: str, size: int | None) -> Iterator[Path]:
    paths = [path for path in sorted(mirror.rglob("*")) if path.is_file()]
    for path in sorted(paths, key=lambda path: path.name != name):
        if size is None or path.stat().st_size == size:
            yield path


def _file_name(address: str) -> str:
    return PurePosixPath(unquote(urlparse(address).path)).name


def _copy(path: Path, sha256: str | None, address: str, destination: str | Path) -> str:
    with files.whole(destination) as partial:
        shutil.copyfile(path, partial)
        return _checked(partial, sha256, address)


def _checked(path: str | Path, sha256: str | None, address: str) -> str:
    found = files.sha256(path)
    if sha256 is not None and found != sha256:
        raise InputError(address, "sha256", f"{found} ({Path(path).stat().st_size} bytes)", sha256)
    return found


def _download(address: str, sha256: str | None, destination: Path, retries: int) -> str:
    import pooch
    import requests

    get = pooch.HTTPDownloader(progressbar=True, timeout=SECONDS_WITHOUT_DATA)

    def get_checked(url: str, output: str, session: pooch.Pooch) -> None:
        # Checked here and not by pooch, so that the error holds the address and both sums. Pooch retries a ValueError,
        # of which InputError is one, as it retries a network failure.
        get(url, output, session)
        _checked(output, sha256, address)

    # Pooch downloads to a random name; in a folder of our own, the next try removes what a killed one left.
    scratch = destination.with_name(f".{destination.name}.download")
    _remove_folder(scratch)
    try:
        cache = pooch.create(
            scratch, base_url="", registry={destination.name: None}, urls={destination.name: address},
            retry_if_failed=retries,
        )  # fmt: skip
        downloaded = cache.fetch(destination.name, downloader=get_checked)
        with files.whole(destination) as partial:
            Path(downloaded).rename(partial)
        return sha256 or files.sha256(destination)
    except requests.exceptions.RequestException as error:
        raise InputError(
            address, f"download ({retries + 1} attempts)", str(error), f"a file, from here or a mirror, sha256 {sha256}"
        ) from None
    finally:
        _remove_folder(scratch)


def _remove_folder(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
