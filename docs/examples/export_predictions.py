"""How the predictions of a model that ran elsewhere become a file to import. Needs numpy, pandas and anndata."""

import anndata
import numpy as np
import pandas as pd


def export_gears(predicted, genes, path):
    """Write what ``GEARS.predict`` returns: a dictionary from ``A`` or ``A_B`` to the mean of each gene.

    ``genes`` are ``pert_data.adata.var["gene_name"]``. In the configuration: ``combination_separator: _``.
    """
    export_cells(np.stack(list(predicted.values())), list(predicted), genes, path)


def export_cells(X, perturbations, genes, path):
    """Write predicted cells, or one mean per perturbation, of any model.

    ``X`` [rows x genes] is log1p of counts scaled as in cells.h5ad; ``perturbations`` names the row's perturbation.
    """
    obs = pd.DataFrame({"perturbation": list(perturbations)}, index=[str(row) for row in range(len(X))])
    anndata.AnnData(np.asarray(X, dtype=np.float32), obs=obs, var=pd.DataFrame(index=list(genes))).write_h5ad(path)
