"""The model behind scGPT's perturbation prediction: upstream's ``TransformerGenerator`` with this package's attention.

Embeddings, value encoder, perturbation encoder and decoders are upstream's own, from the installed ``scgpt`` package.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scgpt_bench.errors import InputError
from scgpt_bench.scgpt import checkpoint as checkpoints
from scgpt_bench.scgpt.checkpoint import PRETRAINED_PREFIXES, Checkpoint
from scgpt_bench.scgpt.linear import linear, through
from scgpt_bench.scgpt.transformer import Encoder
from scgpt_bench.scgpt.upstream import TransformerGenerator
from scgpt_bench.scgpt.vocabulary import PAD
from scgpt_bench.seeding import stream_seed

PERTURBED = 1  # flag of a perturbed gene; of a lowered one, where raised ones have a flag of their own
RAISED = 2  # flag of an activated gene: the third row of upstream's embedding, which its own recipe never uses
NOT_PERTURBED = 0  # flag of every other gene; its embedding is fixed at 0, as in upstream's tutorial


class Generator(TransformerGenerator):
    """Upstream's model over packed tokens; its modules, names and sums are upstream's.

    What is the same in many tokens is computed once: the identity of a gene that all cells of a batch have, and the
    value of all genes that are not expressed. A value encoder may be given other values than those that the decoder
    multiplies; upstream's ``n_input_bins`` is meant for this, with bins over the sampled genes alone, but its integers
    fail (0.2.4).
    """

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        """Predict expression, float32 (n_cells, n_tokens), of a batch of :meth:`encoding.Encoding.inputs`; 0 for none.

        In autocast, what the two decoders give is combined in fp32: in bf16, values between 1 and 2 have steps of
        0.008.
        """
        present, expressed, flagged = batch["present"], batch["expressed"], batch["flagged"]
        device = self.pert_encoder.weight.device
        values, own = batch["values"].flatten(), expressed.positions(device)
        rows = present.rows_of(expressed, device)  # of the packed tokens: those of expressed genes
        encoded = values if "encoded" not in batch else batch["encoded"].flatten()
        x = present.pack(self._identities(batch["genes"], batch["added"])) + self._values(
            encoded[own], rows, sum(present.cells.lengths)
        )
        flags = self.pert_encoder(batch["flags"].flatten()[flagged.positions(device)])
        x = x.index_add(0, present.rows_of(flagged, device), flags.to(x.dtype))  # tokens x width
        hidden = self.transformer_encoder(x, present.cells)
        predicted = through(self.decoder.bias_decoder.fc, hidden).squeeze(-1).float()  # tokens
        coefficients = through(self.decoder.coeff_decoder.fc, hidden.index_select(0, rows)).squeeze(-1).float()
        return present.unpack(predicted.index_add(0, rows, coefficients * values[own]))

    def _identities(self, genes: Tensor, added: Tensor) -> Tensor:
        """Encode the genes (n_cells, n_genes), the same in all cells, and those that only some cells have.

        Returns
        -------
        (n_cells, n_genes + n_added, width), without copies of the genes where none is added.
        """
        n_cells, n_genes = genes.shape
        identities = self.encoder(torch.cat([genes[0], added.flatten()]))
        shared = identities[:n_genes].expand(n_cells, -1, -1)
        if not added.numel():
            return shared
        return torch.cat([shared, identities[n_genes:].unflatten(0, added.shape)], dim=1)

    def _values(self, expressed: Tensor, rows: Tensor, n_tokens: int) -> Tensor:
        """Encode values (n_expressed,) of the tokens ``rows``; all others are 0: (n_tokens, width)."""
        encoder = self.value_encoder
        values = torch.cat([expressed.new_zeros(1), expressed]).unsqueeze(-1).clamp(max=encoder.max_value)
        hidden = functional.relu(functional.linear(values, encoder.linear1.weight, encoder.linear1.bias))
        encoded = encoder.norm(linear(hidden, encoder.linear2.weight, encoder.linear2.bias))
        return encoder.dropout(encoded[:1].expand(n_tokens, -1).index_copy(0, rows, encoded[1:]))


def build(arguments: Mapping[str, Any], vocabulary: Mapping[str, int], dropout: float = 0.0) -> TransformerGenerator:
    """Build upstream's model with this package's attention; every weight is NaN until :func:`load` fills it.

    Parameters
    ----------
    arguments
        args.json of a checkpoint.
    vocabulary
        Token ids by symbol.
    dropout
        Of fine-tuning (upstream's tutorial has 0; args.json tells that of pretraining).
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="enable_nested_tensor is True")
        model = Generator(
            ntoken=len(vocabulary),
            d_model=arguments["embsize"],
            nhead=arguments["nheads"],
            d_hid=arguments["d_hid"],
            nlayers=arguments["nlayers"],
            nlayers_cls=3,  # never called, so args.json need not say
            n_cls=1,
            vocab=vocabulary,
            dropout=dropout,
            pad_token=PAD,
            pad_value=0,
            pert_pad_id=NOT_PERTURBED,
            use_fast_transformer=False,
        )
    model.transformer_encoder = Encoder(model.transformer_encoder)
    for parameter in model.parameters():
        parameter.data.fill_(torch.nan)
    return model.eval()


