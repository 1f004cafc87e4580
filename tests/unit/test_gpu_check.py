"""`make gpu-check` in its small form on the CPU: every part has rows, and one that fails leaves the others alone."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COLUMNS = ["work", "size", "quantity", "unit", "ours", "peer", "peer_value", "ratio", "goal"]
ENOUGH = 1200  # seconds: other tests run beside


def run(output, *arguments, changed=""):
    """Run the check after ``changed``, code that changes the module; how it ended, and its table."""
    code = f"import sys; import gpu_check\n{changed}\nsys.exit(gpu_check.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--seconds", str(ENOUGH), *arguments, "--output", str(output)]
    folders = os.pathsep.join([str(BENCHMARKS), str(BENCHMARKS.parent / "workflow" / "lib")])
    environment = os.environ | {"PYTHONPATH": folders}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=output.parent)
    if not output.exists():
        return done, []
    with output.open(newline="") as file:
        return done, list(csv.DictReader(file, delimiter="\t"))


def of(table, work):
    return [row for row in table if row["work"] == work]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return run(tmp_path_factory.mktemp("gpu_check") / "table.tsv", "--smoke")


def test_every_part_passes_in_small_on_the_cpu(small):
    done, table = small
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n0 skipped\n0 failed\n" in done.stdout
    assert list(table[0]) == COLUMNS
    works = {
        "attention kernels", "attention gradients", "parity", "training repeated", "scGPT fine-tuning step",
        "scGPT pretraining step", "scGPT inference", "scGPT inference, genes not zero",
        "gradients of a fine-tuning step", "switches of a fine-tuning step",
    }  # fmt: skip
    assert {row["work"] for row in table} == works
    assert len({row["size"] for row in of(table, "scGPT inference")}) == 4
    assert not [row for row in table if row["quantity"] in ("failed", "skipped")]


def test_each_tested_row_is_within_what_is_allowed_and_has_it_as_its_goal(small):
    tested = [row for row in small[1] if row["peer"] == "allowed"]
    assert {row["goal"] for row in tested} == {"1"}
    assert all(float(row["ours"]) <= float(row["peer_value"]) and float(row["ratio"]) >= 1 for row in tested)
    assert {row["work"] for row in tested} == {
        "attention gradients", "gradients of a fine-tuning step", "parity", "training repeated", "scGPT inference",
        "scGPT inference, genes not zero", "switches of a fine-tuning step",
    }  # fmt: skip


def test_every_attention_path_is_compared_in_32_and_16_bits_deterministic_and_not(small):
    quantities = [
        row["quantity"].removeprefix("output and gradients, ")
        for row in of(small[1], "attention gradients")
        if not row["quantity"].startswith("dropout")
    ]
    paths = {quantity.rsplit(", float32", 1)[0].rsplit(", bfloat16", 1)[0] for quantity in quantities}
    assert paths == {
        "genes, equal length", "genes, different lengths", "unknown genes, equal length",
        "unknown genes, different lengths",
    }  # fmt: skip
    kinds = ("float32", "float32, deterministic", "bfloat16", "bfloat16, deterministic")
    assert sorted(quantities) == sorted(f"{path}, {kind}" for path in paths for kind in kinds)


def test_a_step_is_compared_with_upstreams_with_and_without_an_unmeasured_target(small):
    rows = of(small[1], "gradients of a fine-tuning step")
    assert [row["size"].endswith("an unmeasured target") for row in rows] == [False, False, True, True]
    assert all(float(row["ours"]) > 0 for row in rows), "0 would be a comparison with itself"


def test_dropout_and_each_switch_of_a_training_have_rows_that_could_fail(small):
    dropped = [row for row in of(small[1], "attention gradients") if row["quantity"].startswith("dropout")]
    assert len(dropped) == 2 * 7  # float32 and bfloat16: three rows deterministic, three not, and one drawn again
    switches = of(small[1], "switches of a fine-tuning step")
    parts = next(row for row in switches if "cells at once against all" in row["quantity"])
    assert float(parts["ours"]) > 0, "0 would be a comparison with itself"
    timed = {row["peer"] for row in switches if row["quantity"].startswith("time")}
    assert timed == {"fp32", "tf32", "bf16, not deterministic", "bf16, 1 cells at once"}


def test_effects_between_perturbations_are_compared_and_not_those_of_a_model_that_learned_nothing(small):
    effects = {row["quantity"]: row for row in of(small[1], "parity") if row["quantity"].startswith("effects")}
    planted = next(row for name, row in effects.items() if name.endswith("what was planted"))
    half = next(row for name, row in effects.items() if "bfloat16" in name)
    assert float(planted["ours"]) < 0.2
    assert 0 < float(half["ours"]) <= float(half["peer_value"]) == 1e-4  # 0 would be a comparison with itself


def test_a_training_is_killed_in_its_middle(small):
    steps = {row["size"]: int(row["ours"]) for row in small[1] if row["quantity"] == "killed after"}
    assert set(steps) == {"fine-tuning", "pretraining"}
    assert all(5 < count < 36 for count in steps.values())  # after the first of 4 epochs


BROKEN = """
import os, signal
from scgpt_bench.scgpt import attention

