"""A complete method: every test perturbation gets a share of the mean shift of those that are not tested."""

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
split = pd.read_csv(arguments.split, sep="\t", keep_default_na=False, dtype={"perturbation": str, "context": str})
trained = split[split["role"] != "test"]  # validation perturbations are for methods that have to stop a training

# A condition is a perturbation in a context: `all`, unless the data set declares several.
label, context, cell_type = (
    training.obs[name].astype(str).to_numpy() for name in ("perturbation", "context", "cell_type")
)
is_control = label == "control"
control_of = {
    (where, kind): training.X[is_control & (context == where) & (cell_type == kind)].mean(axis=0)
    for where, kind in {*zip(context[is_control], cell_type[is_control], strict=True)}
}
shifts = {}
for name, where in zip(trained["perturbation"], trained["context"], strict=True):
    # A condition is compared with control cells of its own context and cell types.
    own = (label == name) & (context == where)
    control = sum(control_of[where, kind] for kind in cell_type[own]) / own.sum()
    shifts.setdefault(where, []).append(np.asarray(training.X[own].mean(axis=0) - control).ravel())

# One row per test condition is a pseudo-bulk; several rows of one condition are predicted cells. controls.h5ad holds
# the control cells drawn for each test condition, and the mean that each is compared with.
controls = anndata.read_h5ad(arguments.controls)
tested, control_means = controls.uns["control_mean_of"], controls.varm["control_mean"].T
nothing = [np.zeros(training.n_vars)]  # in a context without training perturbations
shift = np.stack([np.mean(shifts.get(where, nothing), axis=0) for where in tested["context"]])
anndata.AnnData(control_means + share * shift, obs=tested, var=training.var[[]]).write_h5ad(arguments.output)
