"""The training loop: a killed run ends as an uninterrupted one, two processes compute what one does, faults stop it."""

import errno
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import types
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from scgpt_bench import files
from scgpt_bench.errors import InputError
from scgpt_bench.options import Hardware
from scgpt_bench.scgpt import devices, training
from scgpt_bench.seeding import random_generator

LIBRARY = Path(__file__).parents[2] / "workflow" / "lib"

# A regression whose every step is slow enough to be killed in. Run as a script: folder, epochs, seconds per step.
JOB = """
import itertools, logging, os, sys, time, types
import torch
from scgpt_bench.scgpt import training
from scgpt_bench.seeding import random_generator

torch.set_num_threads(1)
folder, epochs, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
machine = training.Machine(accelerator="cpu", devices=int(sys.argv[4]))
fabric = machine.fabric()
torch.manual_seed(3)
model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Dropout(float(sys.argv[5])),
                            torch.nn.Linear(16, 1))
weight = torch.linspace(-0.5, 0.5, 6)

def batch(epoch, index, rank, world_size):
    time.sleep(pause)
    x = torch.from_numpy(random_generator(1, "batch", epoch, index).normal(size=(40, 6))).float()
    return {"x": x[training.share_of(rank, world_size, 40)], "weight": torch.tensor(world_size / 40)}

def loss(model, batch):
    return (model(batch["x"])[:, 0] - batch["x"] @ weight).square().sum() * batch["weight"]

def validate(model):
    x = torch.ones(1, 6)
    return {"score": -float((model(x)[0, 0]).abs())}

task = training.Task(model, torch.optim.Adam(model.parameters(), lr=5e-2), epochs, 6, batch, loss,
                     training.step_decay(5e-2, 0.9), validate, "score")
if not fabric.is_global_zero:  # a clock that leaps, and a slow disk
    training.time = types.SimpleNamespace(monotonic=itertools.count(0, 700).__next__)
    load = torch.load
    torch.load = lambda *arguments, **options: (time.sleep(0.5), load(*arguments, **options))[1]
training.train(task, fabric, folder, "job", seed=5, machine=training.Machine(save_minutes=0.0 if pause else 10))
if fabric.is_global_zero:
    torch.save(model.state_dict(), folder + "/final.pt")
    os.remove(folder + "/" + training.BEST)  # as fine-tuning does
"""


def command(script, folder, epochs=4, pause=0.0, devices=1, dropout=0.3, launcher=()):
    return [sys.executable, *launcher, str(script), str(folder), str(epochs), str(pause), str(devices), str(dropout)]


def run(arguments, **options):
    environment = os.environ | {"PYTHONPATH": str(LIBRARY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def finish(process, code=0):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors.decode()


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("job") / "job.py"
    path.write_text(JOB)
    return path


@pytest.fixture(scope="module")
def uninterrupted(script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    finish(run(command(script, folder)))
    return folder


def weights(folder):
    return torch.load(folder / "final.pt", weights_only=True)


def assert_same_run(folder, reference):
    for name, tensor in weights(reference).items():
        assert torch.equal(weights(folder)[name], tensor), name
    columns = ["epoch", "step", "loss", "score", "learning_rate", "gradient_norm"]
    history, expected = (pd.read_csv(path / training.HISTORY, sep="\t") for path in (folder, reference))
    pd.testing.assert_frame_equal(history[columns], expected[columns], check_exact=True)


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.long)])
def test_a_run_killed_at_random_ends_with_the_bytes_of_an_uninterrupted_one(script, tmp_path, kills):
    killed, uninterrupted = tmp_path / "killed", tmp_path / "uninterrupted"
    for moment in random_generator(0, "kills").uniform(0.02, 0.5, kills):
        process = run(command(script, killed, epochs=12, pause=0.05))
        wait_for(killed / training.STATE, process)
        time.sleep(moment)
        process.kill()
        process.communicate()
        assert not (killed / "final.pt").exists()
    finish(run(command(script, killed, epochs=12)))
    finish(run(command(script, uninterrupted, epochs=12)))
    assert_same_run(killed, uninterrupted)


def test_sigterm_saves_and_exits_with_the_code_that_asks_for_a_restart(script, uninterrupted, tmp_path):
    process = run(command(script, tmp_path, pause=0.1))
    wait_for(tmp_path / training.STATE, process)
    process.send_signal(signal.SIGTERM)
    finish(process, training.EXIT_RESUMABLE)
    state = torch.load(tmp_path / training.STATE, weights_only=True)
    assert 0 < state["position"]["step"] < 24
    finish(run(command(script, tmp_path)))
    assert_same_run(tmp_path, uninterrupted)


