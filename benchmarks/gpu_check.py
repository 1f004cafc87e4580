"""What holds on this machine's GPU: parity, gradients, repeated trainings, speed and memory, in at most eight minutes.

``make gpu-check`` runs every part, prints each row as soon as it is measured and writes ``results/<GPU>.tsv`` after
every row. It needs no network, torch 2.11 or newer, and this checkout; a part that needs a package which is missing is
skipped and its row says so. ``--smoke`` runs all parts in small sizes on the CPU.

Every part is a process of its own: one that fails, hangs or ends its CUDA context leaves the others alone. A part that
is not finished within its time is ended and counts as failed; one for which no time is left is skipped. Rows whose peer
is ``allowed`` are tests: a larger value fails the part.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import importlib
import multiprocessing
import os
import re
import signal
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA: cuBLAS repeats its bits only with it

import measure
import numpy as np
import run

LIMIT = 480  # seconds, all parts
SHORTEST = 5  # seconds: a part is not begun with less
ALLOWED = "allowed"  # the peer of a row that is a test: its value must not be larger than the peer's
UPSTREAM_MODEL = "scgpt 0.2.4"
UPSTREAM, AMP = "scgpt 0.2.4 pred_perturb", "scgpt 0.2.4 pred_perturb, fp16 autocast"
TUTORIAL = "Tutorial_Perturbation, scgpt 0.2.4, fp16"
EFFECTS = "effects between perturbations, 1 - correlation"

# Largest differences that rounding explains: the norm of the difference as a share of the norm. fp32 on a GPU has
# products in TF32 (11 bits), bf16 has 8 bits.
VALUES = {"float32": 1e-3, "bfloat16": 1e-2, "float16": 1e-2}
GRADIENTS = {"float32": 5e-3, "bfloat16": 2e-2, "float16": 2e-2}
LOST_CORRELATION = 1e-4  # of effects between perturbations, which is what the benchmark scores

# The parts use these; the process that starts them imports them once.
MODULES = ("torch", "lightning.fabric", "scgpt_bench.scgpt.finetuning", "scgpt_bench.scgpt.pretraining", "finetuning")


OWN_MODULES = ("scgpt_bench", "finetuning", "inference", "measure", "run")  # no package that a machine may lack


@dataclass(frozen=True)
class Sizes:
    """How large the parts are."""

    model: dict[str, int]
    attention: tuple[tuple[int, int, int], ...]  # cells, known genes, unknown genes
    heads: tuple[int, int]  # number, width
    trained_model: dict[str, int]
    trained_genes: int
    epochs: int
    learning_rate: float  # at which the trained model finds what was planted: a wide one needs a smaller rate
    repeated_model: dict[str, int]
    repeated_genes: int
    finetuning: tuple[int, int, int]  # cells in a batch, genes fed, genes measured
    pretraining: tuple[int, int, int, int]  # cells in a batch, genes, expressed genes of a cell, genes fed at most
    distinct: tuple[int, int]  # cells, genes
    matmul: int
    repeats: int


def _model(width: int, layers: int, heads: int) -> dict[str, int]:
    return {"embsize": width, "nlayers": layers, "nheads": heads, "d_hid": width}


FULL = Sizes(
    model=_model(512, 12, 8), attention=((3, 83, 97), (2, 600, 600)), heads=(8, 64),
    trained_model=_model(128, 3, 4), trained_genes=96, epochs=40, learning_rate=1e-3,
    repeated_model=_model(256, 2, 4), repeated_genes=300,
    finetuning=(64, 1536, 5000), pretraining=(128, 20_000, 1500, 1200), distinct=(24, 5000), matmul=8192, repeats=5,
)  # fmt: skip
SMOKE = Sizes(
    model=_model(32, 2, 2), attention=((3, 13, 17),), heads=(2, 16),
    trained_model=_model(32, 2, 2), trained_genes=24, epochs=30, learning_rate=2e-3,
    repeated_model=_model(16, 1, 2), repeated_genes=20,
    finetuning=(4, 30, 60), pretraining=(8, 200, 40, 30), distinct=(4, 40), matmul=64, repeats=1,
)  # fmt: skip


class Machine:
    """What a part computes on, and where its rows go."""

    def __init__(self, device: str, sizes: Sizes, work: str, size: str, send: Callable[[dict], None]):
        self.device, self.sizes, self.work, self.size, self.send = device, sizes, work, size, send

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def row(
        self, quantity: str, unit: str, ours: Any, peer: str = "", peer_value: Any = None, ratio: float | None = None,
        size: str | None = None, goal: float | None = None,
    ) -> None:  # fmt: skip
        size = self.size if size is None else size
        self.send(measure.row(self.work, size, quantity, unit, ours, peer, peer_value, ratio, goal))

    def within(self, quantity: str, unit: str, value: float, allowed: float, size: str | None = None) -> None:
        """A row that fails the part if ``value`` is larger than ``allowed``, or no number."""
        ratio = allowed / value if value else float("inf")
        self.row(quantity, unit, value, ALLOWED, allowed, ratio, size, goal=1)

    def against(
        self, quantity: str, unit: str, ours: float, peer: str, peer_value: float | str, size: str | None = None
    ) -> None:
        """A row beside a peer's; a text instead of the peer's value says why there is none."""
        if isinstance(peer_value, str):
            self.row(quantity, unit, ours, f"{peer}: {peer_value}", size=size)
        else:
            self.row(quantity, unit, ours, peer, peer_value, peer_value / ours, size)

    def half(self):
        """The 16-bit number type of this device's trainings and predictions; on a CPU that of a GPU: bf16."""
        import torch

        if not self.on_gpu or torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16
        return torch.float16

    def wait(self) -> None:
        import torch

        if self.on_gpu:
            torch.cuda.synchronize()

    def seconds(self, function: Callable[[], Any], warm: int = 1) -> float:
        """Median over ``sizes.repeats`` calls, after ``warm`` calls."""
        for _ in range(warm):
            function()
        measured = []
        for _ in range(self.sizes.repeats):
            self.wait()
            start = time.perf_counter()
            function()
            self.wait()
            measured.append(time.perf_counter() - start)
        return statistics.median(measured)

    def peak_memory_mb(self, function: Callable[[], Any]) -> float:
        """Largest memory of the GPU during a call; on a CPU that of the process so far."""
        import torch

        if not self.on_gpu:
            function()
            return measure.peak_memory_mb()
        torch.cuda.reset_peak_memory_stats()
        function()
        self.wait()
        return torch.cuda.max_memory_allocated() / 2**20

    def free(self) -> None:
        """Give back what is not referred to any more, before a peer is measured."""
        import torch

        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def waits(self, function: Callable[[], Any]) -> int:
        """How often a call waits for the GPU."""
        import torch

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                function()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in caught)


