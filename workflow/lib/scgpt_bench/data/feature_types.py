"""Which features of a file are genes: guides, antibodies, peaks and spike-ins stand among them in many."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from scgpt_bench.errors import InputError

COLUMNS = ("feature_types", "feature_type", "feature_biotype", "modality")  # of var, as others than 10x spell it too
_GENES = {"gene expression", "gene", "genes", "gex", "rna", "mrna"}
_OTHERS = {"crispr guide capture", "antibody capture", "antigen capture", "multiplexing capture", "custom", "peaks"}
_OTHERS |= {"chromatin accessibility", "cut sites", "guide", "grna", "sgrna", "crispr", "adt", "hto", "protein"}
_OTHERS |= {"atac", "spike-in", "abseq", "antibody"}


def gene_expression(var: pd.DataFrame, source: str | Path, repairs: list[str]) -> np.ndarray:
    """Mask [features] of those that are genes: all of them where no column of ``var`` says what they are.

    A column of one of the names in :data:`COLUMNS` counts if it holds a word for genes, or only words for other
    features; one that holds something else (biotypes, such as protein_coding) does not. ``repairs`` grows by a sentence
    on what is left out.

    Raises
    ------
    InputError
        If no feature is a gene, or a feature among typed ones has no type.
    """
    genes = np.ones(len(var), dtype=bool)
    for column in COLUMNS:
        if column not in var:
            continue
        kinds = var[column].astype(object).where(var[column].notna(), "").astype(str).str.strip()
        words = kinds.str.casefold()
        if not words.isin(_GENES).any() and not (len(words) and words.isin(_OTHERS).all()):
            continue
        untyped = (words == "").to_numpy()
        if untyped.any():
            where = f"var[{column!r}] of {var.index[untyped.argmax()]!r}"
            raise InputError(source, where, f"no value ({untyped.sum()} such features)", "the type of every feature")
        genes &= words.isin(_GENES).to_numpy()
        left_out = kinds[~words.isin(_GENES)].value_counts()
        if not genes.any():
            found = ", ".join(f"{kind} ({number})" for kind, number in left_out.items())
            raise InputError(source, f"var[{column!r}]", f"only {found}", "features of type 'Gene Expression'")
        if len(left_out):
            shown = ", ".join(f"{number} {kind}" for kind, number in left_out.items())
            repairs.append(f"{left_out.sum()} features that are no genes left out ({column}): {shown}")
    return genes