def wait_for(path, process):
    changed = path.stat().st_mtime_ns if path.exists() else 0
    while process.poll() is None and (not path.exists() or path.stat().st_mtime_ns == changed):
        time.sleep(0.01)


def test_two_processes_whose_clocks_differ_have_the_loss_curve_of_one(script, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    finish(run(command(script, tmp_path / "two", devices=2, dropout=0.0, launcher=launcher)))
    finish(run(command(script, tmp_path / "one", dropout=0.0)))
    two, one = (pd.read_csv(tmp_path / name / training.HISTORY, sep="\t") for name in ("two", "one"))
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-4)
    np.testing.assert_allclose(two["gradient_norm"], one["gradient_norm"], rtol=1e-4)


@pytest.fixture(scope="module")
def fabric():
    return training.Machine(accelerator="cpu").fabric()


def regression(learning_rate=1e-2, epochs=5, data=None, freeze=False, score=lambda model: 0.0, select=None):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(1)) if data is None else data

    def loss(model, batch):
        prediction = model(batch["x"])[:, 0]
        return (prediction * (0 if freeze else 1) - batch["x"].sum(dim=1)).square().mean()

    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    return training.Task(
        model, optimizer, epochs, 3, lambda *_: {"x": x}, loss, lambda epoch, step: learning_rate,
        lambda model: {"score": score(model)}, select,
    )  # fmt: skip


def test_the_history_is_one_row_per_epoch_with_all_that_a_reader_asks_for(fabric, tmp_path):
    training.train(regression(), fabric, tmp_path, "a", seed=0)
    history = pd.read_csv(tmp_path / training.HISTORY, sep="\t")
    assert list(history["epoch"]) == [1, 2, 3, 4, 5]
    assert list(history["step"]) == [3, 6, 9, 12, 15]
    assert history["loss"].is_monotonic_decreasing
    assert {"score", "learning_rate", "gradient_norm", "seconds", "peak_memory_mb"} <= set(history)
    assert history["seconds"].is_monotonic_increasing


def with_weight(task, work=None):
    """The regression with a loss that is a sum over cells, as those of the models are."""
    batch = task.batch(0, 0, 0, 1)
    batch = {**batch, "weight": torch.tensor(1 / len(batch["x"])), "mark": torch.empty(0)}

    def loss(model, batch):
        return (model(batch["x"])[:, 0] - batch["x"].sum(dim=1)).square().sum() * batch["weight"]

    return replace(task, batch=lambda *_: batch, loss=loss, work=work)