def first_line(error: BaseException) -> str:
    """The error as one line of at most 200 characters."""
    lines = str(error).strip().splitlines()
    return re.sub(r"\s+", " ", f"{type(error).__name__}: {lines[0] if lines else ''}")[:200]


def or_why_not(function: Callable[[], Any]) -> Any:
    """What a peer returns, or one line that says why it cannot: its failure is not ours."""
    try:
        return function()
    except Exception as error:
        return first_line(error)


@contextlib.contextmanager
def predicting_in(number_type) -> Iterator[None]:
    from scgpt_bench.scgpt import devices

    with mock.patch.object(devices, "number_type", return_value=number_type):
        yield


@contextlib.contextmanager
def deterministic(asked: bool) -> Iterator[None]:
    import torch

    torch.use_deterministic_algorithms(asked)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


# Which kernels


def kernels(machine: Machine) -> None:
    """Versions, the attention kernel that PyTorch chooses for each of our calls, and those that could run it."""
    import torch

    from scgpt_bench.scgpt import attention

    half = machine.half()
    machine.row("GPU", "name", torch.cuda.get_device_name() if machine.on_gpu else "none", size="")
    machine.row("torch", "version", torch.__version__, size="")
    machine.row("cuDNN", "version", str(torch.backends.cudnn.version()), size="")
    number_type = half if machine.on_gpu else torch.float32
    name = attention.kernel_name(torch.device(machine.device), number_type, machine.sizes.heads[1])
    machine.row("attention", "name", name, size="")
    cells, known, _ = machine.sizes.attention[-1]
    heads, width = machine.sizes.heads
    mask = torch.ones(cells, 1, 1, known, dtype=torch.bool, device=machine.device)
    cases = [("no mask", None), ("padding mask", mask), ("upstream's mask", mask.expand(-1, heads, -1, -1))]
    for number_type in (torch.float32, half):
        for mask_name, mask in cases:
            for strict in (False, True):
                query = torch.randn(
                    cells, heads, known, width, device=machine.device, dtype=number_type, requires_grad=True
                )
                bias = mask
                if mask_name.startswith("upstream"):  # a key padding mask becomes zeros to add
                    bias = torch.zeros(mask.shape, dtype=number_type, device=machine.device)
                with deterministic(strict):
                    chosen = chosen_kernel(query, bias)
                    possible = possible_kernels(query, bias)
                size = f"{short(number_type)}, {mask_name}{', deterministic' if strict else ''}"
                machine.row("kernel chosen for a training", "name", chosen, "possible", possible, size=size)
            with torch.no_grad():
                chosen = chosen_kernel(query.detach(), bias)
            machine.row("kernel chosen for a prediction", "name", chosen, size=f"{short(number_type)}, {mask_name}")


def short(number_type) -> str:
    return str(number_type).removeprefix("torch.")


def chosen_kernel(query, bias) -> str:
    import torch
    from torch.nn.attention import SDPBackend

    choice = int(torch._fused_sdp_choice(query, query, query, attn_mask=bias, dropout_p=0.0, is_causal=False))
    names = {int(backend): name for name, backend in SDPBackend.__members__.items()}
    return names[choice].lower().removesuffix("_attention")


