"""The one training loop, for pretraining and fine-tuning: resumable at any step, on 1 to N devices.

A step waits for the device once, at its end. The next batch is prepared by a thread meanwhile (:class:`ReadAhead`).

Whatever a step needs (which cells, which mask, which dropout, which learning rate) is a function of the seed and the
step's number. The position in the data is therefore one integer, no random state has to be stored, and on a CPU a job
that was killed anywhere and restarted ends with the same bytes as one that was not. On GPUs deterministic algorithms
are asked for (:func:`deterministic`), so that the same should hold on the same GPUs; nobody has tried. The state is
saved whole or not at all, after every epoch, every ``save_minutes`` and on SIGTERM. One that was damaged since is left
with a warning, and the training starts anew.
"""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor, nn

from scgpt_bench import files
from scgpt_bench.data import mapped
from scgpt_bench.errors import InputError
from scgpt_bench.options import Precision
from scgpt_bench.scgpt import attention, devices, torch_files
from scgpt_bench.seeding import stream_seed

if TYPE_CHECKING:
    from lightning.fabric import Fabric

EXIT_RESUMABLE = 75  # EX_TEMPFAIL: the state is saved, start the same job again
STATE, BEST, HISTORY = "training_state.pt", "best.pt", "history.tsv"

# cuBLAS is deterministic with this, and PyTorch looks once: when a process first multiplies matrices on a GPU.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

log = logging.getLogger(__name__)


class TrainingFailed(RuntimeError):
    """Training that cannot go on: the loss is NaN, has no gradient or does not fall."""


class Interrupted(SystemExit):
    """SIGTERM came; the state is saved. Exits with :data:`EXIT_RESUMABLE` unless caught."""

    def __init__(self):
        super().__init__(EXIT_RESUMABLE)


class Work(NamedTuple):
    """What a batch takes: cells, tokens, and floating-point operations (an estimate from the architecture)."""

    cells: float
    tokens: float
    operations: float


def n_weights(part: nn.Module) -> int:
    """Count the parameters of a part of a model: nearly the multiplications that a token takes there."""
    return sum(parameter.numel() for parameter in part.parameters())


@dataclass(frozen=True)
class Task:
    """What is trained.

    Parameters
    ----------
    model
        On the CPU; parameters that get no gradient have ``requires_grad`` False.
    optimizer
        Over the model's parameters; its learning rate is set from ``learning_rate`` at every step.
    epochs, batches
        Number of epochs, and of batches in each.
    batch
        (epoch, index, rank, world_size) -> this rank's share of the batch, by name; on the CPU. Tensors have a row for
        each cell; one without dimensions belongs to the whole share. Called by one thread, which is not the main one.
    loss
        (model, batch) -> scalar: a sum over cells. Its mean over the ranks is the loss of the whole batch.
    learning_rate
        (epoch, step) -> learning rate.
    validate
        (model in evaluation mode) -> metrics by name, for the history and for ``select``.
    select
        The validation metric whose largest value marks the weights to keep; None keeps the last.
    must_fall
        The column of the history that tells whether anything is learned: ``loss``, or a validation metric where the
        loss has not the same terms in every epoch.
    work
        (batch) -> what this rank's share takes, for the rates in the history; None leaves them out.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    epochs: int
    batches: int
    batch: Callable[[int, int, int, int], dict[str, Tensor]]
    loss: Callable[[nn.Module, dict[str, Tensor]], Tensor]
    learning_rate: Callable[[int, int], float]
    validate: Callable[[nn.Module], Mapping[str, float]]
    select: str | None = None
    must_fall: str = "loss"
    work: Callable[[Mapping[str, Tensor]], Work] | None = None


@dataclass(frozen=True)
class Machine:
    """Devices and habits of a run.

    Except for ``precision``, rounding and draws of dropout, they change how long it takes, not what it computes.

    Attributes
    ----------
    save_minutes
        The state is saved this often.
    log_seconds
        Time between two lines of progress; the first comes after the first batch, which tells how long one takes.
    precision
        What products are computed in; None: bf16 on GPUs that have it, fp32 elsewhere.
    deterministic
        Whether a GPU computes by deterministic algorithms alone.
    micro_batch
        Most cells that a device computes at once; None: its whole share of a batch. Gradients of the parts are added
        up, so that a step is the same except for rounding and the draws of dropout.
    """

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    save_minutes: float = 10.0
    log_seconds: float = 20.0
    precision: Precision | None = None
    deterministic: bool = True
    micro_batch: int | None = None

    @property
    def device(self) -> torch.device:
        """The kind of device that it trains on."""
        on_gpu = self.accelerator == "cuda" or (self.accelerator == "auto" and torch.cuda.is_available())
        return torch.device("cuda" if on_gpu else "cpu")

    def record(self, fabric: Fabric, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Describe what trained a model with these ``arguments`` (args.json), for its report."""
        precision = devices.training_precision(fabric.device, self.precision)
        number_type = torch.bfloat16 if precision == "bf16" else torch.float32
        head_width = arguments["embsize"] // arguments["nheads"]
        return {
            "attention": attention.kernel_name(fabric.device, number_type, head_width),
            "precision": precision,
            "deterministic": self.deterministic or fabric.device.type != "cuda",
            "micro_batch": self.micro_batch,
            "device": devices.device_name(fabric.device),
            "processes": fabric.world_size,
        }

    def fabric(self) -> Fabric:
        """Launch the devices, in mixed precision where products are computed in bf16.

        Processes of a node are started here (a job script is one task to Slurm), or were by torchrun. On several nodes
        the script itself was started once on each (:func:`nodes.run_on_each_node`).
        """
        # Imported here: it takes seconds, and jobs that only predict import this module too.
        from lightning.fabric import Fabric
        from lightning.fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
        from lightning.fabric.strategies import DDPStrategy

        half = devices.training_precision(self.device, self.precision) == "bf16"
        several = self.devices * self.nodes > 1
        fabric = Fabric(
            accelerator=self.accelerator,
            devices=self.devices,
            num_nodes=self.nodes,
            # buffers are constants: without this they would be sent to all ranks in every forward pass
            strategy=DDPStrategy(broadcast_buffers=False) if several else "auto",
            precision="bf16-mixed" if half else "32-true",
            plugins=None if TorchElasticEnvironment.detect() else [LightningEnvironment()],
        )
        fabric.launch()
        return fabric


