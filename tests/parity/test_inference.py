"""The engine gives upstream's `pred_perturb`, whatever the batches and shards; every target is flagged or reported."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scgpt.preprocess import binning

from scgpt_bench.data.means import mean_cell
from scgpt_bench.scgpt import devices, inference, model
from scgpt_bench.scgpt import engine as engine_module
from scgpt_bench.scgpt.encoding import Encoding, Targets
from scgpt_bench.scgpt.vocabulary import align
from upstream import fill_at_random, upstream_model, upstream_prediction

ARGUMENTS = {"embsize": 32, "nlayers": 3, "nheads": 4, "d_hid": 40}
VOCABULARY = {**{f"G{i}": i for i in range(1000)}, "<pad>": 1000, "<cls>": 1001, "<eoc>": 1002}
# Where the engine computes, and how far predictions around 1 may be from those of upstream on the CPU. On a GPU it is
# half precision (bf16 on a CPU moved them by 3e-3); fp32 in these tests alone, to tell an error from rounding.
ENGINES = {"cpu": 1e-5, "cuda": 2e-2, "cuda in fp32": 1e-4}


@pytest.fixture(scope="module", params=[name for name in ENGINES if name == "cpu" or torch.cuda.is_available()])
def engine(request):
    with pytest.MonkeyPatch.context() as patch:
        if "fp32" in request.param:
            patch.setattr(devices, "number_type", lambda device, precision: torch.float32)
        yield request.param


@pytest.fixture(scope="module")
def tolerance(engine):
    return ENGINES[engine]


@pytest.fixture(scope="module")
def ours(engine):
    return fill_at_random(model.build(ARGUMENTS, VOCABULARY)).eval().to(engine.split()[0])


@pytest.fixture(scope="module")
def upstream(ours):
    return upstream_model(ARGUMENTS, VOCABULARY, ours.state_dict())


def sparse_cells(cells, genes, seed=0):
    generator = np.random.default_rng(seed)
    values = np.log1p(generator.poisson(0.6, (cells, genes)) * generator.uniform(1, 3, (cells, 1)))
    return sp.csr_matrix(values.astype(np.float32))


def gene_names(number, seed=0):
    """Genes in random order; every seventh is outside the vocabulary."""
    order = np.random.default_rng(seed).permutation(900)[:number]
    return [f"G{i}" if column % 7 else f"outside{i}" for column, i in enumerate(order)]


def pairs(perturbations):
    """The perturbation of each pair, in one context."""
    return pd.DataFrame({"perturbation": perturbations})


def predicted(ours, cells, perturbations, genes, **options):
    encoding = Encoding.of(perturbations, align(genes, VOCABULARY), VOCABULARY)
    result = np.full(cells.shape, np.nan, dtype=np.float32)
    for rows, values in inference.predict(ours, cells, pairs(perturbations), encoding, progress=False, **options):
        result[rows] = values
    return result


def test_binned_values_reach_the_value_encoder_of_upstream_and_log_values_its_decoder(ours, upstream, tolerance):
    """What upstream's ``n_input_bins`` is meant for: its own bins are integers, which its encoder refuses."""
    genes = gene_names(60)
    values = np.random.default_rng(0).gamma(2.0, size=(4, 60)).astype(np.float32)
    values[:, ::3] = 0
    encoding = Encoding.of([genes[1]], align(genes, VOCABULARY), VOCABULARY, n_bins=51)
    flags = np.tile(flags_of(genes, [genes[1]]), (4, 1))
    binned = np.stack([binning(row, n_bins=51) for row in values]).astype(np.float32)  # without ties, none is drawn
    tokens = torch.from_numpy(np.tile(encoding.token_ids, (4, 1)))
    with torch.no_grad():
        hidden = upstream._encode(tokens, torch.from_numpy(binned), torch.from_numpy(flags).long(), None)
        expected = upstream.decoder(hidden, torch.from_numpy(values))["pred"].numpy()
    ((_, found),) = inference.predict(ours, values, pairs([genes[1]] * 4), encoding, batch_size=4, progress=False)
    inputs = encoding.inputs(values, [genes[1]] * 4, np.arange(60))
    with torch.no_grad():
        trained = ours({key: tensor.to(ours.pert_encoder.weight.device) for key, tensor in inputs.items()})
    assert np.abs(found - expected).max() < tolerance
    assert np.abs(trained.cpu().numpy() - expected).max() < tolerance
    assert np.abs(found - predicted(ours, values, [genes[1]] * 4, genes)).max() > 1e-3


def flags_of(genes, targets):
    return np.isin(genes, targets).astype(np.float32)


@pytest.mark.parametrize(("n_cells", "n_genes"), [(1, 2), (5, 37), (3, 300), (2, 850)])
def test_predictions_are_those_of_upstream_with_padded_genes(ours, upstream, n_cells, n_genes, tolerance):
    cells, genes = sparse_cells(n_cells, n_genes), gene_names(n_genes)
    token_ids = align(genes, VOCABULARY)["token_id"].to_numpy()
    for target in (genes[1], genes[0]):  # in the vocabulary, and padded
        flags = np.tile(flags_of(genes, [target]), (n_cells, 1))
        expected = upstream_prediction(upstream, cells.toarray(), flags, token_ids)
        found = predicted(ours, cells, [target] * n_cells, genes)
        assert np.abs(found - expected).max() < tolerance