def test_a_batch_in_parts_is_the_same_step_up_to_rounding(fabric, tmp_path):
    sizes = {}
    for most in (None, 5):
        task = with_weight(regression())
        task.model.register_forward_pre_hook(lambda _, x, most=most: sizes.setdefault(most, []).append(len(x[0])))
        machine = training.Machine("cpu", micro_batch=most)
        position = training.train(task, fabric, tmp_path / str(most), "a", seed=0, clip_norm=0.5, machine=machine)
        sizes[f"{most} history"] = [row["loss"] for row in position.history], task.model.weight.detach().numpy()
    assert sizes[None][:2] == [16, 16]
    assert sizes[5][:8] == [5, 5, 5, 1] * 2
    for one, other in zip(sizes["None history"], sizes["5 history"], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_the_next_batch_is_prepared_while_a_step_runs_and_each_batch_once(fabric, tmp_path):
    task, asked, first = regression(epochs=2), [], threading.Event()

    def batch(epoch, index, rank, world_size):
        asked.append((epoch, index))
        if (epoch, index) == (0, 1):
            first.set()
        return task.batch(epoch, index, rank, world_size)

    def loss(model, batch):
        assert first.wait(30), "the step on a batch runs, and no thread prepares the next one"
        return task.loss(model, batch)

    training.train(replace(task, batch=batch, loss=loss), fabric, tmp_path, "a", seed=0)
    assert asked == [(epoch, index) for epoch in range(2) for index in range(3)]


def test_files_of_shared_cells_are_removed_also_after_an_error_and_may_stay_on_nfs(fabric, tmp_path, monkeypatch):
    X, folder = sparse.random(9, 4, 0.5, format="csr", dtype=np.float32, random_state=0), tmp_path / "cells"
    read = training.shared_rows(fabric, folder)
    assert (read(X, np.arange(3)) != X[:3]).nnz == 0
    assert not folder.exists()
    with pytest.raises(IndexError):
        read(X, np.array([9]))
    assert not folder.exists()

    def removed(path, **_):
        raise OSError(errno.ENOTEMPTY, "Directory not empty", path)

    monkeypatch.setattr(os, "rmdir", removed)
    assert (read(X, np.arange(3)) != X[:3]).nnz == 0


def test_what_is_wrong_with_a_batch_ends_the_training_as_itself(fabric, tmp_path):
    def batch(epoch, index, rank, world_size):
        if index == 2:
            raise InputError("cells.h5ad", "X", "-1", "expression")
        return {"x": torch.ones(4, 4)}

    with pytest.raises(InputError, match=r"cells.h5ad: X: found -1"):
        training.train(replace(regression(), batch=batch), fabric, tmp_path, "a", seed=0)


def test_the_history_says_how_fast_steps_were_and_how_long_they_waited(fabric, tmp_path, monkeypatch):
    task = with_weight(regression(epochs=2), lambda batch: training.Work(16.0, 64.0, 1e6))
    waiting = replace(task, batch=lambda *share: time.sleep(0.2) or task.batch(*share))
    for name, timed in (("at once", task), ("waiting", waiting)):
        training.train(timed, fabric, tmp_path / name, "a", seed=0)
    history, slow = (pd.read_table(tmp_path / name / training.HISTORY) for name in ("at once", "waiting"))
    np.testing.assert_allclose(history["tokens_per_second"], 4 * history["cells_per_second"])
    # The clock starts after the first batch was asked for, and this machine may be busy: both hold by a wide margin.
    assert (slow["cells_per_second"] < 16 / 0.1).all()
    assert (slow["data_wait"] > 0.1).all()
    assert history["peak_share"].isna().all(), "what a CPU could do at most is not known"
    monkeypatch.setattr(devices, "peak", lambda device, precision: 1e9)
    training.train(task, fabric, tmp_path / "peak", "a", seed=0)
    known = pd.read_table(tmp_path / "peak" / training.HISTORY)
    np.testing.assert_allclose(known["peak_share"], known["cells_per_second"] / 16 * 1e6 / 1e9)


def test_the_peak_of_a_gpu_is_that_of_its_model(monkeypatch):
    names = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H100 PCIe": 756e12, "NVIDIA H200 NVL": 835e12,
             "NVIDIA L40S": 362e12, "Tesla T4": None}  # fmt: skip
    for name, expected in names.items():
        monkeypatch.setattr(devices, "device_name", lambda device, name=name: name)
        assert devices.peak(torch.device("cuda"), "bf16") == expected
    monkeypatch.undo()
    assert devices.peak(torch.device("cpu"), "fp32") is None


def test_tf32_is_for_products_of_a_gpu_while_they_are_asked_for(caplog, monkeypatch):
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    for device, precision, found in ((gpu, "tf32", "high"), (gpu, "fp32", "highest"), (cpu, "tf32", "highest")):
        with devices.products_in(device, precision):
            assert torch.get_float32_matmul_precision() == found
        assert torch.get_float32_matmul_precision() == "highest"
    assert devices.training_precision(cpu, "tf32") == "fp32"
    assert "hardware.precision" in caplog.text
    for has, found in ((True, "tf32"), (False, "fp32")):  # before Ampere, PyTorch's switch does nothing
        monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda has=has: has)
        monkeypatch.setattr(devices, "device_name", lambda device: "Tesla T4")
        assert devices.precision_name(gpu, devices.number_type(gpu, "tf32"), "tf32") == found
        assert devices.training_precision(gpu, "tf32") == found
    assert "which a Tesla T4 does not have" in caplog.text
    assert devices.precision_name(cpu, devices.number_type(cpu, "bf16"), "bf16") == "bf16"


def test_a_state_of_another_precision_is_not_resumed_and_the_line_says_so(fabric, tmp_path, caplog):
    for precision in ("fp32", "bf16"):
        training.train(regression(epochs=2), fabric, tmp_path, {"seed": 0, "precision": precision}, seed=0)
    (line,) = caplog.messages
    assert line.endswith("another run (its precision is fp32, that of this run is bf16): starting anew")


