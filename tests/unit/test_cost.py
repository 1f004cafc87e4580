"""What a run cost is read from Snakemake's benchmark files, as a log."""

import numpy as np
import pandas as pd
import pytest

from scgpt_bench.figures.cost import SHARED, cost_bars, cost_table, read_costs

HEADER = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
LONG = HEADER + "2.5\t0:00:02\t174.5\t1\t1\t1\t0\t0\t50\t1.25\n"
SHORT = HEADER + "0.1\t0:00:00\t-\t-\t-\t-\t-\t-\t-\t-\n"
EVALUATE = (
    r"benchmarks/evaluate/(?P<dataset>planted)\.(?P<split>fold0)\.(?P<method>ridge|ridge\.long)\.(?P<seed>\d+)\.tsv$"
)
BENCHMARKS = {"evaluate": EVALUATE, "scores": r"benchmarks/scores\.tsv$"}
SEEDS = {"ridge": [0], "ridge.long": [0, 1]}


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Writes benchmark files and reads what they cost."""
    monkeypatch.chdir(tmp_path)

    def written(**files):
        for name, text in files.items():
            path = tmp_path / "benchmarks" / f"{name.replace('__', '/')}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_costs("benchmarks/", BENCHMARKS, SEEDS)

    return written


def test_costs_name_rule_and_method_and_leave_unknown_what_was_not_measured(read):
    table = read(**{"evaluate__planted.fold0.ridge.long.1": LONG, "scores": SHORT})
    assert table.iloc[0].to_dict() == {
        "rule": "evaluate",
        "method": "ridge.long",
        "seconds": 2.5,
        "memory_mib": 174.5,
    }
    assert table.iloc[1].to_dict() == pytest.approx(
        {"rule": "scores", "method": SHARED, "seconds": 0.1, "memory_mib": np.nan}, nan_ok=True
    )


@pytest.mark.parametrize(
    "job", ["another.fold0.ridge.0", "planted.fold1.ridge.0", "planted.fold0.knn.0", "planted.fold0.ridge.1"]
)
def test_jobs_that_the_configuration_no_longer_has_are_left_out(read, job):
    assert list(read(**{f"evaluate__{job}": LONG, "removed_rule": LONG, "scores": LONG})["rule"]) == ["scores"]


@pytest.mark.parametrize(
    "text",
    ["", HEADER, HEADER[:10], "h:m:s\n1\n", HEADER.replace("\t", " "), LONG.replace("2.5", "?"), b"\xff\xfe\x00"],
)
def test_a_damaged_file_is_named_and_not_counted(read, text, caplog):
    assert list(read(**{"evaluate__planted.fold0.ridge.0": text, "scores": LONG})["rule"]) == ["scores"]
    assert "benchmarks/evaluate/planted.fold0.ridge.0.tsv is not counted" in caplog.text


def test_where_all_files_are_lost_the_table_is_empty_and_the_figures_say_so(read):
    table = cost_table(read(), {})
    assert table.empty
    figure = cost_bars(table, "this run")
    assert figure.get_supxlabel() == "No job is counted: its benchmark files are gone."


def test_costs_of_jobs_too_short_to_be_sampled_are_drawn(read):
    memory = cost_bars(cost_table(read(scores=SHORT), {}), "this run").axes[-1]
    assert [text.get_text() for text in memory.texts] == ["unknown"]


def test_costs_add_time_take_the_largest_memory_and_count_the_gpus():
    jobs = pd.DataFrame(
        {
            "rule": ["fit", "fit", "fit", "read"],
            "method": ["ridge", "ridge", "ridge-long", SHARED],
            "seconds": [3600.0, 7200.0, 60.0, 3.0],
            "memory_mib": [512, 2048, 100, np.nan],
        }
    )
    table = cost_table(jobs, {"fit": 2})
    assert table["method"].to_list() == ["ridge", "ridge-long", SHARED]
    assert table["jobs"].to_list() == [2, 1, 1]
    assert table["time"].to_list() == ["3 h", "60 s", "3.0 s"]
    np.testing.assert_allclose(table["gpu_hours"], [6, 2 / 60, 0])
    assert len(cost_bars(cost_table(jobs, {}), "this run").axes) == 2, "no panel of GPUs without one"
    time, gpu, memory = cost_bars(table, "this run").axes
    assert [text.get_text() for text in time.texts] == ["3 h", "60 s", "3.0 s"]
    assert [text.get_text() for text in gpu.texts] == ["6 h", "2.0 min", "none"]
    assert [text.get_text() for text in memory.texts] == ["2.0 GiB", "100 MiB", "unknown"]


def test_what_is_shared_is_no_method():
    jobs = pd.DataFrame(
        [("read", SHARED, 900.0), ("fit", "ridge", 60.0), ("fit", "knn", 30.0)], columns=["rule", "method", "seconds"]
    ).assign(memory_mib=100.0)
    told = cost_bars(cost_table(jobs, {}), "this run").get_label()
    assert told.startswith(
        "16.5 min, summed over all jobs, none on a GPU; the most of one method: ridge, 60 s; of no single"
    )
    only_shared = cost_bars(cost_table(jobs.iloc[:1], {}), "this run").get_label()
    assert "most of one" not in only_shared