def test_every_target_of_a_combination_carries_the_flag(ours, upstream, tolerance):
    cells, genes = sparse_cells(4, 50), gene_names(50)
    flags = np.tile(flags_of(genes, [genes[3], genes[9]]), (4, 1))
    token_ids = align(genes, VOCABULARY)["token_id"].to_numpy()
    expected = upstream_prediction(upstream, cells.toarray(), flags, token_ids)
    found = predicted(ours, cells, [f"{genes[3]}+{genes[9]}"] * 4, genes)
    assert np.abs(found - expected).max() < tolerance
    assert np.abs(found - predicted(ours, cells, [genes[3]] * 4, genes)).max() > 1e-3


def test_an_unmeasured_target_is_a_token_of_value_0_with_the_flag_and_not_in_the_output(ours, upstream, tolerance):
    cells, genes = sparse_cells(3, 40), gene_names(40)
    wider = np.hstack([cells.toarray(), np.zeros((3, 1), dtype=np.float32)])
    token_ids = [*align(genes, VOCABULARY)["token_id"], 950]
    flags = np.zeros_like(wider)
    flags[:, 40] = 1
    expected = upstream_prediction(upstream, wider, flags, token_ids)[:, :40]
    assert np.abs(predicted(ours, cells, ["G950"] * 3, genes) - expected).max() < tolerance


def test_a_target_that_nobody_knows_is_reported_and_predicted_without_a_flag(ours, upstream, tolerance):
    cells, genes = sparse_cells(3, 40), gene_names(40)
    alignment = align(genes, VOCABULARY)
    encoding = Encoding.of(["XYZ+G950"], alignment, VOCABULARY)
    assert encoding.targets == {"XYZ+G950": Targets((), (950,), ("XYZ",)), "control": Targets()}
    flags = np.zeros(cells.shape, dtype=np.float32)
    expected = upstream_prediction(upstream, cells.toarray(), flags, alignment["token_id"].to_numpy())
    assert np.abs(predicted(ours, cells, ["XYZ"] * 3, genes) - expected).max() < tolerance


def test_a_target_that_was_measured_under_another_spelling_is_flagged_there():
    alignment = align(["G1", "g5", "G3.2"], VOCABULARY)
    assert Encoding.of(["G5+G3"], alignment, VOCABULARY).targets["G5+G3"] == Targets((1, 2), (), ())


def many_pairs():
    genes = gene_names(60)
    names = [genes[1], f"{genes[2]}+G950", "XYZ", genes[0]]
    perturbations = np.array(names)[np.random.default_rng(1).integers(0, 4, 90)]
    return sparse_cells(90, 60), perturbations.tolist(), genes


@pytest.mark.parametrize("genes_fed", ["all", "nonzero"])
def test_batch_sizes_1_7_and_64_agree(ours, genes_fed, tolerance):
    cells, perturbations, genes = many_pairs()
    first, *others = (
        predicted(ours, cells, perturbations, genes, genes_fed=genes_fed, batch_size=n) for n in (1, 7, 64)
    )
    assert np.isfinite(first).all()
    for other in others:
        assert np.abs(other - first).max() < tolerance


def test_one_shard_and_four_give_the_same_bytes(ours):
    cells, perturbations, genes = many_pairs()
    whole = predicted(ours, cells, perturbations, genes)
    shards = [
        [condition.perturbation for condition in inference.shard(pairs(perturbations), index, 4)] for index in range(4)
    ]
    assert sorted(name for names in shards for name in names) == sorted(set(perturbations))
    more = [inference.shard(pairs(perturbations), index, 100) for index in range(100)]
    assert all(len(conditions) == 1 for conditions in more)  # none is empty
    for names in shards:
        rows = np.flatnonzero(np.isin(perturbations, names))
        part = predicted(ours, cells[rows], np.array(perturbations)[rows].tolist(), genes)
        assert part.tobytes() == whole[rows].tobytes()


def test_the_number_of_threads_changes_no_byte(ours):
    cells, perturbations, genes = many_pairs()
    expected = predicted(ours, cells, perturbations, genes)
    torch.set_num_threads(3)
    try:
        assert predicted(ours, cells, perturbations, genes).tobytes() == expected.tobytes()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)


def test_batches_come_in_the_order_of_perturbations_and_never_cross_one(ours):
    cells, perturbations, genes = many_pairs()
    encoding = Encoding.of(perturbations, align(genes, VOCABULARY), VOCABULARY)
    batches = inference.predict(ours, cells, pairs(perturbations), encoding, batch_size=7, progress=False)
    order = [[perturbations[row] for row in rows] for rows, _ in batches]
    assert all(len(set(names)) == 1 for names in order)
    assert [names[0] for names in order] == sorted(names[0] for names in order)


