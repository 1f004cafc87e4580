"""Bring the file of an address to where it is needed, complete and with the right checksum, or not at all."""

from __future__ import annotations

import logging
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlparse

from scgpt_bench import files
from scgpt_bench.data import containers, tenx_files
from scgpt_bench.data.catalogue import UNKNOWN, UNVERIFIED, Dataset, VectorFile, is_remote
from scgpt_bench.errors import InputError

logger = logging.getLogger(__name__)

SECONDS_WITHOUT_DATA = 60
GOOGLE = "https://storage.googleapis.com/"
REFUSED = (400, 401, 403)  # what its buckets answer to those who have to pay or to log in


def fetch(
    address: str,
    sha256: str | None,
    destination: str | Path,
    *,
    mirrors: Iterable[str | Path] = (),
    size: int | None = None,
    md5: str | None = None,
    form: str | None = None,
    retries: int = 5,
) -> str:
    """Write the file of ``address`` to ``destination``: from a mirror that has it, else from the address.

    A failure leaves no file behind. An interrupted download starts again from the beginning. A local 10x folder becomes
    a zip of the files that are read.

    A download without a known SHA-256 is recorded in ``<destination>.sha256``. As long as that file exists, only the
    same bytes are accepted again.

    Parameters
    ----------
    address
        A URL (http or https) or the path of a local file.
    sha256
        The checksum that decides; None accepts any content of a local path, and the first download of a URL.
    md5
        What the source publishes where no SHA-256 is known; checked on the first download.
    mirrors
        Folders, searched with everything below them for a file with this checksum: files of the same name first, then
        the others. A mirror is a shortcut that a machine may lack, so one that does not exist is a note in the log.
    size
        Bytes of the file; spares hashing the mirror's files of other sizes.
    form
        The file's format (:func:`containers.check`): another kind of file, such as a web page, is refused before
        anything of it is kept or recorded. None takes any.
    retries
        Further attempts after a failed download, 1, 2, 3 ... seconds apart (at most 10). Other bytes than expected are
        no failed download: the server has another file.

    Returns
    -------
    The checksum of the file.

    Raises
    ------
    InputError
        When no attempt gave a file, with the address and the server's answer, when the file is of another format, or
        when it has another checksum, with both.
    """
    unknown = sha256 is None and is_remote(address)
    if unknown:
        sha256 = recorded_sha256(destination)
    digests = {name: value for name, value in (("sha256", sha256), ("md5", md5)) if value}
    try:
        found = _fetch(address, digests, Path(destination), mirrors, size, form, retries)
    except InputError as error:
        if unknown and error.where == "sha256":
            expected = f"{sha256}, the first download's ({_record_of(destination)}; without that file, any)"
            raise InputError(address, "sha256", error.found, expected) from None
        raise
    if unknown and sha256 is None:
        logger.warning("%s: no SHA-256 was known; recorded %s in %s", address, found, record(destination, found))
    return found


def _fetch(
    address: str,
    digests: Mapping[str, str],
    destination: Path,
    mirrors: Iterable[str | Path],
    size: int | None,
    form: str | None,
    retries: int,
) -> str:
    mirrored = _find_in_mirrors(address, digests, size, mirrors) if digests else None
    if mirrored is not None:
        logger.info("%s: taken from the mirror %s", address, mirrored)
        return _copy(mirrored, digests, address, form, destination)
    if is_remote(address):
        return _download(address, digests, destination, form, retries)
    if Path(address).is_dir():
        return _pack(Path(address), digests, form, destination)
    if Path(address).is_file():
        return _copy(Path(address), digests, address, form, destination)
    raise InputError(address, "file", "no such file", "the data set's local path, or a URL")


def stored_file(dataset: Dataset | VectorFile, content: str | None = None) -> str:
    """Return where runs keep a download, or the copy of a local data set: by its checksum.

    A download without a known SHA-256 goes by the md5 that its source publishes, or is ``unverified``. It stays there
    when the row gets the SHA-256 of the recorded first download, since that is no other content.

    Parameters
    ----------
    content
        The checksum of a local path; ``sha256`` of the row, if it has one, is taken before it.
    """
    if dataset.is_local:
        return dataset.file(dataset.sha256 or content or UNKNOWN)
    first = dataset.file(dataset.md5 or UNVERIFIED)
    return first if dataset.sha256 in (None, recorded_sha256(first)) else dataset.file(dataset.sha256)


