"""Generation: one round is one forward pass, nothing leaks between unknown genes, and a seed fixes every byte."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from scgpt_bench.errors import InputError
from scgpt_bench.scgpt import checkpoint, generation, masked_model
from scgpt_bench.scgpt.attention import Cells
from scgpt_bench.scgpt.binning import bin_cells
from scgpt_bench.scgpt.generation import PromptOptions

N_GENES, N_TOKENS, PAD, CLS = 90, 103, 100, 101


@pytest.fixture(scope="module")
def prompter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    vocabulary = {f"GENE{i}": i for i in range(100)} | {"<pad>": PAD, "<cls>": CLS, "<eoc>": 102}
    arguments = {"embsize": 16, "nlayers": 2, "nheads": 2, "d_hid": 16}
    checkpoint.initialize(folder, arguments, vocabulary, seed=1)
    model, weights = masked_model.load(folder)
    with torch.no_grad():  # random weights predict bins around 0, where clipping would hide every difference
        model.decoder.fc[4].weight *= 20
        model.decoder.fc[4].bias.fill_(25)
    return generation.Prompter.of(model, weights, np.arange(N_GENES))


@pytest.fixture(scope="module")
def cells():
    values = np.random.default_rng(0).gamma(2.0, size=(6, N_GENES)).astype(np.float32)
    values[:, ::7] = 0
    return bin_cells(values, 51)


def known_of(n_known, n_cells=6, n_genes=N_GENES):
    known = np.zeros((n_cells, n_genes), dtype=bool)
    known[:, :n_known] = True
    return known


def test_one_round_is_one_masked_forward_pass(prompter, cells):
    bins, _ = cells
    known = known_of(20)
    generated = prompter.generate(bins, known, rounds=1)
    first = torch.full((6, 1), CLS)
    genes = torch.cat([first, torch.arange(20).repeat(6, 1)], dim=1)
    values = torch.cat([torch.full((6, 1), -2.0), torch.from_numpy(bins[:, :20])], dim=1)
    with torch.no_grad():
        _, memory = prompter.model.known(genes.flatten(), values.flatten(), Cells([21] * 6))
        unknown = prompter.model.encoder(torch.arange(20, N_GENES).repeat(6))
        expected = prompter.model.unknown(unknown, Cells([N_GENES - 20] * 6), memory).view(6, -1)
    np.testing.assert_array_equal(generated[:, :20], bins[:, :20])
    np.testing.assert_allclose(generated[:, 20:], expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("confidence", ["agreement", "value", "random"])
def test_every_gene_is_known_after_k_rounds_of_one_kth_each(prompter, cells, confidence, monkeypatch):
    asked = []
    predict = generation.Prompter._predict

    def spy(self, tokens, values, known, unknown, compared):
        asked.append((known.shape[1], unknown.shape[1]))
        return predict(self, tokens, values, known, unknown, compared)

    monkeypatch.setattr(generation.Prompter, "_predict", spy)
    generated = prompter.generate(cells[0], known_of(20), rounds=4, confidence=confidence)
    assert asked == [(20, 70), (38, 52), (56, 34), (74, 16)]
    assert (generated[:, 20:] != 0).all()


def test_later_rounds_see_what_earlier_ones_generated(prompter, cells):
    once, twice = (prompter.generate(cells[0], known_of(20), rounds=rounds) for rounds in (1, 2))
    changed = (once != twice)[:, 20:].sum(axis=1)
    assert (changed > 0).all()
    assert (changed <= 35).all()


@pytest.mark.parametrize("rounds", [1, 3])
def test_the_true_value_of_an_unknown_gene_is_never_read(prompter, cells, rounds):
    bins = cells[0].copy()
    before = prompter.generate(bins, known_of(20), rounds)
    bins[:, 20:] = np.random.default_rng(5).permuted(bins[:, 20:], axis=1)
    np.testing.assert_array_equal(prompter.generate(bins, known_of(20), rounds), before)


@pytest.mark.parametrize("fewer", [21, 40, 83, 84, 89])
def test_adding_unknown_genes_changes_no_other_prediction_by_one_bit(prompter, cells, fewer):
    bins = cells[0]
    narrow = replace(prompter, token_ids=prompter.token_ids[:fewer])
    before = narrow.generate(bins[:, :fewer], known_of(20, n_genes=fewer))
    np.testing.assert_array_equal(prompter.generate(bins, known_of(20))[:, :fewer], before)


def test_genes_outside_the_vocabulary_are_neither_prompted_nor_generated(prompter, cells):
    bins, edges = cells
    token_ids = prompter.token_ids.copy()
    token_ids[[3, 50]] = PAD
    padded = replace(prompter, token_ids=token_ids)
    generated = padded.generate(bins, known_of(20) & (token_ids != PAD))
    assert (generated[:, 50] == 0).all()
    other = bins.copy()
    other[:, [3, 50]] = 17
    np.testing.assert_array_equal(padded.generate(other, known_of(20) & (token_ids != PAD)), generated)
    change, _ = generation.effects(padded, bins, edges, [10], PromptOptions(), 0, ("GENE10",), activated=False)
    assert not change[:, [3, 50]].any()


def effects(prompter, cells, targets=(10,), seed=0, name="GENE10", activated=False, **options):
    return generation.effects(prompter, *cells, targets, PromptOptions(**options), seed, (name,), activated)[0]


@pytest.mark.parametrize("options", [{}, {"rounds": 3}, {"rounds": 3, "confidence": "random"}], ids=str)
def test_the_seed_fixes_every_byte_and_the_batch_size_moves_nothing(prompter, cells, options):
    change = effects(prompter, cells, **options)
    np.testing.assert_array_equal(effects(prompter, cells, **options), change)
    assert np.abs(effects(prompter, cells, batch_size=1, **options) - change).max() < 1e-5
    assert np.abs(effects(prompter, cells, seed=1, **options) - change).max() > 1e-5


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_silenced_target_that_is_left_out_is_neither_prompted_nor_generated(prompter, cells, rounds, monkeypatch):
    asked = []
    predict = generation.Prompter._predict

    def spy(self, tokens, values, known, unknown, compared):
        asked.append((10 in tokens[known[0]], 10 in tokens[unknown[0]]))
        return predict(self, tokens, values, known, unknown, compared)

    monkeypatch.setattr(generation.Prompter, "_predict", spy)
    change = effects(prompter, cells, rounds=rounds, draws=2, silenced_targets="left_out")
    assert asked == ([(False, False)] * rounds + [(True, False)] * rounds) * 2
    assert not change[:, 10].any()
    assert np.abs(change - effects(prompter, cells, rounds=rounds, draws=2)).max() > 1e-5
    raised = [
        effects(prompter, cells, rounds=rounds, activated=True, silenced_targets=how) for how in ("zero", "left_out")
    ]
    np.testing.assert_array_equal(*raised)


def test_a_target_that_no_cell_expresses_is_not_asked_about_by_leaving_it_out(prompter, cells):
    options = PromptOptions(silenced_targets="left_out")
    change, asked = generation.effects(prompter, *cells, [7], options, 0, ("GENE7",), activated=False)
    assert not asked
    assert not change.any()


def test_a_target_that_is_already_at_its_prompted_value_has_no_effect(prompter, cells):
    bins, edges = cells
    silent = bins.copy()
    silent[:, 10] = 0
    assert not effects(prompter, (silent, edges)).any()
    assert effects(prompter, cells).any()


def test_a_question_is_none_where_all_targets_are_already_as_prompted(prompter, cells):
    bins, edges = cells
    bins = bins.copy()
    bins[:, 10], bins[:, 20] = 0, 7

    def asked(targets, activated=False):
        return generation.effects(prompter, bins, edges, targets, PromptOptions(draws=2), 0, ("G",), activated)[1]

    assert [asked([10]), asked([20]), asked([10, 20])] == [False, True, True]
    assert [asked([20], activated=True), asked([30], activated=True)] == [False, True]
    with torch.no_grad():  # a target that is not measured and is predicted at bin 0, or not
        bias = prompter.model.decoder.fc[4].bias
        before = bias.clone()
        bias.fill_(-1000)
        not_expressed = asked([95])
        bias.copy_(before)
    assert [not_expressed, asked([95])] == [False, True]


@pytest.mark.parametrize(
    ("activated", "quantile", "prompted"), [(False, 0.95, 0), (True, 0.0, "min"), (True, 1.0, "max")]
)
def test_a_knock_down_prompts_zero_and_an_activation_the_stated_quantile(
    prompter, cells, activated, quantile, prompted, monkeypatch
):
    seen = []
    generate = generation.Prompter.generate

    def spy(self, bins, *arguments):
        seen.append(bins[0, 10])
        return generate(self, bins, *arguments)

    monkeypatch.setattr(generation.Prompter, "generate", spy)
    effects(prompter, cells, activated=activated, target_quantile=quantile, draws=2)
    values = cells[0][:, 10]
    expected = {0: 0.0, "min": values.min(), "max": values.max()}[prompted]
    assert seen[::2] == [expected] * 2
    assert seen[1::2] == [values.mean()] * 2


def test_an_activated_target_is_raised_among_the_cells_that_express_it():
    bins = np.zeros((5, 3), dtype=np.float32)
    bins[:3, 0] = 10, 20, 30
    bins[:, 2] = 40
    expressed, silent, not_measured = generation.raised_bins(bins, [0, 1, 3], 0.5)
    assert expressed == 20
    assert silent == not_measured == 40, "the median of all that is expressed"


def test_what_is_set_is_not_read_as_a_prediction(prompter, cells):
    assert not effects(prompter, cells, targets=(10, 30))[:, [10, 30]].any()


def test_every_other_gene_is_read_in_at_least_one_draw(prompter, cells):
    masks = generation._known_genes(prompter, np.array([10]), PromptOptions(known_share=0.75), 0, "GENE10")
    always = np.logical_and.reduce(masks)
    assert np.flatnonzero(always).tolist() == [10]
    assert all(abs(mask.sum() - 1 - 0.75 * 89) <= 1 for mask in masks)


def test_a_target_that_is_not_measured_is_prompted_with_its_predicted_value(prompter, cells):
    for activated in (False, True):
        change = effects(prompter, cells, targets=(95,), activated=activated)
        assert change.shape == cells[0].shape
        assert change.any()


@pytest.mark.parametrize(
    ("targets", "rounds", "n_known"),
    [((10,), 1, 1 + 89 // 10), ((10,), 3, 1 + 89 // 10 + 2 * 27), ((95,), 1, N_GENES + 1)],
    ids=["one round", "the last of three rounds", "all genes, for a target that is not measured"],
)
def test_a_pass_holds_no_more_known_genes_than_memory_allows(prompter, cells, targets, rounds, n_known, monkeypatch):
    at_once = effects(prompter, cells, targets=targets, rounds=rounds)
    told = []
    known_of_model = masked_model.MaskedTransformer.known

    def spy(self, genes, values, cells):
        told.append((len(cells.lengths), cells.longest - 1))
        return known_of_model(self, genes, values, cells)

    monkeypatch.setattr(masked_model.MaskedTransformer, "known", spy)
    monkeypatch.setattr(generation, "_KNOWN_AT_ONCE", 4 * n_known)
    change = effects(prompter, cells, targets=targets, rounds=rounds)
    assert max(n_genes for _, n_genes in told) in (n_known, n_known - 1)
    assert max(n_cells * n_genes for n_cells, n_genes in told) <= 4 * n_known
    assert {n_cells for n_cells, n_genes in told if n_genes >= n_known - 1} == {4, 2}  # six cells
    assert np.abs(change - at_once).max() < 1e-5


def test_what_unknown_genes_attend_to_is_kept_without_the_queries(prompter):
    genes = torch.arange(20).repeat(3)
    with torch.no_grad():
        _, memory = prompter.model.known(genes, genes.float(), Cells([20] * 3))
    assert [part.untyped_storage().nbytes() for *parts, _ in memory for part in parts] == [3 * 20 * 16 * 4] * 4


@pytest.mark.parametrize(
    "options", [{"known_share": 0.8}, {"rounds": 0}, {"confidence": "certain"}, {"known_share": -0.1}], ids=str
)
def test_prompts_that_make_no_sense_are_refused(options):
    with pytest.raises(ValidationError, match=next(iter(options))):
        PromptOptions(**options)


def test_a_target_without_a_token_is_refused(prompter, cells):
    with pytest.raises(InputError, match="targets that have a token"):
        effects(prompter, cells, targets=(PAD,))
