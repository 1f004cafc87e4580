"""Attention of generative pretraining, forward and backward: merged, and with a dense mask, on the CPU.

The rule is ``allow(query, key) = known(key) or key == query``; half of the genes are unknown. Peers: PyTorch's fused
attention with the dense mask, and the mask written into the scores before a softmax, as scGPT's pretraining branch
does for unknown genes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

import measure

WORK = "masked attention"
PEERS = {"sdpa": "dense mask, fused (torch SDPA)", "softmax": "dense mask, softmax of the scores"}
LENGTHS = (512, 1200, 4096)  # genes; 1,200 is the published pretraining
CELLS, HEADS, HEAD_WIDTH = 2, 8, 64


def rows(repeats: int = 3, lengths: tuple[int, ...] = LENGTHS) -> list[dict]:
    """The table: time, and the memory that the computation adds, for each length and peer."""
    table = []
    for length in lengths:
        size = f"{length} genes x {CELLS} cells x {HEADS} heads"
        seconds = measure.in_fresh_process(__file__, "time", length, repeats)
        memory = {name: measure.in_fresh_process(__file__, name, length, 1) for name in ("ours", *PEERS)}
        for name, peer in PEERS.items():
            ratio = {"time": seconds[name] / seconds["ours"], "memory": memory[name] / memory["ours"]}
            table += [
                measure.row(WORK, size, "time", "s", seconds["ours"], peer, seconds[name], ratio["time"]),
                measure.row(WORK, size, "added memory", "MB", memory["ours"], peer, memory[name], ratio["memory"]),
            ]
    return table


def contender(name: str, length: int) -> Callable[[], tuple]:
    """A function that returns the gradients of query, key and value: ``ours`` or a peer.

    They lie as linear layers leave them, (cells, genes, heads, head width); peers are given views.
    """
    import torch

    torch.manual_seed(0)
    streams = [torch.randn(CELLS, length, HEADS, HEAD_WIDTH, requires_grad=True) for _ in range(3)]
    direction = torch.randn(CELLS, length, HEADS, HEAD_WIDTH)
    attend = {"ours": merged, "sdpa": fused_dense, "softmax": softmax_dense}[name]

    def attended():
        if name == "ours":
            return attend(*streams, length // 2)
        return attend(*(stream.transpose(1, 2) for stream in streams), length // 2).transpose(1, 2)

    return lambda: torch.autograd.grad(attended(), streams, direction)


def merged(query, key, value, n_known: int):
    import torch

    from scgpt_bench.scgpt.attention import Cells, attend, attend_to_known_and_self

    known, new = (
        [stream[:, part].flatten(0, 1) for stream in (query, key, value)]
        for part in (slice(n_known), slice(n_known, None))
    )
    of_known, of_new = Cells([n_known] * CELLS), Cells([query.shape[1] - n_known] * CELLS)
    attended = attend(*known, of_known), attend_to_known_and_self(*new, *known[1:], of_new, of_known)
    return torch.cat([part.unflatten(0, (CELLS, -1)) for part in attended], dim=1)


def fused_dense(query, key, value, n_known: int):
    from torch.nn import functional

    return functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed(query.shape[2], n_known))


def softmax_dense(query, key, value, n_known: int):
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return scores.masked_fill(~allowed(query.shape[2], n_known), float("-inf")).softmax(dim=-1) @ value


def allowed(length: int, n_known: int):
    """The dense mask [length x length]."""
    import torch

    return (torch.arange(length) < n_known) | torch.eye(length, dtype=torch.bool)


def _measured(what: str, length: int, repeats: int) -> dict | float:
    if what != "time":
        contender(what, 32)()  # loads what any length needs
        run, before = contender(what, length), measure.peak_memory_mb()
        run()
        return measure.peak_memory_mb() - before
    contenders = {name: contender(name, length) for name in ("ours", *PEERS)}
    reference = contenders["ours"]()
    for name in PEERS:
        difference = max(float((a - b).abs().max()) for a, b in zip(contenders[name](), reference, strict=True))
        if difference > 1e-4:
            raise SystemExit(f"not the same attention: gradients of {name} differ by {difference}")
    return dict(zip(contenders, measure.alternating(*contenders.values(), repeats=repeats), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("time", "ours", *PEERS))
    parser.add_argument("numbers", nargs=2, type=int, help="length, repeats")
    arguments = parser.parse_args()
    json.dump(_measured(arguments.what, *arguments.numbers), sys.stdout)
    print()


if __name__ == "__main__":
    main()