def possible_kernels(query, bias) -> str:
    """Names of the kernels that compute this attention and its gradient when no other is allowed."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    possible = []
    for name in ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"):
        with contextlib.suppress(RuntimeError), sdpa_kernel(getattr(SDPBackend, name)):
            attended = scaled_dot_product_attention(query, query, query, attn_mask=bias)
            torch.autograd.grad(attended.float().sum(), query)
            possible.append(name.lower().removesuffix("_attention"))
    return ", ".join(possible) or "none"


# Gradients


def gradients(machine: Machine) -> None:
    """Every attention path of the trainings, on views of one projection as the model has them, beside a dense one."""
    import torch

    for number_type in (torch.float32, machine.half()):
        allowed = GRADIENTS[short(number_type)]
        for cells, known, unknown in machine.sizes.attention:
            for strict in (True, False):
                for name, path in attention_paths(cells, known, unknown).items():
                    with deterministic(strict):
                        error = largest_error(machine, path, number_type)
                    kind = f"{name}, {short(number_type)}{', deterministic' if strict else ''}"
                    size = f"{cells} cells x {known} + {unknown} genes"
                    machine.within(f"output and gradients, {kind}", "share of norm", error, allowed, size)
        dropout(machine, number_type)


def dropout(machine: Machine, number_type) -> None:
    """Attention with dropout, cells of different lengths.

    With values of 1 an output is the sum of the weights that are left: 1 on average. What reaches the values backwards
    adds up to the same sum if forward and backward drop the same weights.
    """
    import torch

    from scgpt_bench.scgpt.attention import Cells, attend

    cells, known, _ = machine.sizes.attention[-1]
    heads, width = machine.sizes.heads
    packed = Cells([known + 5 * number for number in range(cells)])
    generator = torch.Generator().manual_seed(0)
    query, key = (
        torch.randn(sum(packed.lengths), heads, width, generator=generator).to(machine.device, number_type)
        for _ in range(2)
    )
    allowed, size = GRADIENTS[short(number_type)], f"{cells} cells of different lengths from {known} genes"

    def draw(strict: bool):
        torch.manual_seed(0)
        value = torch.ones_like(query, requires_grad=True)
        with deterministic(strict):
            output = attend(query, key, value, packed, dropout=0.2)
            (gradient,) = torch.autograd.grad(output.float().sum(), value)
        return output.detach().double(), gradient.double()

    for strict in (True, False):
        output, gradient = draw(strict)
        kind = f"dropout, {short(number_type)}{', deterministic' if strict else ''}"
        left = output[..., 0]  # the same in each column
        machine.within(
            f"{kind}: mean of what is left, minus 1, and five of its standard errors", "1",
            abs(float(left.mean()) - 1), 5 * float(left.std()) / left.numel() ** 0.5, size,
        )  # fmt: skip
        error = abs(float(gradient.sum() / output.sum()) - 1)
        machine.within(f"{kind}: forward against backward", "1", error, allowed, size)
        machine.within(f"{kind}: nothing is dropped", "of 1", int(float(output.std()) == 0), 0, size)
    again = draw(True)
    other = int(not all(map(torch.equal, again, draw(True))))
    machine.within(f"dropout, {short(number_type)}, deterministic: other bits when drawn again", "of 1", other, 0, size)


@dataclass(frozen=True)
class AttentionPath:
    """A way to compute attention: tokens of each cell in each stream, the function, the same in dense form.

    A stream is a projection [tokens x 3 x heads x width].
    """

    lengths: tuple[Sequence[int], ...]
    ours: Callable[..., Any]
    dense: Callable[..., Any]


def attention_paths(cells: int, known: int, unknown: int) -> dict[str, AttentionPath]:
    import torch

    from scgpt_bench.scgpt.attention import Cells, attend, attend_to_known_and_self

    def of_known(lengths):
        return lambda stream: attend(*stream.unbind(1), Cells(lengths))

    def of_known_dense(lengths):
        return lambda stream: torch.cat([dense(cell) for cell in stream.split(lengths)])

    def of_unknown(lengths, new_lengths):
        def attend_both(stream, new):
            return attend_to_known_and_self(*new.unbind(1), *stream.unbind(1)[1:], Cells(new_lengths), Cells(lengths))

        return attend_both

    def of_unknown_dense(lengths, new_lengths):
        def attend_both(stream, new):
            pairs = zip(stream.split(lengths), new.split(new_lengths), strict=True)
            return torch.cat([dense_and_self(*pair) for pair in pairs])

        return attend_both

    paths = {}
    for kind, step in (("equal length", 0), ("different lengths", 5)):
        lengths, new = [known + step * i for i in range(cells)], [unknown + 3 * step * i for i in range(cells)]
        paths[f"genes, {kind}"] = AttentionPath((lengths,), of_known(lengths), of_known_dense(lengths))
        paths[f"unknown genes, {kind}"] = AttentionPath(
            (lengths, new), of_unknown(lengths, new), of_unknown_dense(lengths, new)
        )
    return paths


def dense(cell):
    """Self-attention of one cell [tokens x 3 x heads x width]."""
    query, key, value = cell.permute(1, 2, 0, 3)
    logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return (logits.softmax(-1) @ value).transpose(0, 1)


def dense_and_self(cell, new):
    """Attention of the unknown genes ``new`` of one cell to the known ones and each to itself."""
    import torch

    (_, known_key, known_value), (query, key, value) = cell.permute(1, 2, 0, 3), new.permute(1, 2, 0, 3)
    logits = torch.cat([query @ known_key.transpose(-1, -2), (query * key).sum(-1, keepdim=True)], -1)
    shares = (logits * query.shape[-1] ** -0.5).softmax(-1)
    return (shares[..., :-1] @ known_value + shares[..., -1:] * value).transpose(0, 1)


def largest_error(machine: Machine, path: AttentionPath, number_type) -> float:
    """The largest error of the output and of the gradients of query, key and value, as a share of the norm of each."""
    import torch

    heads, width = machine.sizes.heads
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(machine.device, number_type)

    streams = [draw(sum(lengths), 3, heads, width).requires_grad_() for lengths in path.lengths]
    exact = [stream.detach().double().requires_grad_() for stream in streams]
    output, expected = path.ours(*streams), path.dense(*exact)
    weight = draw(*expected.shape)
    found_gradients = torch.autograd.grad((output * weight).sum(), streams)
    exact_gradients = torch.autograd.grad((expected * weight).sum(), exact)
    errors = [
        share_of_norm(found[:, part], wanted[:, part])
        for found, wanted in zip(found_gradients, exact_gradients, strict=True)
        for part in range(3)
        if wanted[:, part].any()  # the queries of known genes are not part of what unknown genes attend to
    ]
    return max(share_of_norm(output, expected), *errors, key=lambda error: (np.isnan(error), error))


def share_of_norm(found, expected) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def step_gradients(machine: Machine) -> None:
    """Gradients of a fine-tuning step, with and without an unmeasured target, beside those of upstream's own code."""
    import finetuning as steps
    import inference as flagged_prediction
    import torch

    from scgpt_bench.scgpt import model
    from scgpt_bench.scgpt.vocabulary import human_vocabulary

    cells, (_, fed, genes), half = 4, machine.sizes.finetuning, machine.half()
    vocabulary = human_vocabulary()
    ours = model.build(machine.sizes.model, vocabulary)
    model.draw_weights(ours, seed=0)
    upstream = flagged_prediction.upstream_model(machine.sizes.model, vocabulary)
    upstream.load_state_dict(ours.state_dict())
    ours, upstream = ours.to(machine.device).train(), upstream.to(machine.device).train()

    def theirs(batch):
        tokens, hidden = torch.cat([batch["genes"], batch["added"]], dim=1), ~batch["present"].mask
        padding = torch.from_numpy(hidden).to(machine.device)
        return upstream(tokens, batch["values"], batch["flags"], src_key_padding_mask=padding)["mlm_output"]

    def gradients(network, predict, batch, number_type):
        network.zero_grad()
        half = number_type != torch.float32
        with torch.autocast(machine.device, number_type if half else None, enabled=half):
            predicted = predict(batch)
        error = predicted.float()[:, : batch["truth"].shape[1]] - batch["truth"]
        error.square().mean().backward()
        return torch.cat([each.grad.flatten() for each in network.parameters() if each.grad is not None])

    for unmeasured in (False, True):
        pairs = steps.pairs_of(genes, cells, unmeasured, fed)
        batches = (pairs.batch(0, index) for index in range(pairs.batches))
        batch = next(each for each in batches if bool(each["added"].numel()) == unmeasured)
        batch = {name: each.to(machine.device) for name, each in batch.items()}
        size = f"{cells} cells x {fed} genes of {genes}{', an unmeasured target' if unmeasured else ''}"
        exact = gradients(ours, ours, batch, torch.float32)
        error = share_of_norm(exact, gradients(upstream, theirs, batch, torch.float32).double())
        machine.within(f"gradients, float32, {UPSTREAM_MODEL}", "share of norm", error, GRADIENTS["float32"], size)
        errors = [
            share_of_norm(gradients(*of, batch, half), exact.double()) for of in ((ours, ours), (upstream, theirs))
        ]
        kind = f"gradients, {short(half)} against float32, and 1.5 times the error of {UPSTREAM_MODEL}"
        machine.within(kind, "share of norm", errors[0], 1.5 * errors[1], size)


