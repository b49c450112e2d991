import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import regrow
from regrow import NM, SparsityError, Topology
from regrow.nn import SparseConv2d, SparseLinear, finalize_


class Net(nn.Module):
    """A convolution, a norm, a tied pair, attention (no sparse form) and a dense head."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.one = nn.Linear(8, 8)
        self.two = nn.Linear(8, 8, bias=False)
        self.two.weight = self.one.weight
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        tokens = self.norm(self.conv(x)).relu().flatten(2).transpose(1, 2)
        tokens = self.two(self.one(tokens).relu())
        return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


def batch(seed=0):
    return torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(seed))


def trained(*, truly_sparse=False):
    """A model behind some steps with rewirings, its optimizer and its updater."""
    model = Net()
    sparsity = 0.7
    if truly_sparse:
        regrow.compress_(model, sparsity=sparsity)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    updater = regrow.set_training(model, optimizer, sparsity=sparsity, n_steps=40, interval=3)
    for seed in range(8):
        step(model, optimizer, seed)
    assert updater.rewirings == 2
    return model, optimizer, updater


def step(model, optimizer, seed):
    model(batch(seed)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def outputs(model):
    with torch.no_grad():
        return model.eval()(batch(99))


@pytest.mark.parametrize("form", ["sparse", "dense"])
@pytest.mark.parametrize("truly_sparse", [False, True])
def test_results_stay(form, truly_sparse):
    model, _, updater = trained(truly_sparse=truly_sparse)
    before = outputs(model)
    assert finalize_(model, updater.topologies, form=form) is model
    torch.testing.assert_close(outputs(model), before, rtol=1e-5, atol=1e-6)


def test_sparse_form():
    model, _, updater = trained()
    topologies = dict(updater.topologies)
    weights = {name: one.detach().clone() for name, one in updater.parameters.items()}
    finalize_(model, topologies)
    assert isinstance(model.conv, SparseConv2d)
    for name, layer in (("conv", model.conv), ("one", model.one), ("head", model.head)):
        assert layer.topology == topologies[f"{name}.weight"]
        assert torch.equal(layer.dense_weight(), weights[f"{name}.weight"])
    assert model.two.values is model.one.values
    # Attention has no truly sparse form: exact zeros in a dense weight.
    dead = ~topologies["attention.in_proj_weight"].mask
    assert torch.equal(model.attention.in_proj_weight, weights["attention.in_proj_weight"])
    assert not model.attention.in_proj_weight[dead].any()
    assert model.norm.weight.dtype == torch.float32  # the rest is what it was


def test_dense_form_has_exact_zeros():
    model, _, updater = trained(truly_sparse=True)
    topologies = dict(updater.topologies)
    finalize_(model, form="dense", topologies=topologies)
    assert type(model.conv) is nn.Conv2d
    assert type(model.one) is nn.Linear
    assert model.one.weight is model.two.weight
    for name, topology in topologies.items():
        weight = model.get_parameter(name)
        assert not weight[~topology.mask].any()
        assert not torch.signbit(weight[~topology.mask]).any()


@pytest.mark.parametrize("form", ["sparse", "dense"])
@pytest.mark.parametrize("truly_sparse", [False, True])
def test_training_reaches_it_no_more(form, truly_sparse):
    model, optimizer, updater = trained(truly_sparse=truly_sparse)
    model(batch()).sum().backward()
    finalize_(model, updater.topologies, form=form)
    assert not model.training
    assert not any(one.requires_grad for one in model.parameters())
    assert not any(one.grad is not None for one in model.parameters())
    before, old = outputs(model), list(updater.parameters.values())
    for one in old:
        one.requires_grad_(requires_grad=True)
    for _ in range(4):  # a rewiring would be among them
        for one in old:
            one.grad = torch.ones_like(one)
        try:
            optimizer.step()
        except SparsityError as error:
            assert "was replaced" in str(error)  # noqa: PT017  # the updater may as well say so
            updater.detach()
    assert torch.equal(outputs(model), before)


def test_zeros_have_no_sign():
    model = nn.Sequential(nn.Linear(4, 2))
    topology = Topology(torch.tensor([0, 5]), (2, 4))
    with torch.no_grad():
        model[0].weight[~topology.mask] = -0.0
    finalize_(model, {"0.weight": topology}, form="dense")
    assert not torch.signbit(model[0].weight[~topology.mask]).any()


def test_what_serves_gradients_alone_goes():
    model = nn.Sequential(SparseLinear(8, 4, sparsity=0.5))
    model(torch.ones(2, 8, requires_grad=True)).sum().backward()
    assert model[0].layout.pattern(with_columns=False).order is not None
    finalize_(model)
    assert model[0].layout.pattern(with_columns=False).order is None


def test_tied_biases_stay_tied():
    model = nn.Sequential(SparseLinear(8, 4, sparsity=0.5), SparseLinear(4, 4, sparsity=0.5))
    model[1].bias = model[0].bias
    finalize_(model)
    assert model[1].bias is model[0].bias


def test_the_model_can_be_called_while_its_updater_lives():
    model, _, updater = trained()
    finalize_(model, updater.topologies)
    assert not model._forward_pre_hooks
    outputs(model)
    copy.deepcopy(model)


def test_a_users_hook_stays():
    model, _, updater = trained()
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    finalize_(model, updater.topologies)
    outputs(model)
    assert calls == [1]


def test_truly_sparse_layers_need_no_topologies():
    model = nn.Sequential(SparseLinear(16, 8, sparsity=0.5, structure=NM(2, 4)), nn.ReLU())
    topology = model[0].topology
    finalize_(model)
    assert model[0].topology == topology
    assert not model[0].values.requires_grad


def test_a_layer_by_itself_is_replaced():
    layer = nn.Linear(4, 2)
    topology = Topology(torch.tensor([1, 6]), (2, 4))
    with torch.no_grad():
        layer.weight.mul_(topology.mask)
    made = finalize_(layer, {"weight": topology})
    assert isinstance(made, SparseLinear)
    assert type(finalize_(made, form="dense")) is nn.Linear


def test_units_that_may_be_active_are_no_obstacle():
    allowed = torch.arange(8) < 4
    topology = Topology(torch.tensor([0, 3]), (2, 4), allowed=allowed)
    model = nn.Sequential(nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.mul_(topology.mask)
    finalize_(model, {"0.weight": topology})
    assert model[0].topology.units.tolist() == [0, 3]


def test_an_averaged_copy():
    model, _, updater = trained()
    averaged = AveragedModel(model)
    updater.follow(averaged)
    before = outputs(averaged)
    finalize_(averaged, updater.topologies)
    assert isinstance(averaged.module.conv, SparseConv2d)
    torch.testing.assert_close(outputs(averaged), before, rtol=1e-5, atol=1e-6)


def test_recurrent_weights_take_their_new_place():
    model = nn.LSTM(6, 5, batch_first=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    updater = regrow.static(model, optimizer, sparsity=0.5)
    x = torch.randn(2, 3, 6)
    before = model(x)[0]
    finalize_(model, updater.topologies)
    assert torch.equal(model(x)[0], before)
    assert all(a is b for a, b in zip(model._flat_weights, model.parameters(), strict=True))


def refusals():
    topology = Topology(torch.tensor([1, 6]), (2, 4))
    flat = Topology(torch.tensor([1, 6]), (8, 1))
    return [
        ({}, {}, SparsityError, "nothing in the model is sparse"),
        ({"1.weight": topology}, {}, SparsityError, "no parameter; there are: 0.weight, 0.bias"),
        ({"0.weight": flat}, {}, SparsityError, r"has shape \(8, 1\), the weight \(2, 4\)"),
        ({"0.weight": topology}, {}, SparsityError, "6 weights of '0.weight' outside"),
        ({"0.weight": topology.mask}, {}, TypeError, "must be a Topology"),
        ([topology], {}, TypeError, "must map names to topologies"),
        ({"0.weight": topology}, {"form": "csr"}, ValueError, "form must be one of sparse, dense"),
    ]


@pytest.mark.parametrize(("topologies", "how", "kind", "message"), refusals())
def test_refused_before_anything_changes(topologies, how, kind, message):
    model = nn.Sequential(nn.Linear(4, 2)).train()
    layer, state = model[0], copy.deepcopy(model.state_dict())
    with pytest.raises(kind, match=message):
        finalize_(model, topologies, **how)
    assert model[0] is layer
    assert model.training
    assert layer.weight.requires_grad
    assert all(torch.equal(one, state[name]) for name, one in model.state_dict().items())


def test_another_topology_of_a_truly_sparse_layer_is_refused():
    model = nn.Sequential(SparseLinear(4, 2, sparsity=0.5, seed=0))
    other = SparseLinear(4, 2, sparsity=0.5, seed=1).topology
    with pytest.raises(SparsityError, match="is not the one that the truly sparse layer has"):
        finalize_(model, {"0.weight": other})


def test_parallel_wrappers_are_refused():
    with pytest.raises(SparsityError, match=r"model\.module"):
        finalize_(nn.DataParallel(nn.Linear(4, 2)))
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        finalize_({"weight": torch.ones(2, 2)})
