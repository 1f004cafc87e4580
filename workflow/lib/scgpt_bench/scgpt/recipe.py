"""The recipe of fine-tuning: upstream's (Tutorial_Perturbation), its faults repaired and declared.

:data:`DEVIATIONS` lists where the defaults leave the published recipe, and with which option it comes back, if with
any; :func:`deviations` those of a run.
"""

from __future__ import annotations

from dataclasses import dataclass

from scgpt_bench.scgpt.checkpoint import PRETRAINED_PREFIXES, ValueInput

DEVIATIONS = {
    "keep_targets": "perturbed genes are always among the sampled genes; false: dropped at random, as published",
    "select": "weights are selected by validation Pearson delta; 'pearson': as published",
    "pair_within": "the control cell is of the same batch and cell type, where there is one; []: any, as published",
    "redraw_controls": "the control cell of a pair is drawn anew in every epoch; false: drawn once, as published",
    "control_pairs": "every pair has a perturbed cell; true: each control cell is paired with itself too, as published",
    "flag_direction": "activated genes have a flag of their own; false: one flag for perturbed genes, as published",
    "precision": "bf16 without loss scaling on GPUs that have it, fp32 elsewhere; published: fp16 with loss scaling",
    "perturbations without a token": "are left out of training and validation; published: trained as flagged <pad>",
    "unmeasured targets": "enter as tokens with value 0 and the flag, outside the loss; published: IndexError",
}


@dataclass(frozen=True)
class Options:
    """The published values, except for the deviations listed above."""

    learning_rate: float = 1e-4
    gamma: float = 0.9
    clip_norm: float = 1.0
    batch_size: int = 64
    epochs: int = 15
    patience: int | None = 10
    dropout: float = 0.0
    max_seq_len: int = 1536
    keep_targets: bool = True
    select: str = "pearson_delta"
    pair_within: tuple[str, ...] = ("batch", "cell_type")
    redraw_controls: bool = True
    control_pairs: bool = False
    flag_direction: bool = True
    value_input: ValueInput = "log1p"
    pretrained: tuple[str, ...] = PRETRAINED_PREFIXES  # () starts from random weights
    freeze: tuple[str, ...] = ()
    genes_in_use_only: bool = True
    validation_cells: int = 64


def deviations(options: Options) -> dict[str, str]:
    """List those of :data:`DEVIATIONS` that are in force with these options."""
    published = {
        "keep_targets": not options.keep_targets,
        "select": options.select == "pearson",
        "pair_within": not options.pair_within,
        "redraw_controls": not options.redraw_controls,
        "control_pairs": options.control_pairs,
        "flag_direction": not options.flag_direction,
    }
    return {name: text for name, text in DEVIATIONS.items() if not published.get(name)}
