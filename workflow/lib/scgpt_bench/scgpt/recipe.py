"""The recipe of fine-tuning: upstream's (Tutorial_Perturbation), its faults repaired and declared.

:data:`DEVIATIONS` lists where the defaults leave the published recipe, and with which option it comes back, if with
any; :func:`deviations` those of a run.
"""

from __future__ import annotations

from typing import Any

from scgpt_bench.options import ControlValues, Finetuning, Start

DEVIATIONS = {
    "keep_targets": "perturbed genes are always among the sampled genes; false: dropped at random, as published",
    "select": "weights are selected by validation Pearson delta; 'pearson': as published",
    "pair_within": "the control cell is of the same batch and cell type, where there is one; []: any, as published",
    "redraw_controls": "the control cell of a pair is drawn anew in every epoch; false: drawn once, as published",
    "control_pairs": "every pair has a perturbed cell; true: each control cell is paired with itself too, as published",
    "flag_direction": "activated genes have a flag of their own; false: one flag for perturbed genes, as published",
    "precision": "bf16 on GPUs that have it, else fp32, or as asked, without loss scaling; published: fp16 with it",
    "perturbations without a token": "are left out of training and validation; published: trained as flagged <pad>",
    "ties": "with value_input: bins, a value between equal edges of bins gets the middle bin; published: a random one",
    "unmeasured targets": "enter as tokens with value 0 and the flag, outside the loss; published: IndexError",
}


# The options that the published recipe has otherwise.
PUBLISHED = {
    "keep_targets": False,
    "select": "pearson",
    "pair_within": [],
    "redraw_controls": False,
    "control_pairs": True,
    "flag_direction": False,
}


class Recipe(Start, ControlValues, Finetuning):
    """How a model is fine-tuned, and from which weights."""

    genes_in_use_only: bool = True
    """Whether the gene embedding has rows for no other genes."""


def deviations(options: Recipe) -> dict[str, str]:
    """List those of :data:`DEVIATIONS` that are in force with these options."""
    chosen = options.model_dump()
    absent = {name for name, value in PUBLISHED.items() if chosen[name] == value}
    if options.value_input != "bins":
        absent.add("ties")
    return {name: text for name, text in DEVIATIONS.items() if name not in absent}


def published_options() -> dict[str, Any]:
    """Return the options of the published recipe, except for the weights that it starts from."""
    return Recipe().model_copy(update=PUBLISHED).model_dump(exclude={"pretrained", "genes_in_use_only"})
