"""FLOPs are those of FlopCounterMode, booked on the right weight, and nothing is left changed."""

import copy

import pytest
import torch
from reference_models import torchvision_model
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.flop_counter import FlopCounterMode

import regrow
from regrow.accounting import attribute

SEQUENCE = torch.zeros(3, 5, 8)
LAYERS = {
    "linear": (nn.Linear(7, 5), torch.zeros(3, 7), {"weight": 2 * 3 * 7 * 5}),
    "linear without bias": (nn.Linear(7, 5, bias=False), torch.zeros(7), {"weight": 2 * 7 * 5}),
    "linear on a sequence": (nn.Linear(8, 5), SEQUENCE, {"weight": 2 * 15 * 8 * 5}),
    "conv1d": (nn.Conv1d(3, 8, 3), torch.zeros(2, 3, 9), {"weight": 2 * (2 * 8 * 7) * 9}),
    "conv2d": (
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        torch.zeros(2, 3, 9, 9),
        {"weight": 2 * (2 * 8 * 5 * 5) * 27},
    ),
    "conv3d": (nn.Conv3d(3, 4, 2), torch.zeros(1, 3, 4, 4, 4), {"weight": 2 * (4 * 27) * 24}),
    "grouped": (
        nn.Conv2d(4, 8, 3, groups=2),
        torch.zeros(2, 4, 9, 9),
        {"weight": 2 * (2 * 8 * 7 * 7) * 18},
    ),
    "depthwise": (
        nn.Conv2d(4, 4, 3, groups=4),
        torch.zeros(2, 4, 9, 9),
        {"weight": 2 * (2 * 4 * 7 * 7) * 9},
    ),
    # Each input meets every weight that leaves from its channel.
    "transposed": (
        nn.ConvTranspose2d(4, 6, 3, stride=2),
        torch.zeros(2, 4, 5, 5),
        {"weight": 2 * (2 * 4 * 5 * 5) * 54},
    ),
    "transposed, grouped": (
        nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2),
        torch.zeros(2, 4, 5, 5),
        {"weight": 2 * (2 * 4 * 5 * 5) * 27},
    ),
    "gru": (
        nn.GRU(8, 7, num_layers=2, batch_first=True),
        SEQUENCE,
        {
            "weight_ih_l0": 2 * 15 * 21 * 8,
            "weight_hh_l0": 2 * 15 * 21 * 7,
            "weight_ih_l1": 2 * 15 * 21 * 7,
            "weight_hh_l1": 2 * 15 * 21 * 7,
        },
    ),
    "lstm": (
        nn.LSTM(8, 7, bidirectional=True, batch_first=True),
        SEQUENCE,
        {
            "weight_ih_l0": 2 * 15 * 28 * 8,
            "weight_hh_l0": 2 * 15 * 28 * 7,
            "weight_ih_l0_reverse": 2 * 15 * 28 * 8,
            "weight_hh_l0_reverse": 2 * 15 * 28 * 7,
        },
    ),
    "rnn cell": (
        nn.RNNCell(8, 7),
        torch.zeros(3, 8),
        {"weight_ih": 2 * 3 * 7 * 8, "weight_hh": 2 * 3 * 7 * 7},
    ),
    "attention": (
        nn.MultiheadAttention(8, 2, batch_first=True),
        (SEQUENCE, SEQUENCE, SEQUENCE),
        {"in_proj_weight": 2 * 15 * 24 * 8, "out_proj.weight": 2 * 15 * 8 * 8},
    ),
    "attention of three widths": (
        nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True),
        (SEQUENCE, torch.zeros(3, 4, 6), torch.zeros(3, 4, 4)),
        {
            "q_proj_weight": 2 * 15 * 8 * 8,
            "k_proj_weight": 2 * 12 * 8 * 6,
            "v_proj_weight": 2 * 12 * 8 * 4,
            "out_proj.weight": 2 * 15 * 8 * 8,
        },
    ),
    "transformer layer": (
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        SEQUENCE,
        {
            "self_attn.in_proj_weight": 2 * 15 * 24 * 8,
            "self_attn.out_proj.weight": 2 * 15 * 8 * 8,
            "linear1.weight": 2 * 15 * 16 * 8,
            "linear2.weight": 2 * 15 * 8 * 16,
        },
    ),
}


@pytest.fixture
def _no_onednn():
    """FlopCounterMode does not see the products inside oneDNN's LSTM."""
    torch._C._set_mkldnn_enabled(False)
    yield
    torch._C._set_mkldnn_enabled(True)


@pytest.mark.usefixtures("_no_onednn")
@pytest.mark.parametrize("name", LAYERS)
def test_total_is_flop_counter_mode_and_each_weight_has_its_own(name):
    layer, inputs, expected = LAYERS[name]
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    with FlopCounterMode(display=False) as counter:
        layer(*arguments)
    total, costs = attribute(layer, inputs)
    assert total == counter.get_total_flops()
    assert {name: cost.flops for name, cost in costs.items()} == expected
    assert total >= sum(expected.values())
    report = regrow.count(layer, inputs, {})
    assert report.dense_forward_flops == report.forward_flops == total


