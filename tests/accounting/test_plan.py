"""plan(): every tensor of the model, and why it is dense."""

import pytest
import torch
from torch import nn

import regrow
from regrow.accounting import make_plan
from regrow.topology import Topology


class Zoo(nn.Module):
    """One tensor of each kind that stays dense, beside sparse ones."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.scale = nn.Parameter(torch.ones(()))
        self.tokens = nn.Embedding(11, 8)
        self.places = nn.Embedding(5, 8)
        self.wide = nn.Linear(8, 64)
        self.norm = nn.LayerNorm(64)
        self.back = nn.Linear(64, 8, bias=False)
        self.batch = nn.BatchNorm1d(8)
        self.recurrent = nn.GRU(8, 8, batch_first=True)
        self.skipped = nn.Linear(8, 8, bias=False)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens):
        x = self.tokens(tokens) + self.places.weight[: tokens.shape[1]] + self.cls_token
        x = self.back(self.norm(self.wide(x)).relu()) * self.scale
        x = self.batch(x.transpose(1, 2)).transpose(1, 2)
        return self.head(self.skipped(self.recurrent(x)[0]))


TOKENS = torch.zeros(3, 5, dtype=torch.int64)


def select(name, module, parameter):
    return "skipped" not in name and regrow.default_weights(name, module, parameter)


def optimizer_of(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.fixture
def updater():
    model = Zoo()
    names = ["wide.weight", "back.weight", "recurrent.weight_ih_l0", "recurrent.weight_hh_l0"]
    return regrow.static(model, optimizer_of(model), sparsity=0.6, select=names)


def test_every_tensor_has_a_row_and_every_dense_one_a_reason(updater):
    plan = updater.plan()
    rows = {row.name: row for row in plan.rows}
    named = dict(updater._model.named_parameters())
    assert list(rows) == [
        "tokens.weight = head.weight" if name == "tokens.weight" else name for name in named
    ]
    assert {name: row.reason for name, row in rows.items() if not row.structure} == {
        "cls_token": "free parameter of Zoo",
        "scale": "0-d parameter",
        "tokens.weight = head.weight": "tied to an embedding",
        "places.weight": "embedding",
        "wide.bias": "bias",
        "norm.weight": "norm (LayerNorm)",
        "norm.bias": "norm (LayerNorm)",
        "batch.weight": "norm (BatchNorm1d)",
        "batch.bias": "norm (BatchNorm1d)",
        "recurrent.bias_ih_l0": "bias",
        "recurrent.bias_hh_l0": "bias",
        "skipped.weight": "left out by select",
    }
    for name, topology in updater.topologies.items():
        row = rows[name]
        assert row.structure == "Unstructured()"
        assert (row.nnz, row.sparsity) == (topology.nnz, topology.sparsity)
        n_mask_bytes = -(-topology.n_elements // 8) if topology.sparsity else 0
        assert row.bytes == 4 * topology.nnz + n_mask_bytes
    for row in plan.rows:
        assert row.shape == tuple(named[row.name.partition(" =")[0]].shape)
        assert row.flops is None
        if not row.structure:
            assert row.sparsity == 0
            assert row.bytes == 4 * row.nnz == 4 * torch.Size(row.shape).numel()
    assert plan.sparsity == pytest.approx(updater.sparsity)
    assert plan.cost is None


def test_by_default_a_tied_head_stays_dense():
    model = Zoo()
    updater = regrow.static(model, optimizer_of(model), sparsity=0.6)
    assert list(updater.topologies) == [
        "wide.weight",
        "back.weight",
        "recurrent.weight_ih_l0",
        "recurrent.weight_hh_l0",
        "skipped.weight",
    ]


def test_with_inputs_there_are_flops(updater):
    plan = updater.plan(TOKENS)
    flops = {row.name: row.flops for row in plan.rows}
    nnz = {name: topology.nnz for name, topology in updater.topologies.items()}
    assert flops["wide.weight"] == 2 * 15 * nnz["wide.weight"]
    assert flops["recurrent.weight_hh_l0"] == 2 * 15 * nnz["recurrent.weight_hh_l0"]
    assert flops["skipped.weight"] == 2 * 15 * 64
    assert flops["tokens.weight = head.weight"] == 2 * 15 * 88
    assert flops["norm.weight"] == 0
    assert plan.cost.forward_flops == sum(flops.values())
    assert plan.cost.nnz == updater.nnz


def test_layers_that_the_allocation_fills_are_named():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(40, 400), nn.Linear(400, 400))
    updater = regrow.static(model, optimizer_of(model), sparsity=0.8)
    plan = updater.plan()
    assert plan.full_layers == ("0.weight",)
    (row,) = [row for row in plan.rows if row.name == "0.weight"]
    assert row.reason == ("full: its share under erdos_renyi_kernel() reaches all its connections")
    assert "3 sparse tensors, 1 of them full" in str(plan)
    assert all(not row.reason for row in plan.rows if row.structure and row.sparsity)


def test_the_rule_that_filled_a_layer_is_the_one_that_was_passed():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    allocation = regrow.uniform(first_layer_dense=True)
    plan = regrow.static(model, optimizer_of(model), sparsity=0.5, allocation=allocation).plan()
    assert plan.full_layers == ("0.weight",)
    assert "under uniform(first_layer_dense=True)" in plan.rows[0].reason


def test_sparsity_zero_says_so():
    model = nn.Linear(4, 4)
    plan = regrow.static(model, optimizer_of(model), sparsity=0).plan()
    assert plan.rows[0].reason == "full: sparsity 0 was asked for"
    assert plan.sparsity == 0


def test_full_layers_that_will_be_pruned_say_so():
    model = nn.Linear(10, 10)
    plan = regrow.gradual(model, optimizer_of(model), sparsity=0.9, n_steps=100, interval=10).plan()
    assert plan.rows[0].reason == "full now, may be pruned later"
    assert any("sparsity at the last rewiring: 0.9000" in note for note in plan.notes)


def test_notes_say_when_rewirings_come():
    model = nn.Linear(10, 10)
    plan = regrow.rigl(model, optimizer_of(model), sparsity=0.5, n_steps=100, interval=10).plan()
    assert plan.notes == ("7 rewirings planned: every 10 steps, first at step 10, last at step 70",)
    model = nn.Linear(10, 10)
    plan = regrow.static(model, optimizer_of(model), sparsity=0.5).plan()
    assert plan.notes == ("no rewiring: the topology stays",)


def test_printed_plan(updater):
    text = str(updater.plan(TOKENS))
    lines = text.splitlines()
    assert lines[0].split() == [
        "tensor", "shape", "structure", "nnz", "sparsity", "FLOPs", "bytes", "reason",
    ]  # fmt: skip
    table = lines[2 : lines.index("")]
    assert len(table) == len(updater.plan().rows)
    wide = next(line for line in table if line.startswith("wide.weight"))
    topology = updater.topologies["wide.weight"]
    assert "64x8" in wide
    assert f" {topology.nnz} " in wide
    assert f"{topology.sparsity:.4f}" in wide
    assert next(line for line in table if line.startswith("scale")).split()[1:3] == [
        "scalar", "dense",
    ]  # fmt: skip
    assert f"{updater.nnz:,} of {512 + 512 + 192 + 192:,} connections" in text
    assert f"sparsity {updater.sparsity:.4f}; 12 tensors stay dense" in text
    assert "forward pass: " in text
    assert all(line == line.rstrip() for line in lines)


def test_forward_pass_without_products_divides_by_nothing():
    plan = make_plan(nn.ReLU(), {}, torch.zeros(2), reasons={})
    assert "0 sparse tensors" in str(plan)
    assert plan.sparsity == 0.0


def test_plan_of_topologies_from_anywhere():
    model = nn.Linear(4, 2)
    topology = Topology(torch.tensor([0, 5]), (2, 4))
    plan = make_plan(model, {"weight": topology}, torch.zeros(1, 4), reasons={"bias": "why not"})
    weight, bias = plan.rows
    assert (weight.nnz, weight.sparsity, weight.flops, weight.bytes) == (2, 0.75, 4, 9)
    assert (bias.reason, bias.structure, bias.nnz) == ("why not", "", 2)