# Parity


def parity(machine: Machine) -> None:
    """A model that is fine-tuned on this device: what it predicts here, on the CPU, and by upstream's own code."""
    import inference as flagged_prediction
    import pandas as pd
    import torch

    from scgpt_bench.scgpt import checkpoint, finetuned_model, inference
    from scgpt_bench.scgpt.encoding import Encoding, Targets

    genes = machine.sizes.trained_genes
    cells, targets, planted = planted_experiment(genes)
    size = f"{genes} genes, {len(targets)} perturbations"
    with tempfile.TemporaryDirectory() as folder:
        weights = random_checkpoint(Path(folder, "checkpoint"), genes, machine.sizes.trained_model)
        fine_tune(machine, cells, targets, weights, Path(folder, "model"), machine.sizes.epochs)
        read = checkpoint.read(weights)
        model = finetuned_model.load(Path(folder, "model"), read)
    of_name = {name: Targets((column,)) for column, name in enumerate(targets)}
    encoding = Encoding(np.arange(genes), read.vocabulary["<pad>"], of_name)
    controls = cells[cells.obs["perturbation"] == "control"].X.toarray()[:16]
    names = np.repeat(targets, len(controls))

    def ours(device: str, number_type) -> np.ndarray:
        repeated = np.tile(controls, (len(targets), 1))
        with predicting_in(number_type):
            batches = list(
                inference.predict(
                    model.to(device),
                    repeated,
                    pd.DataFrame({"perturbation": names}),
                    encoding,
                    progress=False,
                    batch_size=16,
                )
            )
        result = np.empty((len(names), genes), dtype=np.float32)
        for rows, values in batches:
            result[rows] = values
        return result

    upstream = flagged_prediction.upstream_model(machine.sizes.trained_model, read.vocabulary)
    upstream.load_state_dict(model.state_dict())
    upstream = upstream.to(machine.device).eval()

    def theirs(amp: bool) -> np.ndarray:
        return np.concatenate(
            [
                flagged_prediction.pred_perturb(upstream, controls, column, encoding.token_ids, amp)
                for column in range(len(targets))
            ]
        )

    def effects(values: np.ndarray) -> np.ndarray:
        """Means of each perturbation minus their mean, without the perturbed genes: [perturbations x genes]."""
        means = values.reshape(len(targets), -1, genes).mean(axis=1)[:, len(targets) :].astype(np.float64)
        return means - means.mean(axis=0)

    def lost(one: np.ndarray, other: np.ndarray) -> float:
        return 1 - float(np.corrcoef(one.ravel(), other.ravel())[0, 1])

    half = machine.half()
    exact = ours(machine.device, torch.float32)
    shown = planted[:, len(targets) :] - planted[:, len(targets) :].mean(axis=0)
    machine.within(f"{EFFECTS}, with what was planted", "1", lost(effects(exact), shown), 0.2, size)
    found = {
        (f"float32 on the {machine.device}", "float32 on the CPU"): (exact, ours("cpu", torch.float32), "float32"),
        (f"float32 on the {machine.device}", f"{UPSTREAM} in float32"): (exact, theirs(amp=False), "float32"),
        (f"{short(half)} on the {machine.device}", "float32"): (ours(machine.device, half), exact, short(half)),
    }
    for (one, other), (values, reference, number_type) in found.items():
        kind = f"{one} against {other}"
        error = difference(values, reference)
        machine.within(f"values, {kind}", "share of norm", error, VALUES[number_type], size)
        machine.within(f"{EFFECTS}, {kind}", "1", lost(effects(values), effects(reference)), LOST_CORRELATION, size)
    peer = or_why_not(lambda: max(lost(effects(theirs(amp=True)), effects(exact)), 1e-16))
    value = max(lost(effects(values), effects(exact)), 1e-16)
    machine.against(f"{EFFECTS}, 16 bits against float32", "1", value, AMP, peer, size)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The norm of the difference as a share of the norm of ``expected``."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def planted_experiment(genes: int, controls: int = 64, each: int = 24, targets: int = 6):
    """Cells whose genes rise and fall in modules; each target's own module rises by 1 and the target is lost.

    Returns
    -------
    Cells, targets (the first genes) and the planted shifts [targets x genes].
    """
    import anndata
    import pandas as pd
    from scipy import sparse

    names = [f"G{i}" for i in range(genes)]
    labels = np.repeat(["control", *names[:targets]], [controls, *[each] * targets])
    generator = np.random.default_rng(0)
    activity = generator.normal(size=(len(labels), targets))[:, np.arange(genes) % targets]
    values = np.log1p(generator.poisson(np.exp(np.linspace(-1, 2, genes) + activity / 3)))
    shifts = (np.arange(genes) % targets == np.arange(targets)[:, None]).astype(float)
    shifts[:, :targets] = 0
    for column, name in enumerate(names[:targets]):
        values[labels == name] += shifts[column]
        values[labels == name, column] = 0
    obs = pd.DataFrame(
        {"perturbation": labels, "direction": "down", "batch": "1", "cell_type": "T", "half": "input"},
        index=[f"cell{i}" for i in range(len(labels))],
    )
    X = sparse.csr_matrix(values.astype(np.float32))
    return anndata.AnnData(X, obs=obs, var=pd.DataFrame(index=names)), names[:targets], shifts


def random_checkpoint(folder: Path, genes: int, model: dict[str, int]) -> Path:
    from scgpt_bench.scgpt import checkpoint
    from scgpt_bench.scgpt.vocabulary import SPECIAL_TOKENS

    vocabulary = {name: i for i, name in enumerate([*(f"G{i}" for i in range(genes)), *SPECIAL_TOKENS])}
    checkpoint.initialize(folder, model, vocabulary, 0)
    return folder


