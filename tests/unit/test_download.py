"""A fetched file is whole and has its checksum, or it is not there; servers on the loopback play the bad days."""

import gzip
import hashlib
import logging
import os
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import requests

from scgpt_bench.data import containers
from scgpt_bench.data.catalogue import CHECKPOINT_FILES, GENE_INFO, CheckpointFile, Dataset, PublishedCheckpoint
from scgpt_bench.data.download import fetch, record, recorded_sha256, stored_file
from scgpt_bench.errors import InputError

CONTENT = bytes(range(256)) * 400
SUM = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch):
    """A server that answers each request as told: serve(*answers) gives its address, the last answer repeats."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    answers, requests = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answer = answers[min(len(requests), len(answers) - 1)]
            requests.append(self.path)
            if isinstance(answer, int):
                self.send_error(answer)
                return
            declared, sent = answer
            self.send_response(200)
            self.send_header("Content-Length", str(len(declared)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def serve(*told):
        answers.extend(told)
        return f"http://127.0.0.1:{http.server_port}/folder/drop.h5ad?download=1", requests

    yield serve
    http.shutdown()
    http.server_close()


WHOLE = (CONTENT, CONTENT)
TRUNCATED = (CONTENT, CONTENT[: len(CONTENT) // 2])
SHORT = (CONTENT[:-1], CONTENT[:-1])


def test_a_download_gives_the_bytes_and_shows_its_progress_on_standard_error(server, tmp_path, capfd):
    address, requests = server(WHOLE)
    destination = tmp_path / "resources" / "drop.h5ad"
    assert fetch(address, SUM, destination) == SUM
    assert destination.read_bytes() == CONTENT
    assert [path.name for path in destination.parent.iterdir()] == ["drop.h5ad"]
    assert len(requests) == 1
    captured = capfd.readouterr()
    assert "100%" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("bad", [503, 404, TRUNCATED], ids=["503", "404", "truncated"])
def test_a_server_that_fails_twice_is_asked_a_third_time(server, tmp_path, bad):
    address, requests = server(bad, bad, WHOLE)
    fetch(address, SUM, tmp_path / "drop.h5ad", retries=2)
    assert (tmp_path / "drop.h5ad").read_bytes() == CONTENT
    assert len(requests) == 3


@pytest.mark.parametrize(
    ("bad", "found", "asked"),
    [(404, "404", 3), (TRUNCATED, "IncompleteRead", 3), (SHORT, hashlib.sha256(CONTENT[:-1]).hexdigest(), 1)],
    ids=["404", "truncated", "other bytes, which a second download would bring again"],
)
def test_a_download_that_never_succeeds_leaves_nothing_and_says_why(server, tmp_path, bad, found, asked):
    address, requests = server(bad)
    with pytest.raises(InputError) as error:
        fetch(address, SUM, tmp_path / "drop.h5ad", retries=2)
    assert error.value.source == address
    assert found in error.value.found
    assert SUM in error.value.expected
    assert len(requests) == asked
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(("status", "advised"), [(400, True), (401, True), (404, False)])
def test_a_bucket_that_wants_an_account_is_answered_with_the_command(monkeypatch, tmp_path, status, advised):
    """Google's buckets that are Requester Pays answer 400 to a request without a project."""

    def refuse(url, *_):
        response = requests.Response()
        response.status_code, response.url = status, url
        response.raise_for_status()

    monkeypatch.setattr("pooch.HTTPDownloader", lambda **_: refuse)
    with pytest.raises(InputError) as error:
        fetch("https://storage.googleapis.com/bucket/folder/drop.h5ad", SUM, tmp_path / "drop.h5ad", retries=0)
    command = "gcloud storage cp --billing-project=PROJECT gs://bucket/folder/drop.h5ad FOLDER/"
    assert (command in error.value.expected) == advised
    assert str(status) in error.value.found


def test_a_failed_download_leaves_the_file_that_was_there(server, tmp_path):
    address, _ = server(SHORT)
    (tmp_path / "drop.h5ad").write_text("earlier")
    with pytest.raises(InputError):
        fetch(address, SUM, tmp_path / "drop.h5ad", retries=0)
    assert (tmp_path / "drop.h5ad").read_text() == "earlier"


def test_what_a_killed_download_left_is_replaced(server, tmp_path):
    address, _ = server(WHOLE)
    leftover = tmp_path / ".drop.h5ad.download"
    leftover.mkdir()
    (leftover / "drop.h5ad").write_bytes(CONTENT[:10])
    (leftover / "tmpabc").write_bytes(CONTENT[:10])
    fetch(address, SUM, tmp_path / "drop.h5ad")
    assert (tmp_path / "drop.h5ad").read_bytes() == CONTENT
    assert not leftover.exists()


