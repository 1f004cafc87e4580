"""The model that is pretrained: scGPT's transformer over known and unknown genes, and how it is loaded.

Known token = LN(gene embedding) + value embedding; unknown token = LN(gene embedding) + flag embedding, no value.
Known genes attend to known genes, an unknown gene to all known genes and itself (:mod:`attention`). After Cui et
al. 2024 and upstream's branch ``integrate-huggingface-model``; :mod:`pretraining` says where the two differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scgpt_bench.scgpt import checkpoint
from scgpt_bench.scgpt.attention import Cells, attend, attend_to_known_and_self
from scgpt_bench.scgpt.checkpoint_folder import SIZES
from scgpt_bench.scgpt.linear import linear, projections, through
from scgpt_bench.scgpt.transformer import heads_of, residual
from scgpt_bench.scgpt.upstream import ContinuousValueEncoder, ExprDecoder, GeneEncoder, MVCDecoder

UNKNOWN = 1  # row of flag_encoder that marks an unknown gene
MODULES = ("encoder", "flag_encoder", "value_encoder", "transformer_encoder", "decoder", "mvc_decoder")
Memory = list[tuple[Tensor, Tensor, Cells]]  # keys and values of the known genes, per layer


class _Attention(nn.Module):
    """Projections of one attention layer in flash-attn 1's naming, the layout of the published checkpoints."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.Wqkv = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)


class _Layer(nn.Module):
    """Post-norm ReLU transformer layer that runs on the known genes, or on unknown genes over the known ones."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.self_attn = _Attention(width, heads)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, cells: Cells, memory: tuple[Tensor, Tensor, Cells] | None = None):
        """[tokens x width] -> the same, and the keys and values [tokens x heads x width / heads] of these tokens."""
        qkv, out = self.self_attn.Wqkv, self.self_attn.out_proj
        query, key, value = heads_of(projections(x, qkv.weight, qkv.bias), self.self_attn.heads)
        if memory is None:
            attended = attend(query, key, value, cells)
        else:
            known_key, known_value, known_cells = memory
            attended = attend_to_known_and_self(query, key, value, known_key, known_value, cells, known_cells)
        x = self.norm1(residual(x, attended.flatten(1), out, self.dropout))
        hidden = self.dropout(linear(x, self.linear1.weight, self.linear1.bias, relu=True))
        return self.norm2(residual(x, hidden, self.linear2, self.dropout)), (key, value)


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

    def known(self, genes: Tensor, values: Tensor, cells: Cells, cell: Tensor | None = None) -> tuple[Tensor, Memory]:
        """Encode the known genes of several cells, one cell after the other, ``<cls>`` first in each.

        Parameters
        ----------
        genes, values
            (n_known,) token ids and value bins.
        cells
            Known genes of each cell, ``<cls>`` included.
        cell
            (n_cells, width) to stand at the positions of ``<cls>`` instead of its token.

        Returns
        -------
        Hidden states (n_known, width), and what unknown genes attend to: keys and values of the known ones.
        """
        x = self.encoder(genes) + self._values(values)
        if cell is not None:
            x = x.index_copy(0, cells.first_tokens(x.device), cell.to(x.dtype))
        memory = []
        for layer in self.transformer_encoder["layers"]:
            x, (key, value) = layer(x, cells)
            if not torch.is_grad_enabled():  # they are views that keep the queries alive, which a gradient needs anyway
                key, value = key.clone(), value.clone()
            memory.append((key, value, cells))
        return x, memory

    def cell_embeddings(self, hidden: Tensor, cells: Cells) -> Tensor:
        """Take the hidden states (n_cells, width) of ``<cls>`` from those of :meth:`known`."""
        return hidden.index_select(0, cells.first_tokens(hidden.device))

    def unknown(self, genes: Tensor, cells: Cells, memory: Memory) -> Tensor:
        """Predict value bins (n_unknown,) of the unknown genes of several cells, given what is known of each.

        Parameters
        ----------
        genes
            (n_unknown, width) embeddings, of :attr:`encoder`.
        """
        x = genes + self.flag_encoder.weight[UNKNOWN]
        for layer, known in zip(self.transformer_encoder["layers"], memory, strict=True):
            x, _ = layer(x, cells, known)
        return through(self.decoder.fc, x).squeeze(-1)

    def from_cell(self, cell: Tensor, genes: Tensor, cells: Cells) -> Tensor:
        """Predict value bins (n_unknown,) from the cell embedding (n_cells, width) and gene identity alone.

        Upstream's inner product (``MVCDecoder``), over packed genes (n_unknown, width).
        """
        query, weight = self.mvc_decoder.gene2query, self.mvc_decoder.W
        queries = linear(self.mvc_decoder.query_activation(linear(genes, query.weight, query.bias)), weight.weight)
        return (queries * cell.index_select(0, cells.cell_of_token(cell.device))).sum(-1)

    def _values(self, values: Tensor) -> Tensor:
        """Encode value bins (n_tokens,) as upstream's ``ContinuousValueEncoder``: (n_tokens, width)."""
        encoder = self.value_encoder
        first, second = encoder.linear1, encoder.linear2
        hidden = functional.relu(first(values.unsqueeze(-1).clamp(max=encoder.max_value)))
        return encoder.dropout(encoder.norm(linear(hidden, second.weight, second.bias)))

    def forward(self, batch: Mapping[str, Any], second_pass: bool = False) -> list[Tensor]:
        """Predict the unknown genes of all cells of ``batch`` (see :func:`pretraining.masked_batch`).

        Each (n_unknown,): from their tokens, from the cell embedding and, in a second pass, from their tokens again
        with the detached cell embedding at the position of ``<cls>``.
        """
        known, unknown = batch["known"], batch["unknown"]
        prompt = known.pack(batch["known_genes"]), known.pack(batch["known_values"]), known.cells
        genes = self.encoder(unknown.pack(batch["unknown_genes"]))
        hidden, memory = self.known(*prompt)
        cell = self.cell_embeddings(hidden, known.cells)
        predictions = [self.unknown(genes, unknown.cells, memory), self.from_cell(cell, genes, unknown.cells)]
        if second_pass:
            _, memory = self.known(*prompt, cell=cell.detach())
            predictions.append(self.unknown(genes, unknown.cells, memory))
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
