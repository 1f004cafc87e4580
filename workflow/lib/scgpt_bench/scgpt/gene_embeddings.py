"""Gene vectors of a checkpoint, for methods that learn from them."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd

from scgpt_bench.data.gene_vectors import perturbed_genes
from scgpt_bench.files import sha256
from scgpt_bench.scgpt import checkpoint, vocabulary


def gene_embeddings(cells: anndata.AnnData, checkpoint_folder: str | Path, alignment: pd.DataFrame) -> anndata.AnnData:
    """Read the checkpoint's embeddings [genes x width] of the measured genes and of targets that were not measured.

    Genes outside the vocabulary are left out: the vector of ``<pad>`` says nothing about them.

    Parameters
    ----------
    alignment
        The measured genes: ``vocabulary/<checkpoint>.tsv``.
    """
    weights = checkpoint.read(checkpoint_folder, ["encoder"])
    targets = set(perturbed_genes(cells.obs))
    not_measured = vocabulary.align(sorted(targets - set(cells.var_names)), weights.vocabulary)
    known = pd.concat([alignment, not_measured])
    known = known[known["status"] != "padded"]
    tokens = known["token_id"].to_numpy(dtype=np.int64)  # a table without rows has no type: every target is measured
    vectors = weights.tensors["encoder.embedding.weight"][tokens].numpy()
    embeddings = anndata.AnnData(vectors, obs=pd.DataFrame(index=known["gene"].to_numpy(dtype=str)))
    embeddings.uns["source"], embeddings.uns["name"] = "checkpoint", weights.folder.name
    embeddings.uns["sha256"] = sha256(checkpoint.weights_file(weights.folder))
    embeddings.uns["checkpoint_pretrained"] = weights.pretrained
    return embeddings
