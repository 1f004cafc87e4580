"""`prefetch` on a login node gets everything that comes over the network, and nothing else."""

import functools
import hashlib
import http.server
import threading

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml

from scgpt_bench.data.catalogue import read_checkpoints
from snakemake_checkout import copy_of_checkout

CHECKPOINT = {
    "best_model.pt": b"\x80\x02weights",
    "args.json": b"{}",
    "vocab.json": b'{"<pad>": 0}',
    "gene_info.csv": b"a,b",
}
COLUMNS = ("name", "address", "sha256", "format", "values", "target_sum", "perturbation_column", "control_label")


@pytest.fixture
def server(tmp_path):
    """The address of a local server of a drop and of the three files of a checkpoint."""
    folder = tmp_path / "served"
    folder.mkdir()
    for name, content in CHECKPOINT.items():
        (folder / name).write_bytes(content)
    obs = pd.DataFrame({"gene": ["NT", "G0"]}, index=["a", "b"])
    anndata.AnnData(np.ones((2, 3), dtype=np.float32), obs=obs).write_h5ad(folder / "drop.h5ad")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_prefetch_downloads_and_computes_nothing(server, tmp_path):
    folder, address = server
    checkout = copy_of_checkout(tmp_path / "checkout")
    lines = ["name\tfile\taddress\tsha256\tbytes\tlicence\tsource"]
    for name, content in CHECKPOINT.items():
        checksum = hashlib.sha256(content).hexdigest()
        lines.append(f"served\t{name}\t{address}/{name}\t{checksum}\t{len(content)}\tMIT\ta test")
    checkout.write("checkpoints.tsv", "\n".join(lines) + "\n")
    header = (checkout.path / "config" / "datasets.tsv").read_text().splitlines()[0].split("\t")
    checksum = hashlib.sha256((folder / "drop.h5ad").read_bytes()).hexdigest()
    drop = ("drop", f"{address}/drop.h5ad", checksum, "h5ad", "counts", "10000", "gene", "NT")
    row = {**dict(zip(COLUMNS, drop, strict=True)), "perturbation_kind": "interference"}
    checkout.write("drops.tsv", "\t".join(header) + "\n" + "\t".join(row.get(column, "") for column in header) + "\n")
    study = {
        "dataset_table": "drops.tsv",
        "checkpoint_table": "checkpoints.tsv",
        "study": "prefetched",
        "datasets": ["drop"],
        "checkpoints": {"served": {"source": "catalogue"}, "untrained": {"source": "random"}},
        "methods": {"train-mean": {}},
    }
    checkout.write("study.yaml", yaml.safe_dump(study))
    checkout.snakemake("prefetch", "--configfile", "study.yaml")
    files = {str(path.relative_to(checkout.path)) for path in (checkout.path / "resources").rglob("*.*")}
    served = read_checkpoints(checkout.path / "checkpoints.tsv")["served"]
    fetched = {f"{served.folder_of(name)}/{name}": content for name, content in CHECKPOINT.items()}
    assert files - {"resources/README.md"} == {f"resources/datasets/drop/{checksum}/source.h5ad", *fetched}
    for path, content in fetched.items():
        assert (checkout.path / path).read_bytes() == content
    planned = checkout.snakemake("--dry-run", "--configfile", "study.yaml").stdout
    assert "rule fetch_" not in planned
