"""The file of a fine-tuned model, written by fine-tuning and read by prediction."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from scgpt_bench import files
from scgpt_bench.scgpt import checkpoint, model, torch_files

if TYPE_CHECKING:
    from scgpt.model import TransformerGenerator

MODEL, REPORT = "model.pt", "report.json"


def save(generator: TransformerGenerator, folder: Path) -> None:
    """Write model.pt: the state dict, with the ids of the embedding rows as ``token_ids`` where they are a subset."""
    tensors = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    if isinstance(generator.encoder.embedding, model.GenesInUse):
        tensors["token_ids"] = generator.encoder.embedding.token_ids.clone()
    with files.atomic_write(folder / MODEL) as partial:
        torch.save(tensors, partial)


def load(folder: str | Path, weights: checkpoint.Checkpoint) -> TransformerGenerator:
    """Read the fine-tuned model of a folder, in evaluation mode; ``weights`` gives its sizes and vocabulary.

    Raises
    ------
    InputError
        If its file is damaged.
    """
    tensors = torch_files.read(Path(folder) / MODEL, "the weights of a fine-tuned model")
    generator = model.build(weights.arguments, weights.vocabulary)
    if "token_ids" in tensors:
        model.restrict_vocabulary(generator, tensors.pop("token_ids").tolist())
    generator.load_state_dict(tensors)
    return generator.eval()