def test_progress_is_told_from_the_first_batch_on(fabric, tmp_path, caplog):
    with caplog.at_level("INFO"):
        training.train(regression(epochs=2), fabric, tmp_path, "a", seed=0)
    batches = [record.getMessage() for record in caplog.records if " batch " in record.getMessage()]
    assert [line.partition(" loss")[0] for line in batches] == ["epoch 1/2 batch 1/3"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_with_the_place(fabric, tmp_path, value):
    with pytest.raises(training.TrainingFailed, match="at epoch 1, batch 1"):
        training.train(regression(data=torch.full((4, 4), value)), fabric, tmp_path, "a", seed=0)


def test_a_loss_that_does_not_fall_stops_with_a_reason(fabric, tmp_path):
    with pytest.raises(training.TrainingFailed, match="did not fall in 4 epochs"):
        training.train(regression(learning_rate=0.0), fabric, tmp_path, "a", seed=0)


def test_a_loss_that_no_weight_reaches_stops_with_a_reason(fabric, tmp_path):
    with pytest.raises(training.TrainingFailed, match="no gradient"):
        training.train(regression(freeze=True), fabric, tmp_path, "a", seed=0)


def test_the_weights_of_the_best_epoch_are_kept_and_patience_ends_the_run(fabric, tmp_path):
    seen = []

    def score(model):
        seen.append(model.weight.detach().clone())
        return [1.0, 5.0, 2.0, 2.0, 9.0][len(seen) - 1]

    task = regression(score=score, select="score")
    position = training.train(task, fabric, tmp_path, "a", seed=0, patience=2)
    assert (position.best_epoch, position.epoch) == (1, 4)
    assert torch.equal(task.model.weight, seen[1])


class Killed(BaseException):
    """Ends a training between two files, as a kill does."""


@pytest.mark.parametrize("n_files", range(1, 9))
def test_the_kept_weights_are_those_of_the_best_epoch_wherever_it_was_killed(fabric, tmp_path, monkeypatch, n_files):
    """Repeated steps may round differently on a GPU: here an epoch after the restart scores less than all before it."""
    every, written, atomic_write = [], [], files.atomic_write
    rising = itertools.count(1.0)

    @contextmanager
    def killed_after(path):
        with atomic_write(path) as partial:
            yield partial
        written.append(path)
        if len(written) == n_files:
            raise Killed

    def trained(folder, score):
        task = regression(epochs=3, score=score, select="score")
        return training.train(task, fabric, folder, "a", seed=0), task.model.weight

    trained(tmp_path / "whole", lambda model: every.append(model.weight.detach().clone()) or 0.0)
    monkeypatch.setattr(files, "atomic_write", killed_after)
    with pytest.raises(Killed):
        trained(tmp_path, lambda model: next(rising))
    position, kept = trained(tmp_path, lambda model: 0.0)
    assert torch.equal(kept, every[position.best_epoch])


def test_a_training_on_a_gpu_computes_by_deterministic_algorithms_alone(fabric, tmp_path, monkeypatch):
    deterministic, modes = training.deterministic, []

    def score(model):
        filled = torch.utils.deterministic.fill_uninitialized_memory
        modes.append((torch.get_deterministic_debug_mode(), filled))
        return 0.0

    for device, asked in (("cpu", True), ("cuda", True), ("cuda", False)):
        monkeypatch.setattr(
            training, "deterministic", lambda _, asked, device=device: deterministic(torch.device(device), asked)
        )
        machine = training.Machine("cpu", deterministic=asked)
        training.train(
            regression(epochs=1, score=score), fabric, tmp_path / f"{device} {asked}", "a", seed=0, machine=machine
        )
    # 2: an operation without a deterministic algorithm is an error; new memory is not filled with NaN
    assert modes == [(0, True), (2, False), (0, True)]
    assert torch.get_deterministic_debug_mode() == 0
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8"), "without it, PyTorch refuses every product"


def test_the_state_of_another_configuration_is_not_resumed(fabric, tmp_path):
    training.train(regression(epochs=2), fabric, tmp_path, "a", seed=0)
    again, fresh = regression(epochs=2), regression(epochs=2)
    training.train(again, fabric, tmp_path, "b", seed=0)
    training.train(fresh, fabric, tmp_path / "fresh", "b", seed=0)
    assert torch.equal(again.model.weight, fresh.model.weight)


def test_the_state_of_a_configuration_with_its_options_in_another_order_is_resumed(fabric, tmp_path):
    first, again = regression(epochs=2), regression(epochs=2, data=torch.ones(16, 4))  # it would learn other weights
    training.train(first, fabric, tmp_path, {"options": {"epochs": 2, "freeze": ()}, "seed": 0}, seed=0)
    trained = {name: tensor.clone() for name, tensor in first.model.state_dict().items()}
    training.train(again, fabric, tmp_path, {"seed": 0, "options": {"freeze": [], "epochs": 2}}, seed=0)
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, trained[name])


