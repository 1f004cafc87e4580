"""Provenance lists inputs by checksum and what each job cost."""

import pytest

from scgpt_bench import provenance
from scgpt_bench.files import sha256, write_json

HEADER = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


@pytest.fixture
def benchmarks(tmp_path):
    folder = tmp_path / "results" / "benchmarks"
    (folder / "evaluate").mkdir(parents=True)
    long, short = folder / "evaluate" / "planted.fold0.tsv", folder / "scores.tsv"
    long.write_text(HEADER + "2.5\t0:00:02\t174.5\t1\t1\t1\t0\t0\t50\t1.25\n")
    short.write_text(HEADER + "0.1\t0:00:00\t-\t-\t-\t-\t-\t-\t-\t-\n")
    return [long, short]


def test_cost_names_rule_and_job_and_leaves_unknown_what_was_not_measured(benchmarks):
    table = provenance.cost(benchmarks)
    assert table.to_dict("records") == [
        {"rule": "evaluate", "job": "planted.fold0", "seconds": 2.5, "cpu_seconds": 1.25, "memory_mib": 174.5},
        pytest.approx(
            {"rule": "scores", "job": "", "seconds": 0.1, "cpu_seconds": float("nan"), "memory_mib": float("nan")},
            nan_ok=True,
        ),
    ]


def test_inputs_are_listed_by_checksum(tmp_path, benchmarks):
    (tmp_path / "drop.h5ad").write_text("cells")
    document = provenance.describe({"datasets": ["x"]}, [], [tmp_path / "drop.h5ad"], [], benchmarks)
    assert document["inputs"] == [{"path": str(tmp_path / "drop.h5ad"), "sha256": sha256(tmp_path / "drop.h5ad")}]
    assert document["cost"][1]["cpu_seconds"] is None
    write_json(document, tmp_path / "provenance.json")
    assert document["versions"]["python"].startswith("3.")
    assert document["hardware"]["cores"] >= 1
