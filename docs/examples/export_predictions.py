"""How the predictions of a model that ran elsewhere become a file to import. Needs numpy, pandas and anndata."""

import anndata
import numpy as np
import pandas as pd


def export_gears(predicted, genes, path, context=None):
    """Write what ``GEARS.predict`` returns: a dictionary from ``A`` or ``A_B`` to the mean of each gene.

    ``genes`` are ``pert_data.adata.var["gene_name"]``. In the configuration: ``combination_separator: _``. Where the
    data set has several contexts, ``context`` is that of this model; join the files of all (``anndata.concat``).
    """
    export_cells(np.stack(list(predicted.values())), list(predicted), genes, path, context)


def export_cells(X, perturbations, genes, path, context=None):
    """Write predicted cells, or one mean per perturbation, of any model.

    ``X`` [rows x genes] is log1p of counts scaled as in cells.h5ad; ``perturbations`` names the row's perturbation
    and, where the data set has several, ``context`` its context (or the one of all rows).
    """
    obs = pd.DataFrame({"perturbation": list(perturbations)}, index=[str(row) for row in range(len(X))])
    if context is not None:
        obs["context"] = context
    anndata.AnnData(np.asarray(X, dtype=np.float32), obs=obs, var=pd.DataFrame(index=list(genes))).write_h5ad(path)