def trained_twice(fabric, folder, change=lambda: None):
    """Two runs of two epochs, of which the first is the best one; ``change`` comes between them."""
    for between in (change, lambda: None):
        task = regression(epochs=2, score=lambda model: -float(model.weight.sum()), select="score")
        position = training.train(task, fabric, folder, "a", seed=0)
        assert (position.epoch, position.best_epoch) == (2, 0)
        between()
    return task.model.weight


def flipped(path):
    content = bytearray(path.read_bytes())
    state = torch.load(path, weights_only=True)
    weight = state.get("model", state)["weight"].numpy().tobytes()
    content[content.index(weight) + 3] ^= 1
    return bytes(content)


@pytest.mark.parametrize("name", [training.STATE, training.BEST])
@pytest.mark.parametrize(
    ("damaged", "found"),
    [
        (flipped, "differ from their checksum"),
        (lambda path: path.read_bytes()[: path.stat().st_size // 2], "bytes)"),
        (lambda path: b"", "(0 bytes)"),
    ],
)
def test_a_damaged_state_is_told_and_the_training_starts_anew(fabric, tmp_path, caplog, name, damaged, found):
    path = tmp_path / "damaged" / name
    weight = trained_twice(fabric, path.parent, lambda: path.write_bytes(damaged(path)))
    (line,) = [message for message in caplog.messages if "starting anew" in message]
    assert f"{name}: " in line
    assert found in line
    caplog.clear()
    assert torch.equal(weight, trained_twice(fabric, tmp_path / "whole"))
    assert not caplog.messages


def test_a_state_that_another_process_cannot_read_is_resumed_by_none(fabric, tmp_path):
    trained_twice(fabric, tmp_path)
    task = regression(epochs=2)

    def resumed(unread):
        others = types.SimpleNamespace(
            device=fabric.device,
            is_global_zero=True,
            barrier=lambda: None,
            all_reduce=lambda tensor, reduce_op: (tensor + unread) / 2,
        )
        return training._resume(tmp_path / training.STATE, "a", task.model, task.optimizer, others)

    assert resumed(unread=1).epoch == 0
    assert resumed(unread=0).epoch == 2


def test_a_training_that_asks_for_more_gpus_than_there_are_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv(devices.ON_CPU, raising=False)
    with pytest.raises(InputError, match=r"hardware\.gpu: found 2, but CUDA finds 1"):
        training.machine(Hardware(gpu=2).model_dump())
    assert training.machine(Hardware(gpu=1, save_minutes=5).model_dump()) == training.Machine("cuda", 1, save_minutes=5)
    monkeypatch.setenv(devices.ON_CPU, "1")
    assert training.machine(Hardware(gpu=2, save_minutes=5).model_dump()) == training.Machine("cpu", save_minutes=5)
    assert training.machine(Hardware(gpu=0).model_dump()) == training.Machine("cpu")


def test_gradients_are_clipped_to_the_limit_and_the_norm_before_is_reported():
    model = torch.nn.Linear(3, 1)
    model.weight.grad, model.bias.grad = torch.tensor([[3.0, 0.0, 4.0]]), torch.tensor([12.0])
    assert float(training._clip(model, 1.0)) == 13.0
    assert torch.allclose(model.bias.grad, torch.tensor([12 / 13]))
    assert float(training._clip(model, 2.0)) == pytest.approx(1.0)
    assert torch.allclose(model.bias.grad, torch.tensor([12 / 13]))


def test_learning_rates_follow_their_schedules():
    cosine = training.cosine_with_warm_up(1.0, 10, 110)
    assert [cosine(0, step) for step in range(3)] == [0.1, 0.2, 0.3]  # upstream: 0, 0.1, 0.2, as pretraining declares
    assert [cosine(0, step) for step in (0, 9, 10)] == [0.1, 1.0, 1.0]
    assert cosine(0, 60) == pytest.approx(0.5)
    assert cosine(0, 110) == pytest.approx(0.0)
    assert training.step_decay(1e-4, 0.9)(2, 77) == pytest.approx(0.81e-4)


@pytest.mark.parametrize(("n", "world_size"), [(10, 1), (10, 3), (64, 8), (5, 4)])
def test_ranks_share_every_row_exactly_once(n, world_size):
    rows = [row for rank in range(world_size) for row in range(n)[training.share_of(rank, world_size, n)]]
    assert rows == list(range(n))
