"""Flagged prediction: scgpt 0.2.4's own ``pred_perturb`` and ours, same weights, same cells, on this machine's CPU.

``python benchmarks/inference.py`` prints the table. The cells are counts with 80 % zeros, as in droplet data; weights
are random, 12 layers x 512 with the human vocabulary.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from types import SimpleNamespace

import measure
import numpy as np

WORK, PEER = "scGPT inference", "scgpt 0.2.4 pred_perturb"
ARGUMENTS = {"embsize": 512, "nlayers": 12, "nheads": 8, "d_hid": 512}
SIZES = ((300, 16), (1536, 4), (5000, 2))  # genes, cells
TIME_GOALS = {300: 1.6, 1536: 2.6, 5000: 4.0}
RATE_GOALS = {1536: 0.8}
MEMORY_GOALS = {5000: 5.0}


def rows(repeats: int = 3, sizes: tuple[tuple[int, int], ...] = SIZES) -> list[dict]:
    """The table: time, rate and peak memory for each size, every figure from a fresh process."""
    table = []
    for genes, cells in sizes:
        size = f"{genes} genes x {cells} cells"
        timed = measure.in_fresh_process(__file__, "time", genes, cells, repeats)
        memory = {name: measure.in_fresh_process(__file__, name, genes, cells, 1) for name in ("ours", "peer")}
        ours, peer, rate = timed["ours"], timed["peer"], timed["matmul"]
        achieved = operations(genes, cells) / ours
        table += [
            measure.row(WORK, size, "time", "s", ours, PEER, peer, peer / ours, TIME_GOALS.get(genes)),
            measure.row(
                WORK, size, "rate", "GFLOP/s", achieved, "square matmul", rate, achieved / rate, RATE_GOALS.get(genes)
            ),
            measure.row(
                WORK,
                size,
                "peak memory",
                "MB",
                memory["ours"],
                PEER,
                memory["peer"],
                memory["peer"] / memory["ours"],
                MEMORY_GOALS.get(genes),
            ),
        ]
    return table


def operations(genes: int, cells: int) -> float:
    """GFLOP of upstream's computation: 12 layers, value encoder and the two decoders."""
    width, layers = ARGUMENTS["embsize"], ARGUMENTS["nlayers"]
    per_layer = 12 * width**2 + 4 * genes * width
    return cells * genes * (layers * per_layer + 10 * width**2) / 1e9


def contender(name: str, genes: int, cells: int):
    """A function that predicts the cells: ``ours`` or the ``peer``, with the same weights."""
    import pandas as pd

    from scgpt_bench.scgpt import inference, model
    from scgpt_bench.scgpt.encoding import Encoding, Targets
    from scgpt_bench.scgpt.vocabulary import human_vocabulary

    vocabulary = human_vocabulary()
    built = model.build(ARGUMENTS, vocabulary)
    model.draw_weights(built, seed=0)
    generator = np.random.default_rng(0)
    counts = generator.poisson(generator.gamma(0.3, 1.0, (cells, genes)))
    values = np.log1p(2 * counts).astype(np.float32)
    token_ids, target = np.arange(genes), 5
    if name == "ours":
        model.restrict_vocabulary(built, token_ids)
        encoding = Encoding(token_ids, vocabulary["<pad>"], {"target": Targets((target,))})
        names = pd.DataFrame({"perturbation": ["target"] * cells})
        return lambda: np.concatenate(
            [batch for _, batch in inference.predict(built, values, names, encoding, progress=False)]
        )
    upstream = upstream_model(ARGUMENTS, vocabulary)
    upstream.load_state_dict(built.state_dict(), assign=True)
    return lambda: pred_perturb(upstream, values, target, token_ids, amp=False)


def upstream_model(arguments, vocabulary):
    """scgpt 0.2.4's model without dropout, as its tutorial builds it; its weights are random."""
    from scgpt_bench.scgpt import model
    from scgpt_bench.scgpt.upstream import TransformerGenerator

    return TransformerGenerator(
        len(vocabulary), *(arguments[key] for key in ("embsize", "nheads", "d_hid", "nlayers")), 3, 1, vocabulary,
        dropout=0.0, pert_pad_id=model.NOT_PERTURBED,
    )  # fmt: skip


def pred_perturb(upstream, values: np.ndarray, target: int, token_ids: np.ndarray, amp: bool) -> np.ndarray:
    """Upstream's prediction of cells [cells x genes] on its model's device; ``amp`` is fp16 on a GPU."""
    import torch

    flags = np.zeros_like(values)
    flags[:, target] = 1
    device = next(upstream.parameters()).device
    x = torch.from_numpy(np.stack([values.ravel(), flags.ravel()], axis=1)).to(device)
    batch = SimpleNamespace(x=x, pert=["target"] * len(values), to=lambda device: None)
    with torch.no_grad():
        return upstream.pred_perturb(batch, "all", token_ids, amp=amp).cpu().numpy()


def _measured(what: str, genes: int, cells: int, repeats: int) -> dict | float:
    if what != "time":
        contender(what, genes, cells)()
        return measure.peak_memory_mb()
    ours, peer = contender("ours", genes, cells), contender("peer", genes, cells)
    matmul, gflop = measure.square_matmul()
    difference = float(np.abs(ours() - peer()).max())
    seconds = measure.alternating(matmul, ours, peer, matmul, ours, repeats=repeats)
    return {
        "ours": (seconds[1] + seconds[4]) / 2,
        "peer": seconds[2],
        "matmul": gflop / ((seconds[0] + seconds[3]) / 2),
        "difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("table", "time", "ours", "peer"), default="table")
    parser.add_argument("numbers", nargs="*", type=int, help="genes, cells, repeats: one figure only")
    arguments = parser.parse_args()
    if arguments.what == "table":
        print(*measure.COLUMNS, sep="\t")
        for row in rows(*arguments.numbers[:1]):
            print(*(f"{v:.4g}" if isinstance(v, float) else "" if v is None else v for v in row.values()), sep="\t")
        return
    warnings.simplefilter("ignore")
    json.dump(_measured(arguments.what, *arguments.numbers), sys.stdout)
    print()


if __name__ == "__main__":
    main()
