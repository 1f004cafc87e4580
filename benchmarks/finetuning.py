"""One fine-tuning step: the loop of upstream's Tutorial_Perturbation and ours, same weights, same batches, on the CPU.

A step is data loading, forward, loss, backward, clipping and Adam. The peer is scgpt 0.2.4's own model and masked MSE
in the tutorial's order, with its GradScaler (disabled without a GPU) and Adam over all parameters. Its pairs lie ready
as tensors, a lower bound for the tutorial's torch_geometric loader; ours are drawn from sparse cells at every step.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import inference as flagged_prediction
import measure
import numpy as np

WORK, PEER = "scGPT fine-tuning step", "Tutorial_Perturbation, scgpt 0.2.4"
ARGUMENTS = {"embsize": 512, "nlayers": 12, "nheads": 8, "d_hid": 512}
SIZES = ((300, 8),)  # genes, cells in a batch
TIME_GOALS = {300: 1.3}
PERTURBATIONS, CELLS_EACH, SEED = 20, 16, 0
RATE, CLIP = 1e-4, 1.0


def rows(repeats: int = 5, sizes: tuple[tuple[int, int], ...] = SIZES) -> list[dict]:
    """The table: median time of a step and peak memory of three steps, for each size."""
    table = []
    for genes, cells in sizes:
        size = f"{genes} genes x {cells} cells"
        timed = measure.in_fresh_process(__file__, "time", genes, cells, repeats)
        memory = {name: measure.in_fresh_process(__file__, name, genes, cells, 3) for name in ("ours", "peer")}
        goal = TIME_GOALS.get(genes)
        table += [
            measure.row(WORK, size, "time", "s", timed["ours"], PEER, timed["peer"], timed["ratio"], goal),
            measure.row(
                WORK, size, "peak memory", "MB", memory["ours"], PEER, memory["peer"], memory["peer"] / memory["ours"]
            ),
        ]
    return table


def experiment(genes: int):
    """Cells with 80 % zeros; the first genes are the targets."""
    import anndata
    import pandas as pd
    from scipy import sparse

    names = [f"G{i}" for i in range(genes)]
    labels = np.repeat(["control", *names[:PERTURBATIONS]], CELLS_EACH)
    generator = np.random.default_rng(SEED)
    counts = generator.poisson(generator.gamma(0.3, 1.0, (len(labels), genes)))
    obs = pd.DataFrame(
        {"perturbation": labels, "direction": "down", "batch": "1", "cell_type": "T", "half": "input"},
        index=[f"cell{i}" for i in range(len(labels))],
    )
    X = sparse.csr_matrix(np.log1p(2 * counts).astype(np.float32))
    return anndata.AnnData(X, obs=obs, var=pd.DataFrame(index=names))


def pairs_of(genes: int, cells: int, unmeasured: bool = False, most_genes: int = 1536):
    """The training pairs, as batches of ``cells``; the first target enters as ``unmeasured`` if asked."""
    from scgpt_bench.data.conditions import ALL_CONTEXTS, Condition
    from scgpt_bench.scgpt import recipe, vocabulary
    from scgpt_bench.scgpt.encoding import Encoding, Targets
    from scgpt_bench.scgpt.pairs import Pairs
    from scgpt_bench.scgpt.training_set import TrainingSet

    cells_of_all = experiment(genes)
    names = list(cells_of_all.var_names[:PERTURBATIONS])
    targets = {"control": Targets(), **{name: Targets((column,)) for column, name in enumerate(names)}}
    if unmeasured:
        targets[names[0]] = Targets(added=(genes,))
    encoding = Encoding(np.arange(genes), vocabulary.human_vocabulary()["<pad>"], targets)
    options = recipe.Recipe(batch_size=cells, pretrained=[], max_seq_len=most_genes)
    training = [Condition(name, ALL_CONTEXTS) for name in names]
    return Pairs(TrainingSet(cells_of_all, encoding, training, []), options, SEED)


def our_step(pairs, arguments=ARGUMENTS, **machine: Any) -> Callable[[], float]:
    """The steps of ``finetuning.finetune``, one a call, without the validation and the saving between epochs.

    ``machine`` are fields of :class:`scgpt_bench.scgpt.training.Machine`.
    """
    import torch

    from scgpt_bench.scgpt import checkpoint, finetuning, training, vocabulary

    weights = checkpoint.Checkpoint(Path("random"), arguments, vocabulary.human_vocabulary(), {})
    generator, _ = finetuning.start(weights, pairs.encoding.tokens_in_use, pairs.options, SEED)
    task = training.Task(
        model=generator,
        optimizer=torch.optim.Adam((p for p in generator.parameters() if p.requires_grad), lr=RATE, fused=True),
        epochs=1,
        batches=pairs.batches,
        batch=lambda epoch, index, *share: pairs.batch(epoch, index % pairs.batches, *share),
        loss=finetuning.loss,
        learning_rate=training.step_decay(RATE, 0.9),
        validate=lambda model: {},
    )
    return steps_of(task, **machine)


def steps_of(task, **machine: Any) -> Callable[[], float]:
    """The steps of a training, one a call, by the training's own loop."""
    from scgpt_bench.scgpt import devices, training

    where = training.Machine(**{"accelerator": "cpu", **machine})
    fabric = where.fabric()
    model, optimizer = fabric.setup(task.model, task.optimizer)
    model.train()
    position = training.Position()
    precision = devices.training_precision(fabric.device, where.precision)

    def step() -> float:
        strict = training.deterministic(fabric.device, where.deterministic)
        with strict, devices.products_in(fabric.device, precision):
            batch = task.batch(position.epoch, position.batch, fabric.global_rank, fabric.world_size)
            loss, _, _ = training.step(task, fabric, model, optimizer, position, batch, SEED, CLIP, where.micro_batch)
        position.step, position.batch = position.step + 1, position.batch + 1
        return loss

    return step


