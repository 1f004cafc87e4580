"""The model that is pretrained: scGPT's transformer over known and unknown genes, and how it is loaded.

Known token = LN(gene embedding) + value embedding; unknown token = LN(gene embedding) + flag embedding, no value.
Known genes attend to known genes, an unknown gene to all known genes and itself (:mod:`masked_attention`). After Cui et
al. 2024 and upstream's branch ``integrate-huggingface-model``; :mod:`pretraining` says where the two differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from scgpt_bench.scgpt import checkpoint
from scgpt_bench.scgpt.checkpoint_folder import SIZES
from scgpt_bench.scgpt.masked_attention import attend_to_known, attend_to_known_and_self
from scgpt_bench.scgpt.upstream import ContinuousValueEncoder, ExprDecoder, GeneEncoder, MVCDecoder

UNKNOWN = 1  # row of flag_encoder that marks an unknown gene
MODULES = ("encoder", "flag_encoder", "value_encoder", "transformer_encoder", "decoder", "mvc_decoder")
Memory = list[tuple[Tensor, Tensor]]  # keys and values of the known genes, per layer


class _Attention(nn.Module):
    """Projections of one attention layer in flash-attn 1's naming, the layout of the published checkpoints."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.Wqkv = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project (batch, length, width) to query, key and value, each (batch, heads, length, width / heads)."""
        batch, length, width = x.shape
        qkv = self.Wqkv(x).view(batch, length, 3, self.heads, width // self.heads)
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)

    def merge(self, attended: Tensor) -> Tensor:
        return self.out_proj(attended.transpose(1, 2).flatten(2))  # (batch, length, width)


class _Layer(nn.Module):
    """Post-norm ReLU transformer layer that runs on the known genes, or on unknown genes over the known ones."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.self_attn = _Attention(width, heads)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, known: tuple[Tensor, Tensor] | None, padding: Tensor | None):
        query, key, value = self.self_attn.project(x)
        if known is None:
            attended = attend_to_known(query, key, value, padding)
        else:
            attended = attend_to_known_and_self(query, key, value, *known, padding)
        x = self.norm1(x + self.dropout(self.self_attn.merge(attended)))
        hidden = self.dropout(functional.relu(self.linear1(x)))
        return self.norm2(x + self.dropout(self.linear2(hidden))), (key, value)


class MaskedTransformer(nn.Module):
    """scGPT as it is pretrained; its state dict has the names and shapes of the published checkpoints (163 tensors).

    Parameters
    ----------
    n_tokens
        Rows of the gene embedding.
    pad_id
        The row of ``<pad>``.
    """

    def __init__(
        self, n_tokens: int, pad_id: int, embsize: int, nheads: int, d_hid: int, nlayers: int, dropout: float = 0.0
    ):
        super().__init__()
        self.encoder = GeneEncoder(n_tokens, embsize, padding_idx=pad_id)
        self.flag_encoder = nn.Embedding(2, embsize)
        self.value_encoder = ContinuousValueEncoder(embsize, dropout)
        layers = [_Layer(embsize, nheads, d_hid, dropout) for _ in range(nlayers)]
        self.transformer_encoder = nn.ModuleDict({"layers": nn.ModuleList(layers)})
        self.decoder = ExprDecoder(embsize)
        self.mvc_decoder = MVCDecoder(embsize)
        self.encoder.embedding.weight.data.uniform_(-0.1, 0.1)

    def known(
        self, genes: Tensor, values: Tensor, padding: Tensor | None = None, cell: Tensor | None = None
    ) -> tuple[Tensor, Memory]:
        """Encode the known genes, ``<cls>`` first.

        Parameters
        ----------
        genes, values
            (batch, 1 + n_known) token ids and value bins.
        padding
            (batch, 1 + n_known) bool, True where there is no gene.
        cell
            (batch, width) to stand at the position of ``<cls>`` instead of its token.

        Returns
        -------
        Hidden states (batch, 1 + n_known, width), and the keys and values that unknown genes attend to.
        """
        x = self.encoder(genes) + self.value_encoder(values)
        if cell is not None:
            x = torch.cat([cell.unsqueeze(1).to(x.dtype), x[:, 1:]], dim=1)
        memory = []
        for layer in self.transformer_encoder["layers"]:
            x, (key, value) = layer(x, None, padding)
            if not torch.is_grad_enabled():  # they are views that keep the queries alive, which a gradient needs anyway
                key, value = key.clone(), value.clone()
            memory.append((key, value))
        return x, memory

    def unknown(self, genes: Tensor, memory: Memory, padding: Tensor | None = None) -> Tensor:
        """Predict value bins (batch, n_unknown) of unknown genes, given what is known."""
        flag = self.flag_encoder.weight[UNKNOWN]
        x = self.encoder(genes) + flag  # (batch, n_unknown, width)
        for layer, keys_and_values in zip(self.transformer_encoder["layers"], memory, strict=True):
            x, _ = layer(x, keys_and_values, padding)
        return self.decoder(x)["pred"]

    def from_cell(self, cell: Tensor, genes: Tensor) -> Tensor:
        """Predict value bins (batch, n_unknown) from the cell embedding (batch, width) and gene identity alone."""
        return self.mvc_decoder(cell, self.encoder(genes))["pred"]

    def forward(self, batch: Mapping[str, Tensor], second_pass: bool = False) -> list[Tensor]:
        """Predict (batch, n_unknown) the unknown genes of ``batch`` (see :func:`pretraining.masked_batch`).

        From their tokens, from the cell embedding and, in a second pass, from their tokens again with the detached
        cell embedding at the position of ``<cls>``.
        """
        known = batch["known_genes"], batch["known_values"], batch["padding"]
        hidden, memory = self.known(*known)
        cell = hidden[:, 0]
        predictions = [
            self.unknown(batch["unknown_genes"], memory, batch["padding"]),
            self.from_cell(cell, batch["unknown_genes"]),
        ]
        if second_pass:
            _, memory = self.known(*known, cell=cell.detach())
            predictions.append(self.unknown(batch["unknown_genes"], memory, batch["padding"]))
        return predictions


def load(folder: str | Path) -> tuple[MaskedTransformer, checkpoint.Checkpoint]:
    """Load the pretrained model of a checkpoint folder in scGPT's layout, in evaluation mode, with all its tensors.

    Raises
    ------
    InputError
        For a folder whose files do not agree, or that lacks one of the tensors.
    """
    weights = checkpoint.read(folder, MODULES)
    arguments, vocabulary = weights.arguments, weights.vocabulary
    with torch.device("meta"):
        sizes = {size: arguments[size] for size in SIZES}
        model = MaskedTransformer(len(vocabulary), vocabulary["<pad>"], **sizes)
    model.load_state_dict({name: weights.tensors[name] for name in model.state_dict()}, assign=True)
    return model.eval(), weights
