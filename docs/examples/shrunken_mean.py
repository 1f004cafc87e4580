"""A complete method: every test perturbation gets a share of the mean shift of the training perturbations."""

import argparse
import json

import anndata
import numpy as np
import pandas as pd

parser = argparse.ArgumentParser(description=__doc__)
for name in ("training", "split", "controls", "options", "seed", "output"):
    parser.add_argument(f"--{name}", required=True)
arguments = parser.parse_args()
share = json.loads(arguments.options)["share"]

# training.h5ad holds control cells and those of training and validation perturbations. No test cell is in it.
training = anndata.read_h5ad(arguments.training)
split = pd.read_csv(arguments.split, sep="\t", keep_default_na=False)
trained, tested = (sorted(split.loc[split["role"] == role, "perturbation"]) for role in ("train", "test"))

label, cell_type = (training.obs[name].astype(str).to_numpy() for name in ("perturbation", "cell_type"))
control_of = {name: training.X[(label == "control") & (cell_type == name)].mean(axis=0) for name in set(cell_type)}
shifts = []
for name in trained:
    # A perturbation is compared with control cells of its own cell types.
    control = sum(control_of[own] for own in cell_type[label == name]) / (label == name).sum()
    shifts.append(np.asarray(training.X[label == name].mean(axis=0) - control).ravel())
shift = np.mean(shifts, axis=0)

# One row per test perturbation is a pseudo-bulk; several rows of one perturbation are predicted cells. controls.h5ad
# holds the control cells drawn for each test perturbation, and the mean that each is compared with.
controls = anndata.read_h5ad(arguments.controls)
control_mean = dict(zip(controls.uns["control_mean_of"], controls.varm["control_mean"].T, strict=True))
predicted = np.stack([control_mean[name] + share * shift for name in tested])
obs = pd.DataFrame({"perturbation": tested}, index=tested)
anndata.AnnData(predicted, obs=obs, var=training.var[[]]).write_h5ad(arguments.output)