def machine(hardware: Mapping[str, Any]) -> Machine:
    """Choose the machine of a training: GPUs where some are asked for, else one process on the CPU of each node.

    Parameters
    ----------
    hardware
        The configuration's ``hardware``: the number of GPUs is that of ``gpu``, not of the job's resource, of which a
        profile may grant less than was asked for.

    Raises
    ------
    InputError
        See :func:`devices.finds_gpus`.
    """
    gpu, habits = hardware["gpu"], ("nodes", "save_minutes", "precision", "deterministic", "micro_batch")
    given = {key: hardware[key] for key in habits}
    return Machine("cuda", gpu, **given) if devices.finds_gpus(gpu) else Machine("cpu", 1, **given)


# Of a position: what is summed over the batches of an epoch.
SUMS = ("loss_sum", "norm_sum", "cells", "tokens", "operations", "waiting", "stepping")


@dataclass
class Position:
    """How far a run is: all that is stored beside the weights and the optimizer.

    Those of :data:`SUMS` are over the batches of the epoch so far; work and times are of this rank.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    norm_sum: float = 0.0
    cells: float = 0.0
    tokens: float = 0.0
    operations: float = 0.0
    waiting: float = 0.0
    stepping: float = 0.0
    seconds: float = 0.0
    best: float = -math.inf
    best_epoch: int = -1
    history: list[dict[str, float]] = field(default_factory=list)


def train(
    task: Task,
    fabric: Fabric,
    folder: str | Path,
    identity: Any,
    *,
    seed: int,
    clip_norm: float = 1.0,
    patience: int | None = None,
    machine: Machine = Machine(),
    stall_epochs: int = 3,
) -> Position:
    """Run or resume ``task`` and leave its model with the selected weights.

    Writes to ``folder``: ``training_state.pt`` (to resume), ``best.pt`` (selected weights so far) and ``history.tsv``,
    one row per epoch: epoch, step, loss, validation metrics, learning rate, gradient norm, seconds, peak memory, and
    the rates of :func:`_rates`.

    Parameters
    ----------
    identity
        What the run is (configuration, checksums), as JSON takes it. A state with another identity is not resumed.
    clip_norm
        Largest norm of a step's gradient.
    patience
        Epochs without a better ``task.select`` after which training ends; None never.
    machine
        The one that ``fabric`` was launched by.
    stall_epochs
        Epochs after which ``task.must_fall`` must have fallen below its value in the first.

    Raises
    ------
    TrainingFailed
        For a loss that is not finite, a gradient that is 0 over a whole epoch, or ``task.must_fall`` not falling.
    Interrupted
        After SIGTERM, with the state saved.
    InputError
        If ``best.pt`` was damaged during the run. The next one starts anew.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model, optimizer = fabric.setup(task.model, task.optimizer)
    position = _resume(folder / STATE, identity, model, optimizer, fabric)
    if fabric.is_global_zero:
        _write_history(position, folder)
    precision = devices.training_precision(fabric.device, machine.precision)
    saved = started = time.monotonic()
    logged = -math.inf
    with (
        _listen_to_sigterm() as stop_asked,
        deterministic(fabric.device, machine.deterministic),
        devices.products_in(fabric.device, precision),
        ReadAhead(task, fabric) as ahead,
    ):
        while position.epoch < task.epochs and not _out_of_patience(position, patience):
            model.train()
            while position.batch < task.batches:
                began = time.monotonic()
                batch, work = ahead.batch(position.epoch, position.batch)
                position.waiting += time.monotonic() - began
                # All ranks meet to save, and their clocks differ: where one wants to, all of them do.
                wants = [stop_asked(), time.monotonic() - saved > 60 * machine.save_minutes]
                loss, norm, (stop, save) = step(
                    task, fabric, model, optimizer, position, batch, seed, clip_norm, machine.micro_batch, wants
                )
                position.step, position.batch = position.step + 1, position.batch + 1
                position.loss_sum, position.norm_sum = position.loss_sum + loss, position.norm_sum + norm
                if work:
                    position.cells, position.tokens = position.cells + work.cells, position.tokens + work.tokens
                    position.operations += work.operations
                position.stepping += time.monotonic() - began
                if fabric.is_global_zero and time.monotonic() - logged > machine.log_seconds:
                    logged, mean = time.monotonic(), position.loss_sum / position.batch
                    log.info("epoch %d/%d batch %d/%d loss %.5g", position.epoch + 1, task.epochs, position.batch,
                             task.batches, mean)  # fmt: skip
                if stop or save:
                    started = _save(folder, identity, model, optimizer, position, started, fabric)
                    saved = time.monotonic()
                if stop:
                    log.info("SIGTERM: saved at epoch %d batch %d", position.epoch + 1, position.batch)
                    raise Interrupted
            _end_epoch(task, fabric, model, position, started, stall_epochs, precision)
            started = saved = _save(folder, identity, model, optimizer, position, started, fabric)
            if fabric.is_global_zero:
                _write_history(position, folder)
    if task.select is not None:
        task.model.load_state_dict(torch_files.read(folder / BEST, "selected weights"))
    fabric.barrier()  # what every rank has read the caller may remove
    return position


