"""The forward pass of prediction: one model, one set of genes, one perturbation and a batch of cells at a time.

The same numbers as upstream's ``TransformerGenerator.pred_perturb`` with all genes. Upstream's other mode feeds the
genes that are non-zero anywhere in the batch, so a cell's result depends on its neighbours; here each cell's own
non-zero genes are fed instead, packed without padding.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from scgpt_bench.options import Precision
from scgpt_bench.scgpt import devices
from scgpt_bench.scgpt.attention import Cells, on_device
from scgpt_bench.scgpt.binning import bin_cells
from scgpt_bench.scgpt.encoding import Targets
from scgpt_bench.scgpt.linear import Projection
from scgpt_bench.scgpt.model import NOT_PERTURBED, PERTURBED, TransformerGenerator, check_tokens
from scgpt_bench.scgpt.transformer import CpuEncoder

log = logging.getLogger(__name__)

GenesFed = Literal["all", "nonzero"]

CPU_TOKENS, CUDA_TOKENS = 1280, 2**17  # per batch: more does not run faster, and a fixed number keeps the bytes fixed
_BUFFERS = 16  # arrays of [tokens x width] alive at once, at most


class Engine:
    """A model made ready for one set of genes: what all cells share is computed once."""

    @torch.inference_mode()
    def __init__(
        self, model: TransformerGenerator, token_ids: np.ndarray, genes_fed: GenesFed, n_bins: int | None = None,
        precision: Precision | None = None,
    ):  # fmt: skip
        self.model = model.eval()
        self.genes_fed, self.n_bins = genes_fed, n_bins
        self.most_cells: int | None = None  # less than what once ran out of memory
        self.device = model.pert_encoder.weight.device
        self.number_type = devices.number_type(self.device, precision)
        self.token_ids = token_ids
        self.flags = model.pert_encoder.weight
        exact = self.number_type == torch.float32
        self.fast = exact and self.device.type == "cpu" and torch.backends.mkldnn.is_available()
        self.encoder = CpuEncoder(model.transformer_encoder) if self.fast else model.transformer_encoder
        self.coefficient, self.bias = (
            _decoder(part, self.fast) for part in (model.decoder.coeff_decoder.fc, model.decoder.bias_decoder.fc)
        )
        with self._autocast():
            self.identity = self._identity(token_ids)
            # What an unexpressed gene without flag adds to its identity: the same in every cell, and most tokens do.
            self.unexpressed = model.value_encoder(torch.zeros(1, 1, device=self.device))[0] + self.flags[NOT_PERTURBED]
        self.first_projection = None
        if self.fast:
            self.first_projection = self.encoder.first_projection(self.identity + self.unexpressed)

    def _autocast(self):
        return torch.autocast(self.device.type, self.number_type, enabled=self.number_type != torch.float32)

    def _identity(self, token_ids: Sequence[int]) -> Tensor:
        check_tokens(self.model, token_ids)
        return self.model.encoder(torch.as_tensor(token_ids, dtype=torch.long, device=self.device))

    def cells_per_batch(self, n_tokens: int) -> int:
        """Count the cells that fill a fixed number of tokens, or fewer where memory is short."""
        most = CUDA_TOKENS if self.device.type == "cuda" else CPU_TOKENS
        return max(1, min(most, self._tokens_in_memory()) // n_tokens)

    def workers(self, n_tokens: int) -> int:
        """Count the batches to compute side by side: one per thread of torch, if memory allows; one on a GPU."""
        if not self.fast:
            return 1
        tokens = max(n_tokens, CPU_TOKENS)
        return max(1, min(torch.get_num_threads(), self._tokens_in_memory() // tokens))

    def _tokens_in_memory(self) -> int:
        """Count the tokens whose buffers fill half of the free memory."""
        if self.device.type == "cuda":
            # What PyTorch reserved and does not use is free to it: in a training, after a step, most of the memory.
            unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            free = torch.cuda.mem_get_info(self.device)[0] + unused
        else:
            free = psutil.virtual_memory().available
        return free // 2 // (_BUFFERS * self.identity.shape[1] * 4)

    def predict(self, cells: np.ndarray, targets: Targets, flag: int = PERTURBED) -> np.ndarray:
        """Predict [cells x genes]; ``flag`` is that of the targets. Halves of the cells when memory runs out."""
        if self.most_cells is None or len(cells) <= self.most_cells:
            try:
                return self._predict(cells, targets, flag)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if len(cells) == 1 or not _out_of_memory(error):
                    raise
                self.most_cells = len(cells) // 2
                log.warning("out of memory: going on with %d cells per batch", self.most_cells)
        half = len(cells) // 2
        return np.concatenate([self.predict(part, targets, flag) for part in (cells[:half], cells[half:])])

    @torch.inference_mode()
    def _predict(self, cells: np.ndarray, targets: Targets, flag: int) -> np.ndarray:
        n_cells, n_genes = cells.shape
        n_added = len(targets.added)
        added = np.zeros((n_cells, n_added), dtype=np.float32)
        values = np.hstack([cells, added])  # added tokens come last
        encoded = values if self.n_bins is None else np.hstack([bin_cells(cells, self.n_bins)[0], added])
        flagged = np.zeros(n_genes + n_added, dtype=bool)
        flagged[[*targets.columns, *range(n_genes, n_genes + n_added)]] = True
        fed = (values != 0) | flagged if self.genes_fed == "nonzero" else np.ones(values.shape, dtype=bool)
        result = np.zeros(values.shape, dtype=np.float32)
        if not fed.any():  # cells without an expressed gene, and no target
            return result[:, :n_genes]
        with self._autocast():
            predicted = self._forward(
                values[fed], encoded[fed], np.nonzero(fed)[1], flagged, flag, fed.sum(axis=1), targets.added
            )
        result[fed] = predicted.cpu().numpy()
        return result[:, :n_genes]

    def _forward(
        self, values: np.ndarray, encoded: np.ndarray, columns: np.ndarray, flagged: np.ndarray, flag: int,
        lengths: np.ndarray, added: Sequence[int],
    ) -> Tensor:  # fmt: skip
        """Predict [tokens] for the tokens of several cells, one cell after the other."""
        identity = torch.cat([self.identity, self._identity(added)]) if added else self.identity
        own = self._rows((values != 0) | flagged[columns])  # tokens that are not the same in every cell
        expressed = self._rows(values != 0)
        columns, flagged = (on_device(array, self.device) for array in (columns, flagged))
        values, encoded = (on_device(array, self.device) for array in (values, encoded))
        x = identity[columns].add_(self.unexpressed)  # tokens x width
        flags = torch.where(flagged[columns[own], None], self.flags[flag], self.flags[NOT_PERTURBED])
        x[own] = (identity[columns[own]] + self.model.value_encoder(encoded[own]) + flags).to(x.dtype)
        if self.first_projection is not None:
            hidden = self.encoder(x, Cells(lengths), lambda: self._first_projection(x, columns, own))
        else:
            hidden = self.encoder(x, Cells(lengths))
        with torch.autocast(self.device.type, enabled=False):  # in bf16, values between 1 and 2 have steps of 0.008
            hidden = hidden.float()
            predicted = self.bias(hidden)
            predicted[expressed] += self.coefficient(hidden[expressed]) * values[expressed]
        return predicted

    def _first_projection(self, x: Tensor, columns: Tensor, own: Tensor) -> Tensor:
        """Compute query, key and value [tokens x 3 width] of the first layer; only ``own`` tokens are not shared."""
        assert self.first_projection is not None
        last = len(self.first_projection) - 1  # added tokens lie beyond it, and are all their own
        qkv = self.first_projection.index_select(0, columns.clamp(max=last))
        qkv[own] = self.encoder.first_projection(x[own])
        return qkv

    def _rows(self, mask: np.ndarray) -> Tensor:
        return on_device(np.flatnonzero(mask), self.device)


def _decoder(layers: nn.Sequential, fast: bool):
    """Make half of upstream's AffineExprDecoder a function: hidden states [tokens x width] -> [tokens]."""
    if not fast:
        return lambda hidden: layers(hidden).squeeze(-1)
    first, second, last = (Projection(layers[i].weight, layers[i].bias) for i in (0, 2, 4))
    slope = layers[1].negative_slope

    def decode(hidden: Tensor) -> Tensor:
        rows = [
            last(second(first(block, "leaky_relu", slope), "leaky_relu", slope))
            for block in hidden.split(CpuEncoder.ROWS)
        ]
        return torch.cat(rows).squeeze(-1)

    return decode


def _out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out: PyTorch's allocator, the CPU's, CUDA and its libraries have their own messages."""
    messages = ("allocate memory", "out of memory", "_ALLOC_FAILED")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(text in str(error) for text in messages)