def test_nonzero_genes_are_those_of_the_cell_alone(ours, upstream, tolerance):
    cells, genes = sparse_cells(6, 80), gene_names(80)
    token_ids = align(genes, VOCABULARY)["token_id"].to_numpy()
    target = genes[4]
    found = predicted(ours, cells, [target] * 6, genes, genes_fed="nonzero")
    for cell, prediction in zip(cells.toarray(), found, strict=True):
        fed = np.flatnonzero((cell != 0) | (np.array(genes) == target))
        flags = flags_of(np.array(genes)[fed], [target])[None]
        expected = upstream_prediction(upstream, cell[None, fed], flags, token_ids[fed])[0]
        assert np.abs(prediction[fed] - expected).max() < tolerance
        assert not np.delete(prediction, fed).any()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_cell_without_an_expressed_gene_is_predicted_as_it_is(ours, batch_size, tolerance):
    cells, genes = sparse_cells(4, 30).toarray(), gene_names(30)
    cells[2] = 0
    options = {"genes_fed": "nonzero", "batch_size": batch_size}
    found = predicted(ours, sp.csr_matrix(cells), ["XYZ"] * 4, genes, **options)
    assert not found[2].any()
    others = predicted(ours, sp.csr_matrix(cells[[0, 1, 3]]), ["XYZ"] * 3, genes, **options)
    assert np.abs(found[[0, 1, 3]] - others).max() < tolerance


def test_restricting_the_vocabulary_to_the_tokens_in_use_changes_nothing(ours):
    cells, perturbations, genes = many_pairs()
    encoding = Encoding.of(perturbations, align(genes, VOCABULARY), VOCABULARY)
    restricted = fill_at_random(model.build(ARGUMENTS, VOCABULARY)).eval().to(ours.pert_encoder.weight.device)
    model.restrict_vocabulary(restricted, encoding.tokens_in_use)
    assert restricted.encoder.embedding.num_embeddings < 70
    found = predicted(restricted, cells, perturbations, genes)
    assert found.tobytes() == predicted(ours, cells, perturbations, genes).tobytes()


def test_the_plain_path_without_onednn_gives_the_same(ours, monkeypatch, tolerance):
    cells, perturbations, genes = many_pairs()
    expected = predicted(ours, cells, perturbations, genes)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert np.abs(predicted(ours, cells, perturbations, genes) - expected).max() < tolerance


def test_running_out_of_memory_halves_the_batch_and_loses_nothing(ours, monkeypatch, tolerance):
    cells, perturbations, genes = many_pairs()
    expected = predicted(ours, cells, perturbations, genes)
    whole, sizes = engine_module.Engine._predict, []

    def small_machine(self, values, *arguments):
        if len(values) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(values))
        return whole(self, values, *arguments)

    monkeypatch.setattr(engine_module.Engine, "_predict", small_machine)
    assert np.abs(predicted(ours, cells, perturbations, genes, batch_size=64) - expected).max() < tolerance
    assert max(sizes) > 1


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes",
    ],
)
def test_a_lack_of_memory_is_known_by_every_name(message):
    assert engine_module._out_of_memory(RuntimeError(message))
    assert not engine_module._out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


def test_a_token_without_a_row_is_an_error_before_it_reaches_the_device(ours, monkeypatch):
    cells, perturbations, genes = many_pairs()
    encoding = Encoding.of(perturbations, align(genes, VOCABULARY), VOCABULARY)
    encoding = replace(encoding, token_ids=np.full(len(genes), 99999))
    monkeypatch.setattr(torch.nn.Embedding, "forward", lambda *arguments: pytest.fail("the device was asked"))
    with pytest.raises(IndexError, match=r"token ids without a row of the gene embedding: \[99999\]"):
        next(inference.predict(ours, cells, pairs(perturbations), encoding))


def test_another_error_is_not_taken_for_a_lack_of_memory(ours, monkeypatch):
    def broken(self, *arguments):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(engine_module.Engine, "_predict", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        predicted(ours, *many_pairs())


def test_running_means_are_the_means_of_the_cells(ours, tolerance):
    cells, perturbations, genes = many_pairs()
    encoding = Encoding.of(perturbations, align(genes, VOCABULARY), VOCABULARY)
    batches = inference.predict(ours, cells, pairs(perturbations), encoding, batch_size=4, progress=False)
    weights = np.linspace(0.5, 1.5, len(perturbations))
    means = inference.running_means(batches, pairs(perturbations), weights)
    every_cell = predicted(ours, cells, perturbations, genes)
    for name, mean in zip(sorted(set(perturbations)), means, strict=True):
        own = np.array(perturbations) == name
        np.testing.assert_allclose(mean, mean_cell(every_cell[own], weights[own]), atol=tolerance)


def test_a_batch_never_crosses_a_context(ours):
    cells, perturbations, genes = many_pairs()
    obs = pairs(perturbations).assign(context=np.resize(["x", "y"], len(perturbations)))
    encoding = Encoding.of(perturbations, align(genes, VOCABULARY), VOCABULARY)
    found = [rows for rows, _ in inference.predict(ours, cells, obs, encoding, progress=False)]
    assert all(len(obs.iloc[rows].drop_duplicates()) == 1 for rows in found)
    assert sorted(np.concatenate(found)) == [*range(len(obs))]