def shared_rows(fabric: Fabric, folder: Path) -> Callable[[Any, np.ndarray], sparse.csr_matrix]:
    """Return a function that reads rows of a matrix once for all processes of a node (:mod:`data.mapped`).

    The first process of each node writes them to a folder beside ``folder``, of the node's own, which is removed as
    soon as all have mapped it, or if that fails. NFS keeps files that are mapped under other names until the last
    process ends, and the folder with them; it does so for the node that removes them only.
    """
    own = folder.with_name(f"{folder.name}.{fabric.node_rank}")

    def read(X: Any, wanted: np.ndarray) -> sparse.csr_matrix:
        try:
            if fabric.local_rank == 0:
                mapped.write_rows(X, wanted, own)
            fabric.barrier()
            found = mapped.map_rows(own)
            fabric.barrier()
        finally:
            if fabric.local_rank == 0:
                shutil.rmtree(own, ignore_errors=True)
        return found

    return read


def cosine_with_warm_up(peak: float, warm_up: int, total: int) -> Callable[[int, int], float]:
    """Make a learning rate that rises linearly over ``warm_up`` steps and falls as a half cosine to 0 at ``total``."""

    def learning_rate(epoch: int, step: int) -> float:
        if step < warm_up:
            return peak * (step + 1) / warm_up
        return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, total - warm_up))))

    return learning_rate