@pytest.mark.parametrize("name", ["drop.h5ad", "renamed.bin"])
@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_mirror_is_used_before_the_address_whatever_the_files_name(server, tmp_path, name, size):
    address, requests = server(404)
    mirror = tmp_path / "mirror"
    (mirror / "deep").mkdir(parents=True)
    (mirror / "deep" / name).write_bytes(CONTENT)
    fetch(address, SUM, tmp_path / "out", mirrors=[mirror], size=size)
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert requests == []


def test_a_mirrors_file_with_the_right_name_and_other_content_is_passed_over(server, tmp_path):
    address, requests = server(WHOLE)
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "drop.h5ad").write_bytes(CONTENT[:-1] + b"?")
    fetch(address, SUM, tmp_path / "out", mirrors=[mirror], size=len(CONTENT))
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert len(requests) == 1


def test_a_mirror_that_this_machine_lacks_is_noted_and_skipped(server, tmp_path, caplog):
    address, _ = server(WHOLE)
    with caplog.at_level(logging.WARNING):
        fetch(address, SUM, tmp_path / "out", mirrors=[tmp_path / "absent"])
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert "absent: not there, skipped" in caplog.text


def test_a_local_path_is_copied_and_its_checksum_returned(tmp_path):
    source = tmp_path / "drop.h5ad"
    source.write_bytes(CONTENT)
    assert fetch(str(source), None, tmp_path / "out") == SUM
    assert (tmp_path / "out").read_bytes() == CONTENT