def verify(path: str | Path, dataset: Dataset) -> None:
    """Refuse a file that differs from what its row says now, or from the recorded first download.

    Raises
    ------
    InputError
        With both checksums. Where none is stated or on record, any file will do.
    """
    known = dataset.sha256 or recorded_sha256(path)
    digests = {"sha256": known} if known else {"md5": dataset.md5} if dataset.md5 else {}
    for name, expected in digests.items():
        found = files.digest(path, name)
        if found != expected:
            advice = "" if dataset.is_local else " (delete the file, and it is fetched again)"
            raise InputError(path, name, found, f"{expected} (data-set table or first download){advice}")


def record(destination: str | Path, sha256: str) -> Path:
    """Record the SHA-256 of a download without a known one."""
    path = _record_of(destination)
    path.write_text(f"{sha256}\n")
    return path


def recorded_sha256(destination: str | Path) -> str | None:
    """Read the record of a download; None without one."""
    path = _record_of(destination)
    return path.read_text().strip() if path.is_file() else None


def _record_of(destination: str | Path) -> Path:
    return Path(f"{destination}.sha256")


def _find_in_mirrors(
    address: str, digests: Mapping[str, str], size: int | None, mirrors: Iterable[str | Path]
) -> Path | None:
    for mirror in map(Path, mirrors):
        if not mirror.is_dir():
            logger.warning("mirror folder %s: not there, skipped", mirror)
            continue
        for path in _candidates(mirror, file_name(address), size):
            if all(files.digest(path, name) == value for name, value in digests.items()):
                return path
    return None


def _candidates(mirror: Path, name: str, size: int | None) -> Iterator[Path]:
    paths = [path for path in sorted(mirror.rglob("*")) if path.is_file()]
    for path in sorted(paths, key=lambda path: path.name != name):
        if size is None or path.stat().st_size == size:
            yield path


def file_name(address: str) -> str:
    """Return the last part of an address; of one with a fragment, that."""
    parts = urlparse(address)
    return PurePosixPath(unquote(parts.fragment or parts.path)).name


def _copy(path: Path, digests: Mapping[str, str], address: str, form: str | None, destination: str | Path) -> str:
    with files.atomic_write(destination) as partial:
        shutil.copyfile(path, partial)
        return _check(partial, digests, address, form)


def _pack(folder: Path, digests: Mapping[str, str], form: str | None, destination: str | Path) -> str:
    """Zip the files of a 10x folder that are read; the bytes depend on their names and contents only."""
    containers.check(folder, form or "10x_mtx")
    chosen = tenx_files.choose(tenx_files.names_below(folder), folder)
    with files.atomic_write(destination) as partial:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(chosen.all):
                entry = zipfile.ZipInfo(name)
                with (folder / name).open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target)
        return _check(partial, digests, str(folder), form)


def _check(path: str | Path, digests: Mapping[str, str], address: str, form: str | None) -> str:
    if form:
        containers.check(path, form, address)
    for name, expected in digests.items():
        found = files.digest(path, name)
        if found != expected:
            raise InputError(address, name, f"{found} ({Path(path).stat().st_size} bytes)", expected)
    return digests.get("sha256") or files.sha256(path)


def _download(address: str, digests: Mapping[str, str], destination: Path, form: str | None, retries: int) -> str:
    import pooch
    import requests

    get = pooch.HTTPDownloader(progressbar=True, timeout=SECONDS_WITHOUT_DATA)
    # Pooch downloads to a random name; in a folder of our own, the next try removes what a killed one left.
    scratch = destination.with_name(f".{destination.name}.download")
    _remove_folder(scratch)
    try:
        cache = pooch.create(
            scratch, base_url="", registry={destination.name: None}, urls={destination.name: address},
            retry_if_failed=retries,
        )  # fmt: skip
        downloaded = cache.fetch(destination.name, downloader=get)
        # Not by pooch, which would download other bytes again, as it does after a network failure.
        found = _check(downloaded, digests, address, form)
        with files.atomic_write(destination) as partial:
            Path(downloaded).rename(partial)
        return found
    except requests.exceptions.RequestException as error:
        known = ", ".join(f"{name} {value}" for name, value in digests.items()) or "any checksum"
        expected = f"the file with {known}, from this address or from a folder listed under 'mirrors'"
        if address.startswith(GOOGLE) and error.response is not None and error.response.status_code in REFUSED:
            expected += with_an_account(address)
        raise InputError(address, f"download ({retries + 1} attempts)", str(error), expected) from None
    finally:
        _remove_folder(scratch)


def with_an_account(address: str) -> str:
    """Return how to fetch a file from a bucket that asks for an account."""
    command = f"gcloud storage cp --billing-project=PROJECT {address.replace(GOOGLE, 'gs://')} FOLDER/"
    return f"; if the bucket is Requester Pays, run '{command}' with an account, and list FOLDER there"


def _remove_folder(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