def step_decay(start: float, gamma: float) -> Callable[[int, int], float]:
    """Make a learning rate that is multiplied by ``gamma`` after every epoch (torch's ``StepLR(1, gamma)``)."""
    return lambda epoch, step: start * gamma**epoch


def share_of(rank: int, world_size: int, n: int) -> slice:
    """Return the rows of a batch of ``n`` that ``rank`` computes: contiguous, sizes differ by at most one."""
    return slice(rank * n // world_size, (rank + 1) * n // world_size)


class ReadAhead:
    """Batches of a task in their order: a thread prepares the next one while the step on the last one runs.

    A batch is a function of its epoch and index, so what is prepared ahead changes no number, and what was prepared for
    nothing (a stop, patience) is only thrown away.
    """

    def __init__(self, task: Task, fabric: Fabric):
        self._task, self._pinned = task, fabric.device.type == "cuda"
        self._share = fabric.global_rank, fabric.world_size
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="next batch")
        self._waiting: tuple[tuple[int, int], Future] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def batch(self, epoch: int, index: int) -> tuple[dict[str, Tensor], Work | None]:
        """Return this rank's share of a batch, and what it takes; begin to prepare the next one."""
        place = epoch, index
        if self._waiting is None or self._waiting[0] != place:
            self._waiting = place, self._thread.submit(self._prepared, *place)
        found = self._waiting[1].result()
        following = (epoch, index + 1) if index + 1 < self._task.batches else (epoch + 1, 0)
        self._waiting = None
        if following[0] < self._task.epochs:
            self._waiting = following, self._thread.submit(self._prepared, *following)
        return found

    def _prepared(self, epoch: int, index: int) -> tuple[dict[str, Tensor], Work | None]:
        batch = self._task.batch(epoch, index, *self._share)
        work = self._task.work(batch) if self._task.work else None
        if self._pinned:  # the copy to the GPU then waits for nothing
            batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
        return batch, work