def fine_tune(
    machine: Machine, cells, targets: Sequence[str], weights: Path, folder: Path, epochs: int,
    measured: int | None = None, save_minutes: float = 10.0,
) -> None:  # fmt: skip
    """Fine-tune on all targets, on the first ``measured`` genes; the last target is validated on too."""
    import pandas as pd

    from scgpt_bench.scgpt import checkpoint, finetuning, recipe, training
    from scgpt_bench.scgpt.vocabulary import align

    roles = [*(("train",) * len(targets)), "validation"]
    split = pd.DataFrame({"perturbation": [*targets, targets[-1]], "role": roles})
    cells = cells if measured is None else cells[:, -measured:]
    options = recipe.Recipe(
        batch_size=16, epochs=epochs, learning_rate=machine.sizes.learning_rate, gamma=0.95, validation_cells=8,
        genes_in_use_only=False, patience=None,
    )  # fmt: skip
    alignment = align(cells.var_names, checkpoint.read(weights).vocabulary)
    where = training.Machine(machine.device, save_minutes=save_minutes)
    finetuning.finetune(cells, split, alignment, weights, options, 0, folder, where)


# Trainings that are repeated


def repeated(machine: Machine) -> None:
    """A fine-tuning and a pretraining, each run twice and once killed in its middle: the same bytes of weights."""
    for name, train in {"fine-tuning": train_finetuning, "pretraining": train_pretraining}.items():
        with tempfile.TemporaryDirectory() as folder:
            first, second, killed = (Path(folder, name) for name in ("first", "second", "killed"))
            sums = [weights_of_a_training(machine, train, path) for path in (first, second)]
            machine.row("SHA-256 of the weights", "", sums[0], size=name)
            machine.within("other weights when run again", "of 1", int(sums[1] != sums[0]), 0, name)
            steps = kill_in_the_middle(machine, train, killed)
            machine.row("killed after", "steps", steps, size=name)
            resumed = weights_of_a_training(machine, train, killed)
            machine.within("other weights when killed and resumed", "of 1", int(resumed != sums[0]), 0, name)


def train_finetuning(machine: Machine, folder: Path, save_minutes: float) -> None:
    """The first targets are not measured: cells of two lengths, packed."""
    genes = machine.sizes.repeated_genes
    cells, targets, _ = planted_experiment(genes)
    weights = random_checkpoint(folder.parent / f"checkpoint {folder.name}", genes, machine.sizes.repeated_model)
    fine_tune(machine, cells, targets, weights, folder, 4, genes - 2, save_minutes)


def train_pretraining(machine: Machine, folder: Path, save_minutes: float) -> None:
    """Padded cells, and the second pass from the first step on."""
    from scgpt_bench.scgpt import pretraining, training

    genes = machine.sizes.repeated_genes
    cells, _, _ = planted_experiment(genes)
    options = pretraining.PretrainingOptions(
        **machine.sizes.repeated_model, batch_size=16, epochs=4, learning_rate=machine.sizes.learning_rate, warm_up=5,
        second_pass_after=0, held_out=0.2,
    )  # fmt: skip
    where = training.Machine(machine.device, save_minutes=save_minutes)
    pretraining.pretrain(pretraining.MatrixSource(cells.X), list(cells.var_names), folder, options, 0, where)


def weights_of_a_training(machine: Machine, train: Callable, folder: Path) -> str:
    """SHA-256 of the weights that a training in a process of its own leaves."""
    process = in_own_process(_train_quietly, train, machine.device, machine.sizes, folder, 10.0)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the training ended with exit code {process.exitcode}")
    import torch

    tensors = torch.load(next(iter([*folder.glob("model.pt"), *folder.glob("best_model.pt")])), **ON_CPU)
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def kill_in_the_middle(machine: Machine, train: Callable, folder: Path) -> int:
    """Start a training that saves after every step, end it by SIGKILL after an epoch; the steps that it saved."""
    import torch

    from scgpt_bench.scgpt import training

    process = in_own_process(_train_quietly, train, machine.device, machine.sizes, folder, 0.0)
    while process.is_alive() and not (folder / training.HISTORY).exists():
        time.sleep(0.002)
    process.kill()
    process.join()
    if process.exitcode != -signal.SIGKILL:
        raise RuntimeError(f"the training to kill ended before that, with exit code {process.exitcode}")
    return torch.load(folder / training.STATE, **ON_CPU)["position"]["step"]


# Tensors go where they were saved from: this process would use CUDA, and could then start no other one that does.
ON_CPU: dict[str, Any] = {"weights_only": True, "map_location": "cpu"}


def _train_quietly(train: Callable, device: str, sizes: Sizes, folder: Path, save_minutes: float) -> None:
    _quiet(device)
    train(Machine(device, sizes, "", "", lambda row: None), folder, save_minutes)


# Speed and memory


def finetuning_step(machine: Machine) -> None:
    """A step on 64 cells x 1,536 genes, the same with an unmeasured target, and the tutorial's."""
    import finetuning as steps

    cells, fed, genes = machine.sizes.finetuning
    size = f"{cells} cells x {fed} genes of {genes}"
    seconds, memory, model = {}, {}, machine.sizes.model
    for unmeasured in (False, True):
        pairs = steps.pairs_of(genes, cells, unmeasured, fed)
        step = steps.our_step(pairs, model, accelerator=machine.device)
        seconds[unmeasured] = machine.seconds(step, warm=3)
        memory[unmeasured] = machine.peak_memory_mb(step)
        name = f"{size}, an unmeasured target" if unmeasured else size
        if unmeasured:
            machine.against("time", "s", seconds[True], "without an unmeasured target", seconds[False], name)
            machine.against("peak memory", "MB", memory[True], "without an unmeasured target", memory[False], name)
        else:
            machine.row("rate", "cells/s", cells / seconds[False], size=name)
        if machine.on_gpu:
            machine.row("waits for the GPU", "1", machine.waits(step), size=name)
        start = time.perf_counter()
        for index in range(3):
            pairs.batch(1, index % pairs.batches)
        machine.row("time of preparing a batch", "s", (time.perf_counter() - start) / 3, size=name)
        del step
        machine.free()

    def tutorial() -> tuple[float, float]:
        step = steps.tutorial_step(steps.pairs_of(genes, cells, most_genes=fed), machine.device, model)
        return machine.seconds(step, warm=3), machine.peak_memory_mb(step)

    found = or_why_not(tutorial)
    theirs = (found, found) if isinstance(found, str) else found
    machine.against("time", "s", seconds[False], TUTORIAL, theirs[0], size)
    machine.against("peak memory", "MB", memory[False], TUTORIAL, theirs[1], size)