def raises(machine):
    machine.row("before", "s", 1.0)
    raise RuntimeError("CUDA error: misaligned address\\nCompile with TORCH_USE_CUDA_DSA")

right = attention._self_logit
attention._self_logit = lambda query, key: 2 * right(query, key)
gpu_check.kernels = raises
gpu_check.pretraining_step = lambda machine: os.kill(os.getpid(), signal.SIGKILL)
"""


def test_parts_that_fail_are_reported_and_the_others_run(tmp_path):
    chosen = ("--only", "kernels", "gradients", "pretraining", "distinct")
    done, table = run(tmp_path / "table.tsv", "--smoke", *chosen, changed=BROKEN)
    assert done.returncode == 1
    raised = of(table, "attention kernels")
    assert [row["quantity"] for row in raised] == ["before", "failed"]
    assert raised[1]["peer"] == "RuntimeError: CUDA error: misaligned address"
    assert of(table, "scGPT pretraining step")[0]["peer"] == "the process ended with exit code -9"
    wrong = {row["quantity"].split(", ", 1)[1] for row in of(table, "attention gradients") if float(row["ratio"]) < 1}
    assert {name.rsplit(", ", 1)[0] for name in wrong if "determ" not in name} == {
        "unknown genes, equal length",
        "unknown genes, different lengths",
    }
    assert len(of(table, "scGPT inference, genes not zero")) == 5
    assert "\n3 failed: kernels, gradients, pretraining\n" in done.stdout
    assert "1 passed: distinct\n" in done.stdout


def test_a_part_that_needs_a_missing_package_is_skipped_and_says_so(tmp_path):
    missing = "sys.modules['scgpt'] = None"
    done, table = run(tmp_path / "table.tsv", "--smoke", "--only", "kernels", "inference-20", changed=missing)
    assert done.returncode == 0
    assert len(of(table, "attention kernels")) > 5
    (row,) = of(table, "scGPT inference")
    assert row["quantity"] == "skipped"
    assert "scgpt" in row["peer"]


PEER_FAILS = """
from scgpt_bench.scgpt.upstream import TransformerGenerator

def fails(*arguments, **options):
    raise RuntimeError("no kernel image is available")

TransformerGenerator.pred_perturb = fails
"""


def test_a_peer_that_fails_leaves_our_figures_and_the_reason(tmp_path):
    done, table = run(tmp_path / "table.tsv", "--smoke", "--only", "inference-20", changed=PEER_FAILS)
    assert done.returncode == 0
    (time,) = (row for row in table if row["quantity"] == "time")
    assert float(time["ours"]) > 0
    assert time["peer"].endswith("RuntimeError: no kernel image is available")
    assert (time["peer_value"], time["ratio"]) == ("", "")


HANGS = """
import time
gpu_check.kernels = lambda machine: (machine.row("before", "s", 1.0), time.sleep(600))
table = list(gpu_check.rows_of("kernels", "cpu", True, 20.0))
print([(row["quantity"], row["peer"]) for row in table])
sys.exit()
"""


def test_a_part_that_hangs_is_ended_in_time_and_keeps_its_rows(tmp_path):
    done, _ = run(tmp_path / "table.tsv", changed=HANGS)
    assert done.stdout.strip() == "[('before', ''), ('failed', 'not finished after 20 s')]"


def test_a_part_for_which_no_time_is_left_is_skipped(tmp_path):
    done, table = run(tmp_path / "table.tsv", "--smoke", "--seconds", "1", "--only", "kernels", "distinct")
    assert done.returncode == 0
    assert [(row["quantity"], row["peer"]) for row in table] == [("skipped", "no time left")] * 2
    assert "2 skipped: kernels, distinct" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_there_is_one_line_and_no_table(tmp_path):
    done, table = run(tmp_path / "table.tsv")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no GPU for PyTorch: ")
    assert done.stderr.count("\n") == 1
    assert table == []


def test_the_table_is_named_after_the_gpu(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_check

    assert gpu_check.slug("NVIDIA H200") == "nvidia-h200"
    assert gpu_check.slug("NVIDIA A100-SXM4-40GB MIG 1g.5gb") == "nvidia-a100-sxm4-40gb-mig-1g.5gb"
