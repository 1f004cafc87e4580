"""The model is upstream's TransformerGenerator: its parameters, its numbers; and what is random is told."""

import pytest
import torch
from torch.nn import functional

from scgpt_bench.errors import InputError
from scgpt_bench.scgpt import checkpoint, model
from scgpt_bench.scgpt.vocabulary import human_vocabulary
from upstream import fill_at_random, random_checkpoint, upstream_model

ARGUMENTS = {"embsize": 24, "nlayers": 2, "nheads": 4, "d_hid": 20}
VOCABULARY = {**{f"G{i}": i for i in range(40)}, "<pad>": 40, "<cls>": 41, "<eoc>": 42}


def batch(seed=0, cells=3, genes=15):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randperm(41, generator=generator)[:genes].expand(cells, -1).clone()
    tokens[:, 3] = 40  # a gene outside the vocabulary
    values = torch.rand(cells, genes, generator=generator) * 3
    return tokens, values, (torch.arange(genes) == 4).long().expand(cells, -1)


@pytest.mark.parametrize("seed", range(3))
def test_predictions_are_those_of_upstream(seed, device, tolerance):
    ours = fill_at_random(model.build(ARGUMENTS, VOCABULARY), seed).eval()
    upstream = upstream_model(ARGUMENTS, VOCABULARY, ours.state_dict())
    with torch.no_grad():
        arguments = (*batch(seed), torch.zeros(3, 15, dtype=torch.bool))
        expected = upstream(*arguments)["mlm_output"]
        found = ours.to(device)(*(part.to(device) for part in arguments))["mlm_output"]
    assert (found.cpu() - expected).abs().max() < tolerance


def test_the_human_checkpoint_loads_in_full_and_1581059_parameters_are_random(tmp_path, human_arguments):
    arguments = checkpoint.read_arguments(human_arguments)
    checkpoint.initialize(tmp_path, arguments, human_vocabulary(), seed=0)
    read = checkpoint.read(tmp_path)
    assert len(read.tensors) == 163
    ours = model.build(read.arguments, read.vocabulary)
    report = model.load(ours, read)
    assert sum(parameter.numel() for parameter in ours.parameters()) == 51_859_459
    assert report["n_random"] == 1_581_059
    assert {name.split(".")[0] for name in report["random"]} == {"pert_encoder", "decoder", "cls_decoder"}
    assert {name.split(".")[0] for name in report["unused"]} == {"decoder", "flag_encoder", "mvc_decoder"}
    assert report["n_pretrained"] + report["n_random"] == 51_859_459
    assert not report["checkpoint_pretrained"]
    for name, tensor in read.tensors.items():
        if name in report["pretrained"]:
            assert torch.equal(ours.state_dict()[name.replace("Wqkv.", "in_proj_")], tensor)


def test_upstream_loads_the_same_weights_from_the_same_checkpoint(tmp_path):
    from scgpt.utils import load_pretrained

    read = random_checkpoint(tmp_path, ARGUMENTS, VOCABULARY)
    ours = model.build(ARGUMENTS, VOCABULARY)
    model.load(ours, read)
    upstream = upstream_model(ARGUMENTS, VOCABULARY, fill_at_random(model.build(ARGUMENTS, VOCABULARY)).state_dict())
    load_pretrained(upstream, read.tensors, prefix=list(checkpoint.PRETRAINED_PREFIXES), verbose=False)
    for name, parameter in upstream.named_parameters():
        if checkpoint.below(name, checkpoint.PRETRAINED_PREFIXES):
            assert torch.equal(ours.state_dict()[name], parameter), name


def test_random_weights_depend_on_the_seed_and_not_on_what_is_loaded(tmp_path):
    read = [random_checkpoint(tmp_path / str(seed), ARGUMENTS, VOCABULARY, seed) for seed in (1, 2)]
    models = {}
    for key, (source, prefixes, seed) in {
        "first": (read[0], checkpoint.PRETRAINED_PREFIXES, 5),
        "other checkpoint": (read[1], checkpoint.PRETRAINED_PREFIXES, 5),
        "nothing loaded": (read[0], (), 5),
        "other seed": (read[0], checkpoint.PRETRAINED_PREFIXES, 6),
    }.items():
        torch.rand(1)  # the global stream moves on
        models[key] = model.build(ARGUMENTS, VOCABULARY)
        model.load(models[key], source, prefixes, seed)
    weight = {key: built.decoder.coeff_decoder.fc[0].weight for key, built in models.items()}
    assert torch.equal(weight["first"], weight["other checkpoint"])
    assert torch.equal(weight["first"], weight["nothing loaded"])
    assert not torch.equal(weight["first"], weight["other seed"])
    report = model.load(model.build(ARGUMENTS, VOCABULARY), read[0], (), 5)
    assert report["n_pretrained"] == 0


def test_loading_does_not_move_the_global_random_stream(tmp_path):
    read = random_checkpoint(tmp_path, ARGUMENTS, VOCABULARY)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    model.load(model.build(ARGUMENTS, VOCABULARY), read)
    assert torch.equal(torch.rand(1), expected)


def test_a_model_that_was_never_loaded_predicts_nothing():
    with torch.no_grad():
        assert model.build(ARGUMENTS, VOCABULARY)(*batch(), None)["mlm_output"].isnan().all()


def test_a_checkpoint_of_another_size_is_refused(tmp_path):
    read = random_checkpoint(tmp_path, ARGUMENTS | {"d_hid": 21}, VOCABULARY)
    with pytest.raises(InputError, match=r"layers\.0\.linear1\.weight: found shape"):
        model.load(model.build(ARGUMENTS, VOCABULARY), read)


def test_genes_in_use_predict_the_same_bytes():
    tokens, values, flags = batch()
    whole, restricted = (fill_at_random(model.build(ARGUMENTS, VOCABULARY)).eval() for _ in range(2))
    model.restrict_vocabulary(restricted, tokens.flatten().tolist())
    assert len(restricted.encoder.embedding.weight) == len({*tokens.flatten().tolist(), 40})
    with torch.no_grad():
        expected, found = (built(tokens, values, flags, None)["mlm_output"] for built in (whole, restricted))
    assert torch.equal(found, expected)


def test_genes_in_use_train_the_same_bytes():
    tokens, values, flags = batch()
    trained = []
    for restrict in (False, True):
        built = fill_at_random(model.build(ARGUMENTS, VOCABULARY)).train()
        whole = built.encoder.embedding.weight.detach().clone()
        if restrict:
            model.restrict_vocabulary(built, tokens.flatten().tolist())
        optimizer = torch.optim.Adam(built.parameters(), lr=1e-2)
        for _ in range(5):
            optimizer.zero_grad()
            functional.mse_loss(built(tokens, values, flags, None)["mlm_output"], values).backward()
            optimizer.step()
        if restrict:
            in_use = built.encoder.embedding
            whole = whole.index_copy(0, in_use.token_ids, in_use.weight.detach())
            built.encoder.embedding.weight = torch.nn.Parameter(whole)
        trained.append({name: parameter.detach() for name, parameter in built.named_parameters()})
    start = fill_at_random(model.build(ARGUMENTS, VOCABULARY)).encoder.embedding.weight
    assert not torch.equal(trained[0]["encoder.embedding.weight"], start)
    for name, expected in trained[0].items():
        assert torch.equal(trained[1][name], expected), name


def test_a_gene_that_is_not_in_use_is_an_error():
    built = fill_at_random(model.build(ARGUMENTS, VOCABULARY))
    model.restrict_vocabulary(built, [1, 2])
    with pytest.raises(IndexError):
        built.encoder(torch.tensor([[3]]))
