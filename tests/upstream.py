"""Upstream's own model and prediction, untouched, as the reference of the parity tests."""

from types import SimpleNamespace

import numpy as np
import torch

from scgpt_bench.scgpt import checkpoint, model


def fill_at_random(built, seed=0):
    """Weights for a model of :func:`scgpt_bench.scgpt.model.build` without a checkpoint, norms and biases included."""
    model.draw_weights(built, seed)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, parameter in built.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return built


def upstream_model(arguments, vocabulary, weights):
    """scgpt 0.2.4's TransformerGenerator with these weights."""
    upstream = model.TransformerGenerator(
        len(vocabulary), arguments["embsize"], arguments["nheads"], arguments["d_hid"], arguments["nlayers"],
        arguments.get("n_layers_cls", 3), 1, vocabulary, dropout=0.0, pert_pad_id=0,
    )  # fmt: skip
    upstream.load_state_dict(weights)
    return upstream.eval()


def upstream_prediction(upstream, values, flags, token_ids):
    """scgpt 0.2.4's ``pred_perturb`` with all genes, in fp32: [cells x genes]."""
    x = torch.stack([torch.as_tensor(values).flatten(), torch.as_tensor(flags).float().flatten()], dim=1)
    batch = SimpleNamespace(x=x, pert=["any"] * len(values), to=lambda device: None)
    with torch.no_grad():
        return upstream.pred_perturb(batch, "all", np.asarray(token_ids), amp=False).numpy()


def random_checkpoint(folder, arguments, vocabulary, seed=0):
    """A written and read checkpoint whose norms and biases are random too."""
    checkpoint.initialize(folder, arguments, vocabulary, seed)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) if "norm" in name else tensor
        for name, tensor in checkpoint.read_tensors(folder).items()
    }
    checkpoint.write(folder, tensors, checkpoint.read_arguments(folder), vocabulary)
    return checkpoint.read(folder)
