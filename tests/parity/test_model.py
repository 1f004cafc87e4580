"""The model is upstream's TransformerGenerator: its parameters, its numbers; and what is random is told."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from scgpt_bench.errors import InputError
from scgpt_bench.scgpt import checkpoint, model
from scgpt_bench.scgpt.encoding import Encoding, Targets
from scgpt_bench.scgpt.vocabulary import human_vocabulary
from upstream import fill_at_random, random_checkpoint, upstream_model

ARGUMENTS = {"embsize": 24, "nlayers": 2, "nheads": 4, "d_hid": 20}
VOCABULARY = {**{f"G{i}": i for i in range(40)}, "<pad>": 40, "<cls>": 41, "<eoc>": 42}


def batch(seed=0, device="cpu"):
    """Cells whose perturbations have one flag, two, none, and unmeasured targets: one token more, or two."""
    generator = np.random.default_rng(seed)
    tokens = generator.permutation(38)[:15]
    tokens[3] = 40  # a gene outside the vocabulary
    targets = {"one": Targets((4,)), "two": Targets((3, 5)), "control": Targets()}
    targets |= {"mixed": Targets((1,), (38,)), "unmeasured": Targets((), (38, 39))}
    values = np.log1p(generator.poisson(0.7, (5, 15))).astype(np.float32)
    values[2] = 0
    inputs = Encoding(tokens, 40, targets).inputs(values, list(targets), np.arange(15))
    return {name: each.to(device) for name, each in inputs.items()}


def as_upstream_takes_it(inputs):
    """``genes``, ``values``, ``flags`` and ``padding``."""
    padding = torch.from_numpy(~inputs["present"].mask).to(inputs["values"].device)
    return torch.cat([inputs["genes"], inputs["added"]], dim=1), inputs["values"], inputs["flags"], padding


@pytest.mark.parametrize("seed", range(3))
def test_predictions_and_gradients_are_those_of_upstream(seed, device, tolerance):
    """Also in the mode of training, in which upstream takes another path through its layers."""
    ours = fill_at_random(model.build(ARGUMENTS, VOCABULARY), seed)
    upstream = upstream_model(ARGUMENTS, VOCABULARY, ours.state_dict()).to(device).train()
    inputs = batch(seed, device)
    *arguments, padding = as_upstream_takes_it(inputs)
    expected = upstream(*arguments, padding)["mlm_output"].masked_fill(padding, 0)
    found = ours.to(device).train()(inputs)
    assert padding.sum() == 7
    assert (found - expected).abs().max() < tolerance
    gradients = []
    for module, predicted in ((upstream, expected), (ours, found)):
        (predicted - 1).square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in module.named_parameters()})
    for name, wanted in gradients[0].items():
        if not name.startswith("cls_decoder"):
            assert (gradients[1][name] - wanted).norm() < 10 * tolerance * wanted.norm(), name


def test_in_bf16_gradients_are_as_near_to_those_in_fp32_as_upstreams(device):
    """On the CPU as on a GPU: number types of autocast, products in bf16."""
    ours = fill_at_random(model.build(ARGUMENTS, VOCABULARY)).to(device).train()
    upstream = upstream_model(ARGUMENTS, VOCABULARY, ours.state_dict()).to(device).train()
    inputs = batch(0, device)
    *arguments, padding = as_upstream_takes_it(inputs)

    def gradients(module, predict, half):
        module.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            predicted = predict()
        (predicted.float() - 1).square().mean().backward()
        return torch.cat([each.grad.flatten() for each in module.parameters() if each.grad is not None])

    def theirs():
        return upstream(*arguments, padding)["mlm_output"].masked_fill(padding, 0)

    exact = gradients(ours, lambda: ours(inputs), half=False)
    errors = [
        float((gradients(module, predict, half=True) - exact).norm() / exact.norm())
        for module, predict in ((ours, lambda: ours(inputs)), (upstream, theirs))
    ]
    assert 1e-4 < errors[0] < 1.2 * errors[1] < 0.1


def test_what_cells_share_is_computed_once():
    """The rows that gene encoder, value encoder and decoder of coefficients are given in a training step."""
    ours, rows = fill_at_random(model.build(ARGUMENTS, VOCABULARY)).train(), {}
    watched = {"genes": ours.encoder.enc_norm, "values": ours.value_encoder.norm,
               "coefficients": ours.decoder.coeff_decoder.fc[1], "tokens": ours.decoder.bias_decoder.fc[1]}  # fmt: skip
    for name, module in watched.items():
        module.register_forward_hook(lambda _, given, __, name=name: rows.update({name: given[0].numel() // 24}))
    inputs = batch()
    ours(inputs)
    n_expressed = int((inputs["values"] != 0).sum())
    assert rows == {"genes": 15 + 5 * 2, "values": 1 + n_expressed, "coefficients": n_expressed, "tokens": 5 * 15 + 3}


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
        inputs = batch()
        assert model.build(ARGUMENTS, VOCABULARY)(inputs)[torch.from_numpy(inputs["present"].mask)].isnan().all()


def test_a_checkpoint_of_another_size_is_refused(tmp_path):
    read = random_checkpoint(tmp_path, ARGUMENTS | {"d_hid": 21}, VOCABULARY)
    with pytest.raises(InputError, match=r"layers\.0\.linear1\.weight: found shape"):
        model.load(model.build(ARGUMENTS, VOCABULARY), read)


def tokens_of(inputs):
    return [*inputs["genes"].flatten().tolist(), *inputs["added"].flatten().tolist()]


def test_genes_in_use_predict_the_same_bytes():
    inputs = batch()
    whole, restricted = (fill_at_random(model.build(ARGUMENTS, VOCABULARY)).eval() for _ in range(2))
    model.restrict_vocabulary(restricted, tokens_of(inputs))
    assert len(restricted.encoder.embedding.weight) == len({*tokens_of(inputs), 40})
    with torch.no_grad():
        assert torch.equal(restricted(inputs), whole(inputs))


def test_genes_in_use_train_the_same_bytes():
    inputs = batch()
    trained = []
    for restrict in (False, True):
        built = fill_at_random(model.build(ARGUMENTS, VOCABULARY)).train()
        whole = built.encoder.embedding.weight.detach().clone()
        if restrict:
            model.restrict_vocabulary(built, tokens_of(inputs))
        optimizer = torch.optim.Adam(built.parameters(), lr=1e-2)
        for _ in range(5):
            optimizer.zero_grad()
            functional.mse_loss(built(inputs), inputs["values"]).backward()
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