def test_a_local_path_is_refused_when_absent_or_changed(tmp_path):
    source = tmp_path / "drop.h5ad"
    with pytest.raises(InputError, match="no such file"):
        fetch(str(source), None, tmp_path / "out")
    source.write_bytes(CONTENT[:-1])
    with pytest.raises(InputError, match=f"expected {SUM}"):
        fetch(str(source), SUM, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_first_download_of_an_unverified_address_is_recorded_and_holds_for_every_later_one(server, tmp_path):
    address, _ = server(WHOLE, SHORT)
    destination = tmp_path / "drop.h5ad"
    assert fetch(address, None, destination) == SUM
    assert (tmp_path / "drop.h5ad.sha256").read_text().strip() == SUM
    destination.unlink()
    with pytest.raises(InputError, match=rf"expected {SUM}, the first download's \(.*drop.h5ad.sha256"):
        fetch(address, None, destination, retries=0)
    assert not destination.exists()


def row(**cells):
    columns = {"name": "drop", "address": "https://a/b", "format": "h5ad", "values": "counts", "target_sum": 1e4}
    columns |= {"perturbation_column": "gene", "control_label": "NT", "perturbation_kind": "knock-out"}
    return Dataset(**{**columns, **cells})


@pytest.mark.parametrize(
    ("cells", "content", "checksum"),
    [
        ({"sha256": SUM, "md5": "0" * 32}, None, SUM),
        ({"md5": "0" * 32}, None, "0" * 32),
        ({}, None, "unverified"),
        ({"address": "drop.h5ad", "sha256": SUM}, "0" * 64, SUM),
        ({"address": "drop.h5ad"}, "0" * 64, "0" * 64),
        ({"address": "gone.h5ad"}, None, "unknown"),
    ],
)
def test_a_file_is_kept_by_the_checksum_that_is_known(cells, content, checksum):
    assert stored_file(row(**cells), content) == f"resources/datasets/drop/{checksum}/source.h5ad"


def test_the_checksum_of_the_first_download_written_down_later_is_no_other_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = stored_file(row())
    Path(before).parent.mkdir(parents=True)
    record(before, SUM)
    assert stored_file(row(sha256=SUM)) == before
    assert stored_file(row(sha256="0" * 64)) != before


def test_a_checkpoint_with_another_file_is_another_folder_and_its_genes_identifiers_are_a_file_of_their_own():
    def checkpoint(**sums):
        files = (*CHECKPOINT_FILES, GENE_INFO)
        of_name = {name: CheckpointFile("human", name, "https://a/b", sums.get(name, SUM), 1) for name in files}
        return PublishedCheckpoint("human", of_name)

    assert len({checkpoint().folder_of(file) for file in CHECKPOINT_FILES}) == 1
    assert Path(checkpoint().folder_of("args.json")).name == "human"
    for file in CHECKPOINT_FILES:
        assert checkpoint(**{file: "0" * 64}).folder_of("best_model.pt") != checkpoint().folder_of("best_model.pt")
    other = checkpoint(**{GENE_INFO: "0" * 64})
    assert other.folder_of("best_model.pt") == checkpoint().folder_of("best_model.pt")
    assert other.folder_of(GENE_INFO) == f"resources/checkpoints/{'0' * 64}/human"


def test_the_md5_of_the_source_is_checked_where_no_sha256_is_known(server, tmp_path):
    address, _ = server(WHOLE)
    md5 = hashlib.md5(CONTENT).hexdigest()
    assert fetch(address, None, tmp_path / "good", md5=md5) == SUM
    with pytest.raises(InputError, match="md5"):
        fetch(address, None, tmp_path / "bad", md5="0" * 32, retries=0)
    assert not (tmp_path / "bad").exists()
    assert not (tmp_path / "bad.sha256").exists()


def folder_of_10x(folder):
    folder.mkdir(parents=True)
    for name in ("matrix.mtx", "features.tsv", "barcodes.tsv"):
        (folder / name).write_bytes(CONTENT)
    return folder


def test_of_a_local_folder_the_files_that_are_read_become_a_zip_of_their_contents_alone(tmp_path):
    folder = folder_of_10x(tmp_path / "outs" / "filtered")
    folder_of_10x(tmp_path / "outs" / "raw")
    (tmp_path / "outs" / "possorted_genome_bam.bam").write_bytes(CONTENT)
    first = fetch(str(tmp_path / "outs"), None, tmp_path / "one.zip", form="10x_mtx")
    os.utime(folder / "matrix.mtx", (1, 1))
    assert fetch(str(tmp_path / "outs"), None, tmp_path / "two.zip", form="10x_mtx") == first
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.read("filtered/matrix.mtx") == CONTENT
        assert archive.namelist() == [f"filtered/{name}" for name in ("barcodes.tsv", "features.tsv", "matrix.mtx")]


@pytest.mark.parametrize("form", ["h5ad", "10x_h5", "sceptre_rda"])
def test_a_folder_where_the_format_is_a_file_is_named(tmp_path, form):
    folder = folder_of_10x(tmp_path / "outs")
    with pytest.raises(InputError, match=r"outs: file: found a folder with a matrix; .*format '10x_mtx'"):
        fetch(str(folder), None, tmp_path / "source", form=form)
    assert not (tmp_path / "source").exists()


PAGE = b"<!DOCTYPE html>\n<html>Are you a robot?</html>"


@pytest.mark.parametrize(
    ("form", "first", "words"),
    [
        ("h5ad", PAGE, "a web page"),
        ("zip_h5ad", b"\xef\xbb\xbf  <html><body>quota exceeded", "a web page"),
        ("10x_h5", b'{"error": "login"}', "JSON"),
        ("sceptre_rda", b"<?xml version='1.0'?><Error>AccessDenied</Error>", "an XML document"),
        ("h5ad", b"", "an empty file"),
        ("torch", b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "a pointer of Git LFS"),
        ("json", PAGE, "a web page"),
        ("csv", PAGE, "a web page"),
    ],
)
def test_nothing_is_recorded_of_another_kind_of_file_and_it_is_fetched_again(server, tmp_path, form, first, words):
    content = {
        "h5ad": h5ad(tmp_path),
        "zip_h5ad": zipped(tmp_path, "norman/cells.h5ad"),
        "10x_h5": tenx_h5(tmp_path),
        "sceptre_rda": gzip.compress(b"RDX3\nX\n"),
        "torch": zipped(tmp_path, "archive/data.pkl"),
        "json": b'{"embsize": 8}',
        "csv": b"feature_id,feature_name\nENSG00000115415,STAT1\n",
    }[form]
    address, requests = server((first, first), (content, content))
    destination = tmp_path / "resources" / "source"
    with pytest.raises(InputError, match=f"127.0.0.1.*: file: found {words}") as error:
        fetch(address, None, destination, form=form, retries=0)
    assert "\n" not in str(error.value)
    assert not [*destination.parent.iterdir()]
    fetch(address, None, destination, form=form)
    assert destination.read_bytes() == content
    assert len(requests) == 2
    assert recorded_sha256(destination) == hashlib.sha256(content).hexdigest()


def test_every_file_of_a_checkpoint_has_a_format():
    assert set(containers.FORMATS_OF_CHECKPOINT) == {*CHECKPOINT_FILES, GENE_INFO}
    assert set(containers.FORMATS_OF_CHECKPOINT.values()) <= set(containers.EXPECTED)


def h5ad(folder):
    anndata.AnnData(np.eye(3)).write_h5ad(folder / "cells.h5ad")
    return (folder / "cells.h5ad").read_bytes()


def tenx_h5(folder):
    with h5py.File(folder / "matrix.h5", "w") as file:
        file["matrix/barcodes"], file["matrix/indptr"] = np.array(["A"], dtype="S"), [0, 0]
    return (folder / "matrix.h5").read_bytes()


def zipped(folder, name):
    with zipfile.ZipFile(folder / "made.zip", "w") as archive:
        archive.writestr(name, CONTENT)
    return (folder / "made.zip").read_bytes()


def test_half_a_file_of_the_right_kind_is_not_recorded_either(server, tmp_path):
    content = h5ad(tmp_path)[:2000]
    address, _ = server((content, content))
    with pytest.raises(InputError, match="truncated file"):
        fetch(address, None, tmp_path / "resources" / "source.h5ad", form="h5ad", retries=0)
    assert not [*(tmp_path / "resources").iterdir()]
