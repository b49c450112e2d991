"""What compress_ and the methods behind it refuse, before anything changes."""

from typing import Any

import pytest
import torch
from compact_cases import OPTIMIZERS, SPARSITY, batches, linear_net, loss_of
from torch import Tensor, nn
from torch.nn.parallel import DataParallel
from torch.optim.swa_utils import AveragedModel

import regrow
from regrow import compress_, criteria
from regrow.errors import SparsityError
from regrow.nn import SparseLinear

X = batches(1)[0][0]


def snapshot(net: nn.Module) -> list[Any]:
    """Modules, parameters by identity, and copies of the values."""
    values = [v.clone() for v in net.state_dict().values() if isinstance(v, Tensor)]
    return [list(map(id, net.modules())), list(map(id, net.parameters())), values]


def unchanged(before: list[Any], net: nn.Module) -> bool:
    now = snapshot(net)
    same = all(torch.equal(a, b) for a, b in zip(before[2], now[2], strict=True))
    return before[:2] == now[:2] and same


class Lost(nn.Module):
    """Takes what nothing else does."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("no such input")


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (linear_net, {"convert": "fast"}, ValueError, "all, faster; got 'fast'"),
        (linear_net, {"convert": "faster"}, ValueError, "inputs must be an example batch"),
        (linear_net, {"sparsity": 1.0}, ValueError, r"sparsity.*\[0, 1\).*1"),
        (linear_net, {"sparsity": None}, SparsityError, "sparsity"),
        (linear_net, {"sparsity": "0.5"}, (TypeError, ValueError), "sparsity"),
        (linear_net, {"allocation": regrow.uniform}, TypeError, "allocation must be a rule"),
        (linear_net, {"structure": "2:4"}, TypeError, "structure"),
        (linear_net, {"structure": regrow.Block(5, 4)}, SparsityError, r"'0\.weight'.*4\.weight"),
        (linear_net, {"select": "conv*"}, SparsityError, r"select='conv\*' matches no parameter"),
        (linear_net, {"seed": "a"}, TypeError, "seed must be an integer, got 'a'"),
        (linear_net, {"seed": 1.5}, TypeError, "seed must be an integer, got 1.5"),
        (lambda: nn.ReLU(), {}, SparsityError, "no weight is selected"),
        (lambda: nn.Linear(4, 4), {}, SparsityError, "itself a Linear.*Sequential.*sparse_form"),
        (lambda: nn.Conv2d(4, 4, 3), {}, SparsityError, "itself a Conv2d"),
        (lambda: DataParallel(linear_net()), {}, SparsityError, "DataParallel has taken over"),
        (lambda: "net", {}, TypeError, "model must be a torch.nn.Module, got str"),
        (Lost, {"convert": "faster", "inputs": X}, ValueError, "no such input"),
        (linear_net, {"convert": "faster", "inputs": X[:, :3]}, RuntimeError, "shapes"),
    ],
)  # fmt: skip
def test_nothing_changes_where_it_is_refused(
    make: Any, options: Any, error: Any, message: str
) -> None:
    net = make()
    before = snapshot(net) if isinstance(net, nn.Module) else None
    with pytest.raises(error, match=message):
        compress_(net, **{"sparsity": 0.5, **options})
    if before is not None:
        assert unchanged(before, net)


def test_averaged_models_and_compiled_ones() -> None:
    """Wrapped, but nothing has taken the parameters over: the module inside is converted."""
    net = AveragedModel(linear_net())
    topologies = compress_(net, sparsity=0.5)
    assert list(topologies) == ["0.weight", "2.weight", "4.weight"]
    assert isinstance(net.module[0], SparseLinear)
    inner = linear_net()
    compiled = torch.compile(inner, backend="eager")
    compress_(compiled, sparsity=0.5)
    assert isinstance(inner[0], SparseLinear)
    assert compiled(X).shape == (12, 6)
    torch._dynamo.reset()


def test_models_that_have_an_updater_are_refused_or_told() -> None:
    """Its parameters would be replaced under an optimizer that goes on with the old ones."""
    net = linear_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    regrow.static(net, optimizer, sparsity=0.5)
    compressed = False
    try:
        compress_(net, sparsity=0.5)
        compressed = True
        loss_of(net, batches(1)[0])
    except SparsityError as error:
        assert "'0.weight'" in str(error)  # noqa: PT017
    else:
        pytest.fail(f"nobody noticed (compressed: {compressed})")


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("rigl", {"sparsity": 0.7}),
        ("rigl", {"allocation": regrow.uniform()}),
        ("mest", {"soft_bound": 0.3, "sparsity": 0.5}),
        ("granet", {}),
        ("granet", {"initial_sparsity": 0.3}),
        ("gradual", {}),
    ],
)
def test_counts_that_are_others_are_refused(method: str, options: dict[str, Any]) -> None:
    net = linear_net()
    compress_(net, sparsity=SPARSITY)
    before = snapshot(net)
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    schedule = {"n_steps": 20, "interval": 4}
    with pytest.raises(SparsityError, match=r"weight' is truly sparse with [\d,]+ units, where"):
        getattr(regrow, method)(net, optimizer, **{"sparsity": SPARSITY, **schedule, **options})
    assert unchanged(before, net)
    assert not optimizer._optimizer_step_pre_hooks


def test_other_topologies_are_refused() -> None:
    net = linear_net()
    drawn = compress_(net, sparsity=SPARSITY, seed=1)
    other = compress_(linear_net(), sparsity=SPARSITY, seed=2)
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    with pytest.raises(SparsityError, match=r"given for '0\.weight' is not the one .* has: leave"):
        regrow.static(net, optimizer, sparsity=None, allocation=regrow.explicit(other))
    with pytest.raises(SparsityError, match="structure=ConstantFanIn"):
        regrow.static(net, optimizer, sparsity=SPARSITY, structure=regrow.ConstantFanIn())
    updater = regrow.static(net, optimizer, sparsity=None, allocation=regrow.explicit(drawn))
    assert updater.nnz == sum(topology.nnz for topology in drawn.values())


@pytest.mark.parametrize("argument", ["drop", "grow"])
def test_criteria_that_ask_for_the_past_are_refused(argument: str) -> None:
    net = linear_net()
    compress_(net, sparsity=SPARSITY)
    before = snapshot(net)
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    past = criteria.weighted_sum((criteria.never_active, 1.0), (criteria.random, 1.0))
    rule = regrow.Rule(
        **{"drop": criteria.magnitude, "grow": criteria.random, argument: past},
        drop_fraction=lambda step: 0.5,
        window=regrow.schedules.UpdateWindow.of_training(8, interval=2, stop_at=1.0),
    )
    layers = regrow.training._prepare.prepare_layers(
        net, sparsity=None, allocation=regrow.uniform(), structure=regrow.Unstructured(),
        select=regrow.default_weights, seed=0,
    )  # fmt: skip
    part = regrow.training.Part(layers, rule)
    with pytest.raises(SparsityError, match="never_active"):
        regrow.TopologyUpdater(net, optimizer, parts=[part], seed=0)
    if argument == "drop":
        with pytest.raises(SparsityError, match=r"'0\.weight'.*keep it masked, or use a criterion"):
            regrow.rigl(net, optimizer, sparsity=SPARSITY, n_steps=8, interval=2, drop=past)
    assert unchanged(before, net)
    assert not optimizer._optimizer_step_pre_hooks


def test_an_optimizer_of_before_is_told_the_way() -> None:
    net = linear_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    compress_(net, sparsity=SPARSITY)
    with pytest.raises(SparsityError, match=r"in 0 of the optimizers.*this model, after compress_"):
        regrow.rigl(net, optimizer, sparsity=None, n_steps=8, interval=2)


def test_no_advice_of_muon() -> None:
    net = linear_net()
    compress_(net, sparsity=SPARSITY)
    optimizer = torch.optim.LBFGS(net.parameters())
    with pytest.raises(ValueError, match=r"AdamW, RMSprop or another .*not for truly sparse ones"):
        regrow.rigl(net, optimizer, sparsity=None, n_steps=8, interval=2)


def test_muon_is_refused() -> None:
    net = linear_net()
    compress_(net, sparsity=SPARSITY)
    values = [p for name, p in net.named_parameters() if name.endswith("values")]
    rest = [p for name, p in net.named_parameters() if not name.endswith("values")]
    for parameters in (values,):
        with pytest.raises(ValueError, match=r"2D|2-D|Muon"):
            torch.optim.Muon(parameters, lr=0.1)  # torch itself takes matrices only
    optimizer = torch.optim.Muon([nn.Parameter(torch.zeros(2, 2))], lr=0.1)
    optimizer.param_groups[0]["params"] = values
    before = snapshot(net)
    adam = torch.optim.AdamW(rest)
    with pytest.raises(SparsityError, match=r"Muon cannot train .*'0\.weight'.*AdamW or SGD.*mask"):
        regrow.rigl(net, [optimizer, adam], sparsity=SPARSITY, n_steps=8, interval=2)
    assert unchanged(before, net)
