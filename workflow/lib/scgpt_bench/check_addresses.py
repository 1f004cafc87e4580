"""Ask every address of the tables of data sets, checkpoints and gene vectors: ``make check-addresses``.

Of each file only the first bytes are asked for: with what the server says of it, they give its size, name and kind.
Exit status: 0 when every address gives what its row says, 1 when one does not or a table is wrong, 2 when the command
is.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urldefrag, urlparse

from scgpt_bench.data import catalogue, download
from scgpt_bench.errors import InputError
from scgpt_bench.shipped import own_or_shipped

SECONDS = 20  # without a connection, or without data
AT_ONCE = 8
FIRST = 16  # bytes
HDF5, ZIP, GZIP = b"\x89HDF", b"PK", b"\x1f\x8b"
BEGINS = {"h5ad": HDF5, "h5mu": HDF5, "10x_h5": HDF5, "zip_h5ad": ZIP, "10x_mtx": ZIP, "gz_h5ad": GZIP}
PAGE = re.compile(rb"\s*<(!doctype|html|\?xml)", re.IGNORECASE)
FITS, DIFFERS, SILENT, NOT_ASKED = "fits", "differs", "no answer", "not asked"


@dataclass(frozen=True)
class Row:
    """A row of a table: what its address should give.

    Attributes
    ----------
    size
        Bytes of the file; None where the row does not say it.
    begins
        Its first bytes; none where the format has no fixed ones.
    is_page
        Whether a person is to download from a page: it should be there, and is no file.
    """

    table: str
    name: str
    address: str
    status: str
    size: int | None = None
    begins: bytes = b""
    is_page: bool = False


def main(arguments: list[str] | None = None) -> int:
    """Print a line for every row and how many fit; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m scgpt_bench.check_addresses", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("names", nargs="*", help="of rows; all unless given")
    for table in ("datasets", "checkpoints", "vectors"):
        parser.add_argument(f"--{table}", metavar="TABLE", default=f"config/{table}.tsv")
    given = parser.parse_args(arguments)
    try:
        rows = [*rows_of(given.datasets, given.checkpoints, given.vectors)]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if unknown := {*given.names} - {row.name for row in rows}:
        parser.error(f"no row {sorted(unknown)[0]!r}; expected names of rows of the tables")
    rows = [row for row in rows if row.name in given.names or not given.names]
    answers: Counter[str] = Counter()
    newly = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for row, (answer, what) in zip(rows, pool.map(ask, rows), strict=True):
            print(f"{answer}\t{row.table}\t{row.name}\t{row.address}\t{what}", flush=True)
            answers[answer] += 1
            if answer == FITS and row.status == catalogue.UNVERIFIED:
                newly.append(row.name)
    print(", ".join(f"{answer}: {answers[answer]}" for answer in (FITS, DIFFERS, SILENT, NOT_ASKED)))
    if newly:
        print(f"{catalogue.CHECKED!r} may stand in the column status of: {', '.join(dict.fromkeys(newly))}")
    return int(bool(answers[DIFFERS] or answers[SILENT]))


def rows_of(datasets: str, checkpoints: str, vectors: str) -> Iterator[Row]:
    """Read three tables, each from the current folder or, where it is not there, from this package.

    Raises
    ------
    InputError
        For a fault in a table.
    """
    for dataset in catalogue.read_datasets(own_or_shipped(datasets)).values():
        begins = BEGINS.get(dataset.format, b"")
        yield Row("datasets", dataset.name, dataset.address, dataset.status, dataset.bytes, begins)
    for checkpoint in catalogue.read_checkpoints(own_or_shipped(checkpoints)).values():
        for file in checkpoint.files.values():
            yield Row("checkpoints", checkpoint.name, file.address, file.status, file.bytes)
        if checkpoint.folder:
            yield Row("checkpoints", checkpoint.name, checkpoint.folder, checkpoint.status, is_page=True)
    for vector_file in catalogue.read_vector_files(own_or_shipped(vectors)).values():
        yield Row("vectors", vector_file.name, vector_file.address, vector_file.status, vector_file.bytes)


def ask(row: Row) -> tuple[str, str]:
    """Ask for the first bytes of a row's address; return an answer (such as :data:`FITS`) and what was found."""
    import requests

    if not catalogue.is_remote(row.address):
        return NOT_ASKED, "no address of a server"
    headers = {"Range": f"bytes=0-{FIRST - 1}", "Accept-Encoding": "identity"}
    try:
        with requests.get(urldefrag(row.address).url, headers=headers, stream=True, timeout=SECONDS) as response:
            if not response.ok:
                account = download.with_an_account(row.address) if row.address.startswith(download.GOOGLE) else ""
                return SILENT, f"HTTP {response.status_code} {response.reason}{account}"
            return compared(row, response.url, response.headers, next(response.iter_content(FIRST), b""))
    except (requests.exceptions.RequestException, OSError) as error:
        # The reason alone: requests puts the connection pool and the address around it.
        reason = getattr(error.args[0], "reason", error) if error.args else error
        return SILENT, str(reason).rpartition("): ")[2]


def compared(row: Row, url: str, headers: Mapping[str, str], first: bytes) -> tuple[str, str]:
    """Compare what a server gave, after all redirections to ``url``, with what the row says."""
    if row.is_page:
        asks = urlparse(url).netloc != urlparse(row.address).netloc
        return (DIFFERS, f"leads to {url}") if asks else (FITS, "a page, from which a person downloads")
    size = _size(headers)
    found = ["size not given" if size is None else f"{size} bytes"]
    wrong = []
    if row.size and size is not None and size != row.size:
        wrong.append(f"{row.size} bytes")
    given = re.search(r"""filename\*?=(?:UTF-8'')?["']?([^"';]+)""", headers.get("Content-Disposition", ""))
    if given:
        found.append(given[1])
        expected = download.file_name(row.address)
        # Where an address ends in a number, as Dataverse's do, the row says no name.
        if "." in expected and given[1] != expected:
            wrong.append(expected)
    if PAGE.match(first):
        return DIFFERS, "a web page; expected a file"
    if not first.startswith(row.begins):
        wrong.append(f"a file that begins with {row.begins!r}, not {first[: len(row.begins)]!r}")
    what = ", ".join(found)
    return (DIFFERS, f"{what}; expected {', '.join(wrong)}") if wrong else (FITS, what)


def _size(headers: Mapping[str, str]) -> int | None:
    """Read the size of the whole file: of a part, the server says it behind a stroke."""
    stated = headers.get("Content-Range", "").rpartition("/")[2] or headers.get("Content-Length", "")
    return int(stated) if stated.isdigit() else None


if __name__ == "__main__":
    sys.exit(main())