def step(
    task: Task,
    fabric: Fabric,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    position: Position,
    batch: Mapping[str, Tensor],
    seed: int,
    clip_norm: float,
    micro_batch: int | None = None,
    wants: Sequence[bool] = (),
) -> tuple[float, float, list[bool]]:
    """Do one optimizer step on ``batch``, which is at ``position``; the caller moves on.

    Nothing waits for the device before loss and norm are read, at the end.

    Parameters
    ----------
    model, optimizer
        Those of ``task``, set up by ``fabric``.
    batch
        This rank's share, on the CPU.
    micro_batch
        As in :class:`Machine`.
    wants
        What this rank asks of all ranks.

    Returns
    -------
    Loss of the whole batch, gradient norm before clipping, which of ``wants`` any rank has.
    """
    # torch.manual_seed seeds every kind of device there is, which takes longer than some layers do.
    on_gpu = fabric.device.type == "cuda"
    generator = torch.cuda.default_generators[fabric.device.index] if on_gpu else torch.default_generator
    generator.manual_seed(stream_seed(seed, "dropout", position.step, fabric.global_rank))
    learning_rate = task.learning_rate(position.epoch, position.step)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    on_device = {name: tensor.to(fabric.device, non_blocking=True) for name, tensor in batch.items()}
    parts = micro_batches(on_device, micro_batch)
    losses = []
    for number, part in enumerate(parts, 1):
        with fabric.no_backward_sync(cast(Any, model), enabled=number < len(parts)):  # ranks add up gradients once
            loss = task.loss(model, part)
            fabric.backward(loss)
        losses.append(loss.detach())
    norm = _clip(model, clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    wanted = torch.tensor(wants, dtype=torch.float64, pin_memory=on_gpu).to(fabric.device, non_blocking=True)
    report = torch.cat([torch.stack(losses).double().sum()[None], norm[None], wanted])
    mean_loss, mean_norm, *shares = cast(Tensor, fabric.all_reduce(report, reduce_op="mean")).tolist()
    if not math.isfinite(mean_loss) or not math.isfinite(mean_norm):
        raise TrainingFailed(
            f"loss {mean_loss}, gradient norm {mean_norm} at epoch {position.epoch + 1}, batch {position.batch + 1}: "
            "a smaller learning rate, or values that are not finite in the data"
        )
    return mean_loss, mean_norm, [share > 0 for share in shares]


def micro_batches(batch: Mapping[str, Tensor], most: int | None) -> list[dict[str, Tensor]]:
    """Split the rows of a batch into parts of at most ``most``; what has no rows belongs to every part."""
    without_rows = {name: each for name, each in batch.items() if isinstance(each, Tensor) and not each.dim()}
    by_cell = {name: each for name, each in batch.items() if name not in without_rows}
    n_cells = max(map(len, by_cell.values()))
    size = most or n_cells
    return [
        without_rows | {name: each[start : start + size] for name, each in by_cell.items()}
        for start in range(0, n_cells, size)
    ]


def _clip(model: nn.Module, limit: float) -> Tensor:
    """Scale gradients to a norm of at most ``limit``; return the norm before that, on their device.

    Summed in double precision, so that rows of an embedding that are never used (gradient 0) do not move the last bit.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norms = torch._foreach_norm(gradients, 2, dtype=torch.float64)
    norm = torch.linalg.vector_norm(torch.stack(norms))
    torch._foreach_mul_(gradients, (limit / norm).clamp(max=1).to(gradients[0].dtype))
    return norm


def _end_epoch(task, fabric, model, position, started, stall_epochs, precision) -> None:
    model.eval()
    metrics = {}
    if fabric.is_global_zero:
        with torch.no_grad(), fabric.autocast():
            metrics = dict(task.validate(task.model))
    metrics = fabric.broadcast(metrics)
    loss, norm = position.loss_sum / task.batches, position.norm_sum / task.batches
    row = {"epoch": position.epoch + 1, "step": position.step, "loss": loss, **metrics}
    row["learning_rate"] = task.learning_rate(position.epoch, position.step - 1)
    row["gradient_norm"] = norm
    row["seconds"] = position.seconds + time.monotonic() - started
    row["peak_memory_mb"] = _peak_memory_mb(fabric)
    if task.work:
        row |= _rates(position, fabric, precision)
    position.history.append(row)
    if fabric.is_global_zero:
        shown = {name: float(f"{value:.4g}") for name, value in row.items() if value is not None}
        log.info("epoch %d/%d %s", position.epoch + 1, task.epochs, shown)
    _stop_if_stuck(position, norm, task.must_fall, stall_epochs)
    if task.select is not None and metrics[task.select] > position.best:
        position.best, position.best_epoch = metrics[task.select], position.epoch
    position.epoch, position.batch = position.epoch + 1, 0
    for of_epoch in SUMS:
        setattr(position, of_epoch, 0.0)


def _rates(position: Position, fabric: Fabric, precision: Precision) -> dict[str, float | None]:
    """Say how fast the steps of an epoch were, over all ranks.

    Returns
    -------
    ``cells_per_second``, ``tokens_per_second``; ``data_wait``, the share of their time in which steps waited for their
    batch (mean of the ranks); ``peak_share``, operations per second as a share of what the devices are specified for,
    None where that is not known (a CPU, a GPU that :data:`devices.PEAK` lacks).
    """
    own = [position.cells, position.tokens, position.operations, position.waiting, position.stepping]
    summed = fabric.all_reduce(torch.tensor(own, dtype=torch.float64, device=fabric.device), reduce_op="sum")
    cells, tokens, operations, waiting, stepping = cast(Tensor, summed).tolist()
    seconds = stepping / fabric.world_size
    peak = devices.peak(fabric.device, precision)
    return {
        "cells_per_second": cells / seconds,
        "tokens_per_second": tokens / seconds,
        "data_wait": waiting / stepping,
        "peak_share": operations / seconds / (peak * fabric.world_size) if peak else None,
    }


def _stop_if_stuck(position: Position, norm: float, must_fall: str, stall_epochs: int) -> None:
    if norm == 0:
        raise TrainingFailed(f"no gradient in epoch {position.epoch + 1}: nothing that is trained reaches the loss")
    losses = [row[must_fall] for row in position.history]
    if len(losses) > stall_epochs and min(losses[1:]) >= losses[0] * (1 - 1e-4):
        raise TrainingFailed(
            f"{must_fall} did not fall in {len(losses)} epochs ({losses[0]:.6g} first, {min(losses[1:]):.6g} at best): "
            "another learning rate, or nothing to learn"
        )


def _out_of_patience(position: Position, patience: int | None) -> bool:
    return patience is not None and position.best_epoch >= 0 and position.epoch - 1 - position.best_epoch >= patience


def _save(folder, identity, model, optimizer, position, started, fabric) -> float:
    """Store all that a restart needs; return the time from which the next seconds count."""
    now = time.monotonic()
    position.seconds += now - started
    if fabric.is_global_zero:
        state = {
            "identity": json.dumps(identity),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "position": vars(position),
        }
        with files.atomic_write(folder / STATE) as partial:
            torch.save(state, partial)
    _keep_best(folder, model, position, fabric)
    return now


def _keep_best(folder, model, position, fabric) -> None:
    """Write the selected weights where the epoch that has just ended is the best one.

    Always after the state, which then has the same weights: a kill between the two is made good when it is resumed, and
    the best epoch of the state is that of the weights even if repeated steps round differently.
    """
    if fabric.is_global_zero and _has_best(position):
        with files.atomic_write(folder / BEST) as partial:
            torch.save(model.state_dict(), partial)
    fabric.barrier()


def _has_best(position: Position) -> bool:
    """Tell whether the weights at ``position`` are the selected ones: its last epoch just ended and is the best."""
    return position.batch == 0 and 0 <= position.best_epoch == position.epoch - 1


def _resume(path: Path, identity: Any, model, optimizer, fabric) -> Position:
    state = _read_state(path, identity)
    # What one rank cannot read none resumes: they would go on with different weights.
    unread = fabric.all_reduce(torch.tensor(float(state is None), device=fabric.device), reduce_op="mean")
    if state is None or unread > 0:
        return Position()
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    position = Position(**state["position"])
    _keep_best(path.parent, model, position, fabric)
    log.info("resumed at epoch %d, batch %d", position.epoch + 1, position.batch + 1)
    return position


def _read_state(path: Path, identity: Any) -> dict[str, Any] | None:
    """Read the state of the run ``identity``, if there is one, undamaged, with undamaged selected weights beside it."""
    if not path.exists():
        return None
    try:
        state = torch_files.read(path, "the state of a training")
        if different := _difference(json.loads(state["identity"]), json.loads(json.dumps(identity))):
            log.warning("%s is the state of another run%s: starting anew", path, different)
            return None
        position = Position(**state["position"])
        if position.best_epoch >= 0 and not _has_best(position):
            torch_files.read(path.with_name(BEST), "selected weights")
    except InputError as error:
        log.warning("%s: starting anew", error)
        return None
    return state


def _difference(saved: Any, asked: Any) -> str:
    """Say in what a state's run is another one; empty where it is the same."""
    if saved == asked:
        return ""
    if not (isinstance(saved, dict) and isinstance(asked, dict)):
        return " "
    if (before := saved.get("precision")) != (now := asked.get("precision")):
        return f" (its precision is {before}, that of this run is {now})"
    names = sorted(key for key in {*saved, *asked} if saved.get(key) != asked.get(key))
    return f" (another {', '.join(names)})"


def _write_history(position: Position, folder: Path) -> None:
    if position.history:
        files.write_table(pd.DataFrame(position.history), folder / HISTORY)


def _peak_memory_mb(fabric: Fabric) -> float:
    if fabric.device.type == "cuda":
        return torch.cuda.max_memory_allocated(fabric.device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


@contextmanager
def deterministic(device: torch.device, asked: bool = True) -> Iterator[None]:
    """Let PyTorch compute on a GPU by deterministic algorithms alone, and refuse an operation that has none.

    A mode that only warns is not enough: in it the fused attention kernels add up gradients in any order. No operation
    of a training is among those that PyTorch says it refuses (tests/parity/test_on_gpu.py). New memory is not filled
    with NaN, as PyTorch does in this mode: no operation here reads what it has not written.
    """
    if device.type != "cuda" or not asked:
        yield
        return
    before, filled = torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms(True), with a way back
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        torch.utils.deterministic.fill_uninitialized_memory = filled


@contextmanager
def _listen_to_sigterm() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether SIGTERM came; the step that runs then and the next one are finished first."""
    asked = []
    before = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGTERM, before)
