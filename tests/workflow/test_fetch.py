"""Drops and published checkpoints are fetched from their addresses, with the right checksums, and kept by them."""

import functools
import hashlib
import http.server
import threading
from typing import ClassVar

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml

from scgpt_bench.data.catalogue import read_checkpoints

FILES = {"best_model.pt": b"\x80\x02weights", "args.json": b"{}", "vocab.json": b'{"<pad>": 0}'}
GENE_INFO = b"feature_id,feature_name\n"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files and notes what was asked for."""

    asked: ClassVar[list[str]] = []

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()


@pytest.fixture
def served(tmp_path_factory):
    """The folder whose files the local server serves."""
    return tmp_path_factory.mktemp("served")


@pytest.fixture
def server(served):
    """The address of a local server of the three files."""
    for name, content in FILES.items():
        (served / name).write_bytes(content)
    Handler.asked.clear()
    handler = functools.partial(Handler, directory=served)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_two_studies_that_give_one_name_to_two_files_have_both(checkout, server, served):
    obs = pd.DataFrame({"gene": ["NT", "G0"]}, index=["a", "b"])
    columns = ("name", "format", "values", "target_sum", "perturbation_column", "control_label", "perturbation_kind")
    row = dict(zip(columns, ("drop", "h5ad", "counts", "10000", "gene", "NT", "interference"), strict=True))
    kept = {}

    def prefetched(study, *arguments):
        return checkout.snakemake("prefetch", *arguments, "--configfile", f"{study}.yaml").stdout

    for number, study in enumerate(("one", "two")):
        anndata.AnnData(np.full((2, 3), 1.0 + number), obs=obs).write_h5ad(served / f"{study}.h5ad")
        content = (served / f"{study}.h5ad").read_bytes()
        checksum = hashlib.sha256(content).hexdigest()
        table = row | {"address": f"{server}/{study}.h5ad", "sha256": checksum}
        checkout.write(f"{study}.tsv", "\t".join(table) + "\n" + "\t".join(table.values()) + "\n")
        options = {"study": study, "dataset_table": f"{study}.tsv", "datasets": ["drop"], "methods": {"train-mean": {}}}
        checkout.write(f"{study}.yaml", yaml.safe_dump(options))
        prefetched(study)
        kept[checkout.path / "resources" / "datasets" / "drop" / checksum / "source.h5ad"] = content
    assert {path: path.read_bytes() for path in kept} == kept
    assert Handler.asked == ["/one.h5ad", "/two.h5ad"]
    for study in ("one", "two"):
        assert "Nothing to be done" in prefetched(study, "--dry-run")


def write_study(checkout, server, wrong=()):
    lines = ["name\tfile\taddress\tsha256\tbytes\tlicence\tsource"]
    for name, content in FILES.items():
        checksum = "0" * 64 if name in wrong else hashlib.sha256(content).hexdigest()
        lines.append(f"served\t{name}\t{server}/{name}\t{checksum}\t{len(content)}\tMIT\ta test")
    checkout.write("checkpoints.tsv", "\n".join(lines) + "\n")
    study = {
        "checkpoint_table": "checkpoints.tsv",
        "study": "fetched",
        "datasets": ["planted"],
        "generated": {"planted": {}},
        "checkpoints": {"served": {"source": "catalogue"}},
        "methods": {"train-mean": {}},
    }
    checkout.write("study.yaml", yaml.safe_dump(study))


def stored(checkout, name):
    """Where the workflow keeps a file of the served checkpoint."""
    return f"{read_checkpoints(checkout.path / 'checkpoints.tsv')['served'].folder_of(name)}/{name}"


def test_all_three_files_arrive(checkout, server):
    write_study(checkout, server)
    checkout.snakemake("prefetch", "--configfile", "study.yaml")
    for name, content in FILES.items():
        assert (checkout.path / stored(checkout, name)).read_bytes() == content


def test_public_gene_vectors_are_fetched_and_their_first_download_recorded(checkout, server, served):
    write_study(checkout, server)
    (served / "vectors.txt").write_text("1 2\nG0 0.5 1.5\n")
    (served / "page.txt").write_text("<html>log in</html>")
    (served / "7").write_bytes(b"an archive")
    row = {"sha256": "unverified", "licence": "MIT", "source": "a test"}
    lines = [["name", "address", *row]]
    lines += [[name, f"{server}/{name}.txt", *row.values()] for name in ("vectors", "page")]
    lines += [["graph", f"{server}/7#graph.tar.gz", *row.values()]]
    checkout.write("vectors.tsv", "".join("\t".join(line) + "\n" for line in lines))
    study = yaml.safe_load((checkout.path / "study.yaml").read_text())
    entries = {name: {"source": "catalogue"} for name in ("vectors", "page", "graph")}
    study |= {"vector_table": "vectors.tsv", "vectors": entries, "checkpoints": {}}
    checkout.write("study.yaml", yaml.safe_dump(study))
    done = checkout.snakemake("prefetch", "--keep-going", "--configfile", "study.yaml", check=False)
    assert "found a web page (HTML); expected a text file" in done.stdout
    kept = checkout.path / "resources" / "vectors"
    content = (kept / "vectors" / "unverified" / "vectors.txt").read_bytes()
    assert content == (served / "vectors.txt").read_bytes()
    assert (kept / "graph" / "unverified" / "graph.tar.gz").read_bytes() == b"an archive"
    recorded = (kept / "vectors" / "unverified" / "vectors.txt.sha256").read_text().strip()
    assert recorded == hashlib.sha256(content).hexdigest()
    assert [path.name for path in (kept / "page").rglob("*") if path.is_file()] == []


def test_other_bytes_than_the_published_ones_are_refused_after_one_download(checkout, server):
    write_study(checkout, server, wrong=["best_model.pt"])
    target = stored(checkout, "best_model.pt")
    done = checkout.snakemake(target, "--configfile", "study.yaml", "--retries", "2", check=False)
    assert done.returncode != 0
    assert f"{server}/best_model.pt" in done.stdout
    assert "0" * 64 in done.stdout
    assert not (checkout.path / target).exists()
    assert Handler.asked == ["/best_model.pt"]


def test_a_checkpoint_of_ones_own_is_a_folder(checkout, server, tmp_path_factory):
    write_study(checkout, server)
    folder = tmp_path_factory.mktemp("own")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    study = yaml.safe_load((checkout.path / "study.yaml").read_text())
    study["checkpoints"] = {"own": {"source": "folder", "path": str(folder)}}
    checkout.write("study.yaml", yaml.safe_dump(study))
    target = "results/fetched/checkpoints/own/vocab.json"
    checkout.snakemake(target, "--configfile", "study.yaml")
    assert (checkout.path / target).read_bytes() == FILES["vocab.json"]


def test_the_identifiers_of_a_checkpoints_genes_are_used_where_it_comes_with_them(checkout, server, tmp_path_factory):
    """A fourth file, of the table's row or in the folder; no job asks for one that is not there."""
    write_study(checkout, server)
    folder = tmp_path_factory.mktemp("own")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    study = yaml.safe_load((checkout.path / "study.yaml").read_text())
    study["checkpoints"]["own"] = {"source": "folder", "path": str(folder)}
    checkout.write("study.yaml", yaml.safe_dump(study))
    tables = [f"results/fetched/planted/vocabulary/{name}.tsv" for name in ("served", "own")]

    def plan():
        return checkout.snakemake(*tables, "--dry-run", "--configfile", "study.yaml").stdout

    assert "gene_info.csv" not in plan()
    (folder / "gene_info.csv").write_bytes(GENE_INFO)
    assert "output: results/fetched/checkpoints/own/gene_info.csv" in plan()
    row = [str(folder / "gene_info.csv"), hashlib.sha256(GENE_INFO).hexdigest(), str(len(GENE_INFO)), "MIT", "a test"]
    with open(checkout.path / "checkpoints.tsv", "a") as table:
        table.write("\t".join(["served", "gene_info.csv", *row]) + "\n")
    planned = plan()
    for path in (stored(checkout, "gene_info.csv"), "results/fetched/checkpoints/own/gene_info.csv"):
        assert f"vocab.json, {path}" in planned
    checkout.snakemake(stored(checkout, "gene_info.csv"), "--configfile", "study.yaml")
    assert (checkout.path / stored(checkout, "gene_info.csv")).read_bytes() == GENE_INFO


def test_safetensors_of_ones_own_are_taken_and_other_names_refused(checkout, server, tmp_path_factory):
    write_study(checkout, server)
    folder = tmp_path_factory.mktemp("own")
    for name, content in FILES.items():
        (folder / name.replace("best_model.pt", "model.safetensors")).write_bytes(content)
    study = yaml.safe_load((checkout.path / "study.yaml").read_text())
    study["checkpoints"] = {"own": {"source": "folder", "path": str(folder)}}
    checkout.write("study.yaml", yaml.safe_dump(study))
    target = "results/fetched/checkpoints/own/best_model.pt"
    checkout.snakemake(target, "--configfile", "study.yaml")
    assert (checkout.path / target).read_bytes() == FILES["best_model.pt"]
    (folder / "model.safetensors").rename(folder / "epoch_6.pt")
    done = checkout.snakemake(target, "--configfile", "study.yaml", check=False)
    assert done.returncode != 0
    assert "no such file, only epoch_6.pt" in done.stdout