def load(
    model: TransformerGenerator, checkpoint: Checkpoint, prefixes: Iterable[str] = PRETRAINED_PREFIXES, seed: int = 0
) -> dict[str, Any]:
    """Fill a built model in place: modules ``prefixes`` from the checkpoint, everything else at random.

    What is random is drawn per module from the seed and the module's name: the same whatever else is loaded.

    Returns
    -------
    The load report of :func:`scgpt_bench.scgpt.checkpoint.load_report`.
    """
    prefixes = tuple(prefixes)
    draw_weights(model, seed)
    loaded, random = {}, {}
    for name, parameter in model.named_parameters():
        stored = name.replace("in_proj_", "Wqkv.")
        if not checkpoints.below(name, prefixes):
            random[name] = parameter
            continue
        tensor = checkpoint.tensors.get(stored)
        if tensor is None or tensor.shape != parameter.shape:
            found = "no such tensor" if tensor is None else f"shape {list(tensor.shape)}"
            raise InputError(checkpoint.folder, stored, found, f"shape {list(parameter.shape)}")
        parameter.data.copy_(tensor)
        loaded[stored] = tensor
    return checkpoints.load_report(checkpoint, loaded, random, seed)


def draw_weights(model: TransformerGenerator, seed: int) -> None:
    """Draw every weight as upstream does, each module from its own stream of ``seed``, in place."""
    with torch.random.fork_rng(devices=[]):
        for name, module in reversed(list(model.named_modules())):  # attention resets the bias of its child last
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if reset is not None:
                torch.manual_seed(stream_seed(seed, "weights", name))
                reset()
        torch.manual_seed(stream_seed(seed, "weights", "encoder.embedding"))
        model.init_weights()


class GenesInUse(nn.Embedding):
    """Rows of a gene embedding that a data set uses, addressed by the token ids of the whole vocabulary.

    The other rows have no gradient in training and are never read, so leaving them out changes no number: neither a
    prediction nor, with Adam without weight decay, an update.

    Parameters
    ----------
    whole
        The embedding of the whole vocabulary.
    token_ids
        Ids in use; ``<pad>`` is always among them.
    """

    def __init__(self, whole: nn.Embedding, token_ids: Sequence[int]):
        used = torch.tensor(sorted({*map(int, token_ids), whole.padding_idx}), device=whole.weight.device)
        rows = torch.full((whole.num_embeddings,), -1, device=used.device)
        rows[used] = torch.arange(len(used), device=used.device)
        super().__init__(
            len(used),
            whole.embedding_dim,
            padding_idx=int(rows[whole.padding_idx]),
            _weight=whole.weight.detach()[used].clone(),
        )
        self.in_use = frozenset(used.tolist())  # on the host: see check_tokens
        self.register_buffer("token_ids", used, persistent=False)
        self.register_buffer("row_of_token", rows, persistent=False)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Look up embeddings of ``token_ids`` (any shape), all in use: see :func:`check_tokens`."""
        return super().forward(self.row_of_token[token_ids])


def check_tokens(model: TransformerGenerator, token_ids: Sequence[int]) -> None:
    """Raise an IndexError for token ids without a row of the gene embedding, on the host.

    On a GPU the embedding itself would fail an assertion of the device, after which the process can do nothing more.
    """
    embedding = model.encoder.embedding
    known = embedding.in_use if isinstance(embedding, GenesInUse) else range(embedding.num_embeddings)
    foreign = sorted({int(token) for token in token_ids if int(token) not in known})
    if foreign:
        raise IndexError(f"token ids without a row of the gene embedding: {foreign[:5]}")


def restrict_vocabulary(model: TransformerGenerator, token_ids: Iterable[int]) -> None:
    """Keep only the embedding rows of ``token_ids`` (and ``<pad>``), in place; token ids keep their meaning."""
    model.encoder.embedding = GenesInUse(model.encoder.embedding, list(token_ids))