def switches(machine: Machine) -> None:
    """What ``hardware.micro_batch``, ``precision`` and ``deterministic`` do to a fine-tuning step and its result."""
    import finetuning as steps
    import torch

    cells, fed, genes = machine.sizes.finetuning
    few = max(1, cells // 4)
    size = f"{cells} cells x {fed} genes of {genes}"
    pairs = steps.pairs_of(genes, cells, most_genes=fed)
    gradients_by_switch(machine, pairs, few, size)
    half = "bf16" if machine.half() == torch.bfloat16 else "fp32"  # no training is in fp16
    usual: dict[str, Any] = {"precision": half}
    variants = {
        "fp32": {"precision": "fp32"},
        "tf32": {"precision": "tf32"},
        f"{half}, not deterministic": usual | {"deterministic": False},
        f"{half}, {few} cells at once": usual | {"micro_batch": few},
    }

    def measured(variant: dict[str, Any]) -> tuple[float, float]:
        step = steps.our_step(pairs, machine.sizes.model, accelerator=machine.device, **variant)
        return machine.seconds(step, warm=2), machine.peak_memory_mb(step)

    reference = measured(usual)
    for name, variant in variants.items():
        machine.free()
        found = or_why_not(lambda variant=variant: measured(variant))
        for quantity, unit, at in (("time", "s", 0), ("peak memory", "MB", 1)):
            value = found if isinstance(found, str) else found[at]
            machine.against(f"{quantity}, {half}, deterministic, whole", unit, reference[at], name, value, size)


def gradients_by_switch(machine: Machine, pairs, few: int, size: str) -> None:
    """Gradients of a batch in parts, in TF32 and in any order, against the whole in fp32; no dropout."""
    import torch

    from scgpt_bench.scgpt import checkpoint, devices, finetuning, training
    from scgpt_bench.scgpt.vocabulary import human_vocabulary

    weights = checkpoint.Checkpoint(Path("random"), machine.sizes.model, human_vocabulary(), {})
    model, _ = finetuning.start(weights, pairs.encoding.tokens_in_use, pairs.options, 0)
    model = model.to(machine.device).eval()  # nothing is dropped
    batch = {name: each.to(machine.device) for name, each in pairs.batch(0, 0).items()}

    def gradient(most: int | None = None, precision: str = "fp32", strict: bool = True):
        model.zero_grad()
        device = torch.device(machine.device)
        with training.deterministic(device, strict), devices.products_in(device, precision):
            for part in training.micro_batches(batch, most):
                finetuning.loss(model, part).backward()
        return torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])

    whole = gradient()
    other = int(not torch.equal(whole, gradient()))
    machine.within("gradients, float32, deterministic: other bits when computed again", "of 1", other, 0, size)
    in_tf32 = gradient(precision="tf32")
    if devices.has_tf32(torch.device(machine.device)):
        machine.within("gradients, TF32: same bits as in fp32", "of 1", int(torch.equal(in_tf32, whole)), 0, size)
    for kind, found in (
        (f"{few} cells at once against all", gradient(few)),
        ("not deterministic against deterministic", gradient(strict=False)),
        ("TF32 against fp32", in_tf32),
    ):
        error = share_of_norm(found, whole.double())
        machine.within(f"gradients, float32, {kind}", "share of norm", error, GRADIENTS["float32"], size)


def pretraining_step(machine: Machine) -> None:
    """A step with the second pass, cells of distinct numbers of genes."""
    import finetuning as steps
    from scipy import sparse

    from scgpt_bench.scgpt import pretraining, vocabulary

    cells, genes, expressed, fed = machine.sizes.pretraining
    generator = np.random.default_rng(0)
    counts = sparse.random(3 * cells, genes, density=expressed / genes, format="csr", random_state=generator)
    counts.data = generator.geometric(0.3, counts.nnz).astype(np.float32)
    options = pretraining.PretrainingOptions(
        **machine.sizes.model, batch_size=cells, second_pass_after=0, held_out=0.3, max_seq_len=fed
    )
    symbols = {name: i for i, name in enumerate([*map(str, range(genes)), *vocabulary.SPECIAL_TOKENS])}
    model = pretraining.build(options, len(symbols), symbols["<pad>"])
    rows, held_out = pretraining.split_rows(3 * cells, options, 0, "cells")
    source = pretraining.MatrixSource(counts.tocsr())
    task = pretraining.training_task(model, source, rows, held_out, symbols, options, 0, "cells")
    start = time.perf_counter()
    task.batch(0, 0, 0, 1)
    prepared = time.perf_counter() - start
    again = replace(task, batch=lambda epoch, index, *share: task.batch(epoch, index % task.batches, *share))
    step = steps.steps_of(again, accelerator=machine.device)
    size = f"{cells} cells x {fed} genes of {genes}, second pass"
    seconds = machine.seconds(step, warm=2)
    machine.row("time", "s", seconds, size=size)
    machine.row("rate", "cells/s", cells / seconds, size=size)
    machine.row("peak memory", "MB", machine.peak_memory_mb(step), size=size)
    if machine.on_gpu:
        machine.row("waits for the GPU", "1", machine.waits(step), size=size)
    machine.row("time of preparing a batch", "s", prepared, size=size)


