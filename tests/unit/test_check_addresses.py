"""Each kind of address of the catalogue has an answer of its own, asked of a server on the loopback."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from scgpt_bench import check_addresses
from scgpt_bench.check_addresses import DIFFERS, FITS, NOT_ASKED, SILENT, Row, ask, main

HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(2000)


class Handler(BaseHTTPRequestHandler):
    """Answers by the first folder of a path, as the kinds of servers do that the catalogue names."""

    def do_GET(self):
        kind, name = self.path.split("/")[1:3]
        if kind == "slow":
            time.sleep(1)
        elif kind == "missing":
            self.send_error(404)
        elif kind in ("loop", "moved", "elsewhere"):
            to = {
                "loop": "/loop/x",
                "moved": "/parts/123abc",
                "elsewhere": f"http://localhost:{self.server.server_port}/page/x",
            }
            self.send_response(302)
            self.send_header("Location", to[kind])
            self.end_headers()
        else:
            assert self.headers["Range"] == "bytes=0-15"
            content = b"<!DOCTYPE html><p>Log in" if kind == "page" else HDF5
            part = kind in ("parts", "named")
            self.send_response(206 if part else 200)
            if part:
                self.send_header("Content-Range", f"bytes 0-15/{len(content)}")
            if kind == "named":
                self.send_header("Content-Disposition", f'attachment; filename="{name.partition("?")[0]}"')
            if kind != "chunked":
                self.send_header("Content-Length", str(16 if part else len(content)))
            self.end_headers()
            self.wfile.write(content[:16] if part else content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def row(address, **what):
    return Row("datasets", "drop", address, "unverified", **{"size": len(HDF5), "begins": check_addresses.HDF5, **what})


@pytest.mark.parametrize(
    ("path", "more", "answer", "what"),
    [
        ("parts/drop.h5ad", {}, FITS, "2008 bytes"),
        ("whole/drop.h5ad", {}, FITS, "2008 bytes"),  # a server that does not know parts
        ("moved/drop.h5ad", {}, FITS, "2008 bytes"),
        ("named/drop.h5ad?download=1", {}, FITS, "2008 bytes, drop.h5ad"),
        ("named/6154020#drop.h5ad", {}, DIFFERS, "2008 bytes, 6154020; expected drop.h5ad"),
        ("named/6154020", {}, FITS, "2008 bytes, 6154020"),  # no name is known
        ("chunked/drop.h5ad", {}, FITS, "size not given"),
        ("parts/drop.h5ad", {"size": 2009}, DIFFERS, "2008 bytes; expected 2009 bytes"),
        ("parts/drop.zip", {"begins": b"PK"}, DIFFERS, "2008 bytes; expected a file that begins with b'PK', not"),
        ("page/drop.h5ad", {}, DIFFERS, "a web page; expected a file"),
        ("page/folder", {"is_page": True, "size": None}, FITS, "a page, from which a person downloads"),
        ("elsewhere/folder", {"is_page": True, "size": None}, DIFFERS, "leads to http://localhost"),
        ("missing/drop.h5ad", {}, SILENT, "HTTP 404 Not Found"),
        ("loop/drop.h5ad", {}, SILENT, "Exceeded 30 redirects"),
        ("slow/drop.h5ad", {}, SILENT, "Read timed out"),
    ],
)  # fmt: skip
def test_an_answer_for_each_kind_of_address(server, monkeypatch, path, more, answer, what):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(check_addresses, "SECONDS", 0.3)
    found = ask(row(f"{server}/{path}", **more))
    assert found[0] == answer
    assert found[1].startswith(what) or (answer == SILENT and what in found[1])


def test_a_server_that_is_not_there_and_an_address_of_none(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    answer, what = ask(row("http://127.0.0.1:1/drop.h5ad"))
    assert (answer, "refused" in what) == (SILENT, True)
    for address in ("generated", "joined:a,b", "cells/drop.h5ad"):
        assert ask(row(address))[0] == NOT_ASKED


def tables(folder, server):
    """Three tables, as options of the command: three rows fit, one file is of another size."""
    data = (
        "name address sha256 bytes format values target_sum perturbation_column control_label perturbation_kind status"
    )
    lines = {
        "datasets": [data, *(
            f"{name} {server}/parts/{name}.h5ad unverified {size} h5ad counts 1000 gene NT knock-out {status}"
            for name, size, status in (("new", 2008, "unverified"), ("old", 2008, "tried"), ("larger", 9, "unverified"))
        )],
        "checkpoints": ["name file address sha256 bytes status", f"brain folder {server}/page/x   unverified"],
        "vectors": ["name address sha256 licence source", f"go {server}/missing/go.tsv unverified MIT X"],
    }  # fmt: skip
    for table, rows in lines.items():
        (folder / f"{table}.tsv").write_text("\n".join(rows).replace(" ", "\t"))
    return [f"--{table}={folder / table}.tsv" for table in lines]


def test_the_command_says_a_line_for_each_row_and_what_the_table_may_say_now(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    given = tables(tmp_path, server)
    assert main(given) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[:3] for line in said[:5]] == [
        [FITS, "datasets", "new"],
        [FITS, "datasets", "old"],
        [DIFFERS, "datasets", "larger"],
        [FITS, "checkpoints", "brain"],
        [SILENT, "vectors", "go"],
    ]
    assert said[5:] == [
        "fits: 3, differs: 1, no answer: 1, not asked: 0",
        "'address checked' may stand in the column status of: new, brain",
    ]
    assert main([*given, "new", "old"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_a_row_that_no_table_has_and_a_table_that_is_wrong(server, tmp_path, capsys):
    given = tables(tmp_path, server)
    with pytest.raises(SystemExit) as ended:
        main([*given, "none"])
    assert ended.value.code == 2
    assert "no row 'none'; expected names of rows of the tables" in capsys.readouterr().err
    (tmp_path / "vectors.tsv").write_text("")
    assert main(given) == 1
    assert "vectors.tsv: line 1: found missing column 'name'" in capsys.readouterr().err


def test_the_projects_own_tables_have_one_list_of_words_for_how_a_row_was_checked():
    rows = [*check_addresses.rows_of(*(f"config/{name}.tsv" for name in ("datasets", "checkpoints", "vectors")))]
    assert {row.table for row in rows} == {"datasets", "checkpoints", "vectors"}
    assert {row.status for row in rows} <= {*check_addresses.catalogue.STATUSES}
    assert {row.name for row in rows if row.status == "tried"} == {
        *("planted", "papalexi_2021", "perturbench_devel", "perturbench_devel_lines", "scGPT_human"),
    }
