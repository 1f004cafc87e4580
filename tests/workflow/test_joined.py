"""Drops that are rows of the table are fetched, harmonized with all their genes, and joined."""

import anndata
import yaml

from scgpt_bench.data import planted

ROW = {"sha256": "unknown", "format": "h5ad", "values": "counts", "target_sum": "400", "batch_column": "batch"}
ROW |= {"perturbation_column": "perturbation", "control_label": "control", "perturbation_kind": "interference"}
SCREEN = {"modules": 4, "genes_per_module": 6, "targets_per_module": 3, "cells_per_perturbation": 12, "combinations": 0}
SCREEN |= {"control_cells": 60, "atlas_cells": 20, "atlas_states": 2}


def test_a_study_of_a_joined_data_set_makes_it_of_its_parts(checkout):
    cells = planted.generate(SCREEN).cells
    cells[::2].write_h5ad(checkout.path / "a.h5ad")
    cells[1::2, 2:].write_h5ad(checkout.path / "b.h5ad")
    rows = [{"name": name, "address": f"{name}.h5ad", **ROW} for name in ("a", "b")]
    rows += [{"name": "both", "address": "joined:a,b", "format": "joined", "target_sum": "400"}]
    columns = ["name", "address", *ROW]
    table = [columns, *([row.get(column, "") for column in columns] for row in rows)]
    checkout.write("drops.tsv", "".join("\t".join(line) + "\n" for line in table))
    study = {"study": "joined", "dataset_table": "drops.tsv", "datasets": ["both"], "methods": {"train-mean": {}}}
    study |= {"harmonize": {"maximum_genes": 12, "minimum_cells": 5}}
    study |= {"splits": {"run": [], "contexts": {"hold_out": "all"}}}
    checkout.write("study.yaml", yaml.safe_dump(study))
    checkout.snakemake("results/joined/both/cells.h5ad", "--configfile", "study.yaml")
    parts = {name: anndata.read_h5ad(checkout.path / f"results/joined/parts/{name}/cells.h5ad") for name in ("a", "b")}
    assert [own.n_vars for own in parts.values()] == [cells.n_vars, cells.n_vars - 2]
    both = anndata.read_h5ad(checkout.path / "results/joined/both/cells.h5ad")
    assert both.n_obs == sum(own.n_obs for own in parts.values())
    assert both.n_vars < cells.n_vars - 2