def inference_at(genes: int, cells: int) -> Callable[[Machine], None]:
    """Flagged prediction of ``cells`` cells: 16 bits against upstream's fp16, time and memory."""

    def part(machine: Machine) -> None:
        import inference as flagged_prediction
        import pandas as pd
        import torch

        from scgpt_bench.scgpt import inference, model
        from scgpt_bench.scgpt.encoding import Encoding, Targets
        from scgpt_bench.scgpt.vocabulary import human_vocabulary

        vocabulary, token_ids, target = human_vocabulary(), np.arange(genes), 5
        built = model.build(machine.sizes.model, vocabulary)
        model.draw_weights(built, seed=0)
        weights = {name: tensor.clone() for name, tensor in built.state_dict().items()}
        model.restrict_vocabulary(built, token_ids)
        built.to(machine.device)
        generator = np.random.default_rng(0)
        values = np.log1p(2 * generator.poisson(generator.gamma(0.3, 1.0, (cells, genes)))).astype(np.float32)
        encoding = Encoding(token_ids, vocabulary["<pad>"], {"target": Targets((target,))})

        def ours(number_type=None) -> np.ndarray:
            names = pd.DataFrame({"perturbation": ["target"] * cells})
            with predicting_in(number_type) if number_type else contextlib.nullcontext():
                batches = inference.predict(built, values, names, encoding, progress=False)
                return np.concatenate([batch for _, batch in batches])

        exact, half = ours(torch.float32), ours(machine.half())
        error = difference(half, exact)
        machine.within("values, 16 bits against float32", "share of norm", error, VALUES[short(machine.half())])
        seconds, memory = machine.seconds(ours), machine.peak_memory_mb(ours)
        achieved = operations(machine.sizes.model, genes, cells) / seconds / 1e3
        rate = matmul_rate(machine, machine.half() if machine.on_gpu else torch.float32)
        machine.row("rate", "TFLOP/s", achieved, "square matmul", rate, achieved / rate)
        built.to("cpu")
        machine.free()

        def theirs() -> tuple[float, float, float]:
            upstream = flagged_prediction.upstream_model(machine.sizes.model, vocabulary)
            upstream.load_state_dict(weights)
            upstream = upstream.to(machine.device).eval()
            at_once = max(1, min(cells, 64))

            def predict(amp: bool = True) -> np.ndarray:
                nonlocal at_once
                while True:
                    try:
                        parts = [values[start : start + at_once] for start in range(0, cells, at_once)]
                        return np.concatenate(
                            [flagged_prediction.pred_perturb(upstream, part, target, token_ids, amp) for part in parts]
                        )
                    except torch.OutOfMemoryError:
                        if at_once == 1:
                            raise
                        at_once //= 2
                        machine.free()

            few, at_once = at_once, min(2, at_once)  # fp32 of upstream may have the weights of all pairs of genes
            reference = or_why_not(lambda: predict(amp=False))
            at_once = few
            if isinstance(reference, str):
                machine.row("values, float32 against upstream", "share of norm", "", f"{UPSTREAM}: {reference}")
            else:
                error = difference(exact, reference)
                machine.within("values, float32 against upstream", "share of norm", error, VALUES["float32"])
            return machine.seconds(predict), machine.peak_memory_mb(predict), at_once

        found = or_why_not(theirs)
        their_seconds, their_memory, at_once = (found, found, 0) if isinstance(found, str) else found
        peer = f"{AMP}, {at_once} cells at once" if at_once else AMP
        machine.against("time", "s", seconds, peer, their_seconds)
        machine.against("peak memory", "MB", memory, peer, their_memory)

    return part


def operations(model: dict[str, int], genes: int, cells: int) -> float:
    """GFLOP of upstream's computation: layers, value encoder and the two decoders."""
    width = model["embsize"]
    per_layer = 8 * width**2 + 4 * width * model["d_hid"] + 4 * genes * width
    return cells * genes * (model["nlayers"] * per_layer + 10 * width**2) / 1e9


def matmul_rate(machine: Machine, number_type) -> float:
    """TFLOP/s of a product of two square matrices."""
    import torch

    size = machine.sizes.matmul
    one, other = (torch.randn(size, size, device=machine.device, dtype=number_type) for _ in range(2))
    return 2 * size**3 / 1e12 / machine.seconds(lambda: one @ other, warm=3)


def distinct_lengths(machine: Machine) -> None:
    """``genes_fed: nonzero``: cells of distinct lengths, the first pass (kernels are prepared) and the second."""
    import pandas as pd
    import torch

    from scgpt_bench.scgpt import inference, model
    from scgpt_bench.scgpt.encoding import Encoding, Targets
    from scgpt_bench.scgpt.vocabulary import human_vocabulary

    cells, genes = machine.sizes.distinct
    vocabulary = human_vocabulary()
    built = model.build(machine.sizes.model, vocabulary)
    model.draw_weights(built, seed=0)
    model.restrict_vocabulary(built, range(genes))
    built.to(machine.device)
    generator = np.random.default_rng(0)
    values = np.log1p(2 * generator.poisson(generator.gamma(0.3, 1.0, (cells, genes)))).astype(np.float32)
    encoding = Encoding(np.arange(genes), vocabulary["<pad>"], {"target": Targets((5,))})

    names = pd.DataFrame({"perturbation": ["target"] * cells})

    def predicted(**options) -> np.ndarray:
        batches = inference.predict(built, values, names, encoding, "nonzero", progress=False, **options)
        return np.concatenate([batch for _, batch in batches])

    def seconds() -> float:
        start = time.perf_counter()
        predicted()
        machine.wait()
        return time.perf_counter() - start

    machine.row("time, first pass", "s", seconds())
    machine.row("time, second pass", "s", seconds())
    machine.row("peak memory", "MB", machine.peak_memory_mb(predicted))
    half = machine.half()
    with predicting_in(half):
        found = predicted()
    with predicting_in(torch.float32):
        together, alone = predicted(), predicted(batch_size=1)
    error = difference(together, alone)
    machine.within("values, float32, together against each cell alone", "share of norm", error, VALUES["float32"])
    error = difference(found, alone)
    machine.within("values, 16 bits against float32", "share of norm", error, VALUES[short(half)])


# Running the parts


@dataclass(frozen=True)
class Part:
    """What is run, the first columns of its rows, and the seconds that it may take on an H200."""

    run: Callable[[Machine], None]
    work: str
    size: str
    seconds: int


