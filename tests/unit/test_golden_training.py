"""A tiny training gives the numbers recorded for its recipe version: a change of them needs another version.

Run as a script, this file records the numbers of a new version in golden_training.json.
"""

import json
import tempfile
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from predicted import with_rows
from scgpt_bench.scgpt import checkpoint, finetuned_model, finetuning, prediction, pretraining, recipe, training
from scgpt_bench.scgpt import recipe_version as versions
from scgpt_bench.scgpt.vocabulary import align

RECORD = Path(__file__).with_name("golden_training.json")
GENES = [f"GENE{number}" for number in range(30)]
MEASURED = GENES[:28]
SIZES = {"embsize": 16, "nlayers": 2, "nheads": 2, "d_hid": 16}
MACHINE = training.Machine(accelerator="cpu")
PERTURBATIONS = {"GENE1": "train", "GENE2": "train", "GENE3+GENE4": "train", "GENE29": "train", "GENE5": "validation",
                 "GENE6": "test"}  # fmt: skip
SPLIT = pd.DataFrame({"perturbation": list(PERTURBATIONS), "context": "all", "role": list(PERTURBATIONS.values())})
# PyTorch's and MKL's code for other processors (AVX-512, AVX2, SSE) moved no number by more than 7e-5 of its size;
# another order of pairs, decay of the learning rate or term of the loss moves some by more than 1e-2.
TOLERANCE = {"rel": 1e-3, "abs": 1e-4}


def counts(n_cells):
    """[cells x genes] counts; the genes of each of four modules rise and fall together."""
    generator = np.random.default_rng(0)
    activity = np.repeat(generator.normal(size=(n_cells, 4)), 8, axis=1)[:, : len(GENES)]
    return generator.poisson(np.exp(0.5 + activity / 2)).astype(np.float32)


def experiment():
    """Control cells and cells whose last genes rise, of two batches and two cell types; one gene is activated."""
    names = np.repeat(["control", *PERTURBATIONS], [40, *[12] * len(PERTURBATIONS)])
    values = np.log1p(counts(len(names))[:, : len(MEASURED)])
    values[names != "control", 20:] += 1
    number = np.arange(len(names))
    direction = np.where(names == "GENE2", "up", "down")
    obs = {
        "perturbation": names,
        "direction": direction,
        "context": "all",
        "batch": number % 2,
        "cell_type": number // 2 % 2,
        "half": "input",
    }
    obs = pd.DataFrame(obs, index=[f"cell{row}" for row in number]).astype(str)
    return anndata.AnnData(sp.csr_matrix(values), obs=obs, var=pd.DataFrame(index=MEASURED))


def history(folder, columns):
    table = pd.read_table(folder / training.HISTORY)
    return {column: table[column].tolist() for column in columns}


def sizes(tensors):
    """The mean absolute value of each tensor."""
    return {name: float(tensor.float().abs().mean()) for name, tensor in tensors.items() if tensor.is_floating_point()}


def pretrain(folder):
    options = pretraining.PretrainingOptions(
        **SIZES, dropout=0.1, learning_rate=5e-3, warm_up=4, epochs=3, batch_size=16, second_pass_after=12,
        held_out=0.2, max_seq_len=24,
    )  # fmt: skip
    source = pretraining.MatrixSource(sp.csr_matrix(counts(120)))
    report = pretraining.pretrain(source, GENES, folder, options, 1, MACHINE)
    losses = {name: value for name, value in report.items() if name.endswith("_loss")}
    return history(folder, ["loss", "held_out_loss"]) | losses | sizes(checkpoint.read_tensors(folder))


def finetune(folder):
    tokens = {name: position for position, name in enumerate([*GENES, "<pad>", "<cls>", "<eoc>"])}
    weights, model = folder / "checkpoint", folder / "model"
    checkpoint.initialize(weights, SIZES, tokens, seed=1)
    cells, alignment = experiment(), align(MEASURED, tokens)
    options = recipe.Recipe(learning_rate=3e-3, batch_size=8, epochs=3, dropout=0.1, max_seq_len=20, validation_cells=8)
    finetuning.finetune(cells, SPLIT, alignment, weights, options, 1, model, MACHINE)
    tensors = torch.load(model / finetuned_model.MODEL, weights_only=True)
    controls = cells[:6].copy()
    controls.obs["perturbation"], controls.obs["weight"] = np.repeat(["GENE3+GENE4", "GENE6", "GENE29"], 2), 1.0
    controls.obs["direction"] = np.repeat(["down", "up", "down"], 2)
    cells, rows, _ = with_rows(prediction.finetuned, controls, alignment, weights, model)
    predicted = cells[rows.index.get_indexer(controls.obs_names)]  # conditions are written in their order
    columns = ["loss", "pearson", "pearson_delta", "validation_mse"]
    return history(model, columns) | sizes(tensors) | {"prediction": predicted[:, ::7].ravel().tolist()}


TRAININGS = {"PRETRAINING": pretrain, "FINETUNING": finetune}


@pytest.mark.parametrize("name", TRAININGS)
def test_the_numbers_of_a_training_are_those_of_its_version(name, tmp_path):
    recorded = json.loads(RECORD.read_text())[name]
    command = "PYTHONPATH=workflow/lib:tests .venv/bin/python tests/unit/test_golden_training.py"
    version = getattr(versions, name)
    assert version == recorded["version"], f"{name} is a new version: record its numbers with `{command}`"
    found = TRAININGS[name](tmp_path)
    numbers = recorded["numbers"]
    changed = [key for key in {**found, **numbers} if not same(found.get(key), numbers.get(key))]
    assert not changed, (
        f"{name} leads to other numbers ({', '.join(changed)}). If that is not meant, it is a fault. If it is, raise "
        f"{name} in workflow/lib/scgpt_bench/scgpt/recipe_version.py, so that trainings run again, and record the "
        f"numbers of the new version with `{command}`."
    )


def same(one, other):
    return None not in (one, other) and np.size(one) == np.size(other) and one == pytest.approx(other, **TOLERANCE)


def record():
    """Write the numbers of new versions, and leave those of versions that have some."""
    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for name, run in TRAININGS.items():
        version = getattr(versions, name)
        if recorded.get(name, {}).get("version") == version:
            continue
        with tempfile.TemporaryDirectory() as folder:
            numbers = {key: np.round(value, 6).tolist() for key, value in run(Path(folder)).items()}
        recorded[name] = {"version": version, "numbers": numbers}
    RECORD.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    record()