def tutorial_step(pairs, device: str = "cpu", arguments=ARGUMENTS) -> Callable[[], float]:
    """The tutorial's training loop, one step a call; on a GPU in fp16 with its GradScaler."""
    import torch

    from scgpt_bench.scgpt import checkpoint, finetuning, recipe, vocabulary
    from scgpt_bench.scgpt.upstream import masked_mse_loss

    symbols, amp = vocabulary.human_vocabulary(), device == "cuda"
    model = flagged_prediction.upstream_model(arguments, symbols)
    weights = checkpoint.Checkpoint(Path("random"), arguments, symbols, {})
    start, _ = finetuning.start(weights, (), recipe.Recipe(pretrained=[], genes_in_use_only=False), SEED)
    model.load_state_dict(start.state_dict())
    del start
    model.to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    scaler = torch.amp.GradScaler(device, enabled=amp)
    n_genes, size, most = len(pairs.encoding.token_ids), pairs.options.batch_size, pairs.options.max_seq_len
    token_ids = torch.from_numpy(pairs.encoding.token_ids).to(device)
    batches = _again_and_again(
        torch.utils.data.DataLoader(_tutorial_pairs(pairs), batch_size=size, collate_fn=_collate, drop_last=True)
    )

    def step() -> float:
        x, target = (part.to(device) for part in next(batches))
        values, flags = x[:, 0].view(size, n_genes), x[:, 1].long().view(size, n_genes)
        sampled = torch.arange(n_genes, device=device)
        if n_genes > most:
            sampled = torch.randperm(n_genes, device=device)[:most]
            values, flags, target = values[:, sampled], flags[:, sampled], target[:, sampled]
        genes = token_ids[sampled].repeat(size, 1)
        padding = torch.zeros_like(values, dtype=torch.bool)
        with torch.autocast(device, torch.float16, enabled=amp):
            output = model(genes, values, flags, src_key_padding_mask=padding)["mlm_output"]
            loss = masked_mse_loss(output, target, torch.ones_like(values, dtype=torch.bool))
        model.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    return step


def _again_and_again(loader) -> Iterator:
    while True:
        yield from loader


def _tutorial_pairs(pairs) -> list:
    """The pairs of the first epoch in GEARS' form: x [genes x (value, flag)] and y [1 x genes] of each, all genes."""
    import torch

    whole, ready = copy.copy(pairs), []
    whole.options = pairs.options.model_copy(update={"max_seq_len": len(pairs.encoding.token_ids)})
    for index in range(pairs.batches):
        batch = whole.batch(0, index)
        for values, flags, truth in zip(batch["values"], batch["flags"], batch["truth"], strict=True):
            ready.append((torch.stack([values, flags.float()], dim=1), truth[None]))
    return ready


def _collate(pairs: list) -> list:
    import torch

    return [torch.cat(parts) for parts in zip(*pairs, strict=True)]


def _measured(what: str, genes: int, cells: int, repeats: int) -> dict | float:
    pairs = pairs_of(genes, cells)
    if what != "time":
        step = {"ours": our_step, "peer": tutorial_step}[what](pairs)
        for _ in range(repeats):
            step()
        return measure.peak_memory_mb()
    ours, peer = our_step(pairs), tutorial_step(pairs)
    losses = ours(), peer()
    if abs(losses[0] - losses[1]) > 1e-4 * losses[1]:
        raise SystemExit(f"not the same step: loss {losses[0]} here, {losses[1]} in the tutorial's loop")
    seconds = measure.alternating(ours, peer, ours, repeats=repeats)
    mean = (seconds[0] + seconds[2]) / 2
    return {"ours": mean, "peer": seconds[1], "ratio": seconds[1] / mean}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("time", "ours", "peer"))
    parser.add_argument("numbers", nargs=3, type=int, help="genes, cells, repeats")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    json.dump(_measured(arguments.what, *arguments.numbers), sys.stdout)
    print()


if __name__ == "__main__":
    main()