def parts(smoke: bool) -> dict[str, Part]:
    """All parts by name, in the order in which they run: what decides whether results are right comes first."""
    sizes = SMOKE if smoke else FULL
    lengths = ((20, 4), (30, 4), (40, 4), (60, 2)) if smoke else ((300, 400), (1536, 80), (5000, 26), (18_080, 7))
    cells, genes = sizes.distinct
    return {
        "kernels": Part(kernels, "attention kernels", "", 30),
        "gradients": Part(gradients, "attention gradients", "", 60),
        "step": Part(step_gradients, "gradients of a fine-tuning step", "", 45),
        "parity": Part(parity, "parity", "", 75),
        "repeated": Part(repeated, "training repeated", "", 120),
        "finetuning": Part(finetuning_step, "scGPT fine-tuning step", "", 80),
        "switches": Part(switches, "switches of a fine-tuning step", "", 60),
        "pretraining": Part(pretraining_step, "scGPT pretraining step", "", 60),
        **{
            f"inference-{n}": Part(inference_at(n, k), "scGPT inference", f"{n} genes x {k} cells", 45)
            for n, k in lengths
        },
        "distinct": Part(
            distinct_lengths, "scGPT inference, genes not zero", f"{cells} cells of distinct lengths, {genes} genes", 45
        ),
    }


def in_own_process(function: Callable, *arguments: Any) -> multiprocessing.Process:
    """A started process. Forked, it has this one's imports, which must not have used CUDA."""
    process = multiprocessing.Process(target=function, args=arguments)
    process.start()
    return process


def _quiet(device: str) -> None:
    import torch

    warnings.simplefilter("ignore")
    if device == "cpu":
        torch.set_num_threads(1)


def _run_part(name: str, device: str, smoke: bool, connection) -> None:
    os.setsid()  # what the part starts ends with it
    part = parts(smoke)[name]
    machine = Machine(device, SMOKE if smoke else FULL, part.work, part.size, connection.send)
    try:
        _quiet(device)
        part.run(machine)
    except BaseException as error:
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] not in OWN_MODULES
        if not missing:
            traceback.print_exc()
        machine.row("skipped" if missing else "failed", "", "", first_line(error))


def rows_of(name: str, device: str, smoke: bool, seconds: float) -> Iterator[dict]:
    """The rows of a part as they come; the last one says so if it did not end by itself."""
    part = parts(smoke)[name]

    def row(reason: str) -> dict:
        return measure.row(part.work, part.size, "failed", "", "", reason, None, None)

    receiver, sender = multiprocessing.Pipe(duplex=False)
    end = time.monotonic() + seconds
    process = in_own_process(_run_part, name, device, smoke, sender)
    sender.close()
    try:
        while True:
            if not receiver.poll(max(0.0, end - time.monotonic())):
                yield row(f"not finished after {seconds:.0f} s")
                return
            try:
                yield receiver.recv()
            except EOFError:
                break
        process.join(5)
        if process.exitcode:
            yield row(f"the process ended with exit code {process.exitcode}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()


def failed(row: dict) -> bool:
    return row["quantity"] == "failed" or (row["peer"] == ALLOWED and not row["ratio"] >= 1)


def _gpu_name(connection) -> None:
    try:
        import torch

        connection.send((torch.cuda.get_device_name(), ""))
    except Exception as error:
        connection.send(("", first_line(error)))


def gpu_name() -> tuple[str, str]:
    """Name of the GPU, or nothing and the reason. Asked for in another process: this one must not use CUDA."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = in_own_process(_gpu_name, sender)
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        return "", "the process that asked for it ended"
    finally:
        process.join()


def slug(name: str) -> str:
    """``NVIDIA H200`` -> ``nvidia-h200``."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts; the exit status is 1 if one failed, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="all parts in small sizes, on the CPU")
    parser.add_argument("--only", nargs="+", choices=parts(False) | parts(True), help="parts to run")
    parser.add_argument("--output", type=Path, help="where to write the table (default: benchmarks/results/<GPU>.tsv)")
    parser.add_argument("--seconds", type=float, default=LIMIT, help="for all parts together (default: %(default)s)")
    options = parser.parse_args(arguments)
    start = time.monotonic()
    if multiprocessing.get_start_method(allow_none=True) is None:
        multiprocessing.set_start_method("fork")  # a new interpreter for each part would import for a minute or two
    for module in MODULES:
        with contextlib.suppress(ImportError):  # the parts that need it say so
            importlib.import_module(module)
    device, output = "cpu" if options.smoke else "cuda", options.output
    if not options.smoke:
        name, reason = gpu_name()
        if "forked" in reason:  # something that was imported has used CUDA
            multiprocessing.set_start_method("spawn", force=True)
            name, reason = gpu_name()
        if not name:
            print(f"error: no GPU for PyTorch: {reason}; --smoke runs on the CPU", file=sys.stderr)
            return 2
        if output is None and options.only is None:
            output = run.RESULTS / f"{slug(name)}.tsv"
    table, outcomes = [], {}
    for name, part in parts(options.smoke).items():
        if options.only is not None and name not in options.only:
            continue
        left = options.seconds - (time.monotonic() - start)
        if left < SHORTEST:
            found = iter([measure.row(part.work, part.size, "skipped", "", "", "no time left", None, None)])
        else:
            found = rows_of(name, device, options.smoke, left if options.smoke else min(part.seconds, left))
        outcome = "passed"
        for row in found:
            table.append(row)
            print(f"{time.monotonic() - start:4.0f} s  {line(row)}", flush=True)
            if output is not None:
                run.write(table, output)
            if failed(row):
                outcome = "failed"
            elif row["quantity"] == "skipped" and outcome == "passed":
                outcome = "skipped"
        outcomes[name] = outcome
    for outcome in ("passed", "skipped", "failed"):
        names = [name for name, found in outcomes.items() if found == outcome]
        print(f"{len(names)} {outcome}{': ' if names else ''}{', '.join(names)}")
    if output is not None:
        print(f"Written to {output}")
    return int("failed" in outcomes.values())


def line(row: dict) -> str:
    """A row of the table for a reader."""
    shown = {column: run.shown(row[column]) for column in measure.COLUMNS}
    text = " | ".join(shown[column] for column in ("work", "size", "quantity") if shown[column])
    text += f": {shown['ours']} {shown['unit'] if isinstance(row['ours'], float) else ''}".rstrip(" :")
    if shown["peer"]:
        text += f" ({shown['peer']}{': ' if shown['peer_value'] else ''}{shown['peer_value']})"
    if shown["ratio"]:
        text += f", ratio {shown['ratio']}"
    return f"FAILED {text}" if failed(row) else text


if __name__ == "__main__":
    sys.exit(main())