def test_lstm_is_counted_where_onednn_hides_it():
    lstm, inputs, expected = LAYERS["lstm"]
    assert attribute(lstm, inputs)[0] == sum(expected.values())


def test_what_reads_no_parameter_is_in_the_total_alone():
    """Scores and values of attention: batch 3, 2 heads, 5 x 5 positions, 4 wide, twice."""
    layer, inputs, expected = LAYERS["attention"]
    assert attribute(layer, inputs)[0] - sum(expected.values()) == 2 * 3 * 2 * (5 * 5 * 4) * 2


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "vit_b_16"])
def test_torchvision_networks(name):
    model = torchvision_model(name).eval()
    inputs = torch.empty(1, 3, 224, 224, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(inputs)
    assert attribute(model, inputs)[0] == counter.get_total_flops()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.body = nn.Linear(4, 4, bias=False)
        self.again = nn.Linear(4, 4, bias=False)
        self.again.weight = self.body.weight
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.again(self.body(self.embedding(tokens)).relu()))


def test_tied_weights_are_one_weight_read_twice():
    model = Tied()
    tokens = torch.zeros(3, dtype=torch.int64)
    total, costs = attribute(model, tokens)
    assert {name: cost.flops for name, cost in costs.items()} == {
        "embedding.weight": 2 * 3 * 4 * 10,
        "body.weight": 2 * (2 * 3 * 4 * 4),
    }
    assert costs["body.weight"].n_outputs == 2 * 12
    report = regrow.count(model, tokens, {"body.weight": 0.5})
    assert report.parameters == 40 + 16
    assert report.live_parameters == 40 + 8
    assert report.forward_flops == total - 96


class Functional(nn.Module):
    """Weights reached through views, functions and slices, in another order than registered."""

    def __init__(self):
        super().__init__()
        self.late = nn.Parameter(torch.randn(6, 4))
        self.early = nn.Parameter(torch.randn(4, 2, 4))
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        hidden = x @ self.early.flatten(1).t()[:8]
        return nn.functional.linear(hidden, self.late[:3]) + x.sum() * (x @ x.t()).mean()


def test_views_of_a_parameter_are_the_parameter():
    model = Functional()
    inputs = torch.zeros(5, 8)
    total, costs = attribute(model, inputs)
    assert costs["early"].flops == 2 * 5 * 8 * 4
    assert costs["late"].flops == 2 * 5 * 4 * 3
    assert (costs["unused.weight"].flops, costs["unused.weight"].order) == (0, -1)
    assert costs["early"].order < costs["late"].order
    assert total == 320 + 120 + 2 * 5 * 8 * 5


class MatrixBias(nn.Module):
    """Its bias has two dimensions, as learned positions have."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 5))
        self.weight = nn.Parameter(torch.zeros(5, 7))

    def forward(self, x):
        return nn.functional.linear(x, self.weight, self.bias.view(-1))


def test_a_bias_added_by_the_same_operation_costs_nothing():
    _, costs = attribute(MatrixBias(), torch.zeros(3, 7))
    assert (costs["weight"].flops, costs["bias"].flops) == (2 * 3 * 7 * 5, 0)


class Awkward(nn.Module):
    """All that a forward pass can leave behind: modes, statistics, random state."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.frozen = nn.BatchNorm2d(4).eval()
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.drop(self.frozen(self.norm(self.conv(x)))).mean(dim=(2, 3))
        return self.head(x + torch.randn_like(x))


def test_the_model_is_left_as_it_was():
    model = Awkward()
    before = copy.deepcopy(model.state_dict())
    versions = {name: p._version for name, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    assert True in modes
    assert False in modes
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    attribute(model, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.rand(2), expected)
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert {name: p._version for name, p in model.named_parameters()} == versions
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_forward_pass_that_fails_leaves_nothing_behind():
    model = Awkward()
    modes = [module.training for module in model.modules()]
    settings = (torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled())
    with pytest.raises(RuntimeError):
        attribute(model, torch.zeros(2, 5, 8, 8))
    assert [module.training for module in model.modules()] == modes
    assert settings == (torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled())
    assert torch.is_grad_enabled()


def test_global_settings_come_back():
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        attribute(nn.Linear(2, 2), torch.zeros(1, 2))
        assert not torch.backends.mha.get_fastpath_enabled()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    attribute(nn.Linear(2, 2), torch.zeros(1, 2))
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch._C._get_mkldnn_enabled()


@pytest.mark.parametrize(
    "wrap",
    [
        AveragedModel,
        torch.compile,
        nn.DataParallel,
        lambda m: torch.compile(AveragedModel(m)),
        lambda m: nn.Sequential(torch.compile(m[0]), m[1]),
    ],
)
def test_names_have_no_traces_of_wrappers(wrap):
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    inputs = torch.zeros(1, 4)
    total, costs = attribute(wrap(model), inputs)
    assert total == 2 * 12 + 2 * 6
    assert {name: cost.flops for name, cost in costs.items()} == {"0.weight": 24, "1.weight": 12}
