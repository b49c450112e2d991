"""What is refused, with a message that says what would work, and nothing changed."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_cases import METHODS, batches, loss_of, masks_of, same, snapshot, tiny_net
from torch import nn

import regrow
from regrow.errors import InfeasibleSparsityError, SparsityError

SCHEDULED = {
    "set": regrow.set_training,
    "rigl": regrow.rigl,
    "mest": regrow.mest,
    "granet": regrow.granet,
    "gradual": regrow.gradual,
}


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def assert_refused(
    kind: type[Exception],
    match: str,
    call: Callable[[nn.Module, torch.optim.Optimizer], object],
    *,
    net: nn.Module | None = None,
    optimizer: Any = None,
) -> None:
    """The call raises, and model and optimizer are as they were, hooks included."""
    net = tiny_net() if net is None else net
    optimizer = sgd(net.parameters()) if optimizer is None else optimizer
    listed = [
        one
        for one in (optimizer if isinstance(optimizer, list) else [optimizer])
        if isinstance(one, torch.optim.Optimizer)
    ]
    for one in listed:
        if not isinstance(one, torch.optim.LBFGS | torch.optim.SparseAdam):
            for parameter in net.parameters():
                parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
            one.step()
            one.zero_grad()
    before = snapshot(net, [])
    states = [copy.deepcopy(one.state_dict()) for one in listed]
    hooks = [hooks_of(net, one) for one in listed]
    with pytest.raises(kind, match=match):
        call(net, optimizer)
    assert same(before, snapshot(net, []))
    for one, state, hook in zip(listed, states, hooks, strict=True):
        assert repr(one.state_dict()) == repr(state)
        assert hooks_of(net, one) == hook


def hooks_of(net: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, ...]:
    return (
        len(optimizer._optimizer_step_pre_hooks),
        len(optimizer._optimizer_step_post_hooks),
        len(net._forward_pre_hooks),
        sum(len(p._post_accumulate_grad_hooks or {}) for p in net.parameters()),
    )


# -- the budget ------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [1.0, -0.1, 90, 1.5, float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["static", *SCHEDULED])
def test_sparsity_out_of_range(method: str, sparsity: float) -> None:
    schedule = {} if method == "static" else {"n_steps": 100, "interval": 5}
    make = {"static": regrow.static, **SCHEDULED}[method]
    assert_refused(
        ValueError,
        r"sparsity must lie in \[0, 1\), got",
        lambda net, optimizer: make(net, optimizer, sparsity=sparsity, **schedule),
    )


def test_a_percentage_is_told_its_fraction() -> None:
    assert_refused(
        ValueError, "90 per cent is sparsity=0.9", lambda net, o: regrow.static(net, o, sparsity=90)
    )


@pytest.mark.parametrize("sparsity", ["0.5", None, True])
def test_sparsity_of_another_type(sparsity: Any) -> None:
    assert_refused(
        (TypeError, SparsityError),  # type: ignore[arg-type]
        "sparsity",
        lambda net, o: regrow.static(net, o, sparsity=sparsity),
    )


def test_an_infeasible_budget_says_what_is_feasible() -> None:
    net = tiny_net()
    with pytest.raises(InfeasibleSparsityError, match="cannot be met") as caught:
        regrow.static(net, sgd(net.parameters()), sparsity=0.9999)
    largest = caught.value.largest_feasible
    assert largest is not None
    assert 0.9 < largest < 0.9999
    net = tiny_net()
    updater = regrow.static(net, sgd(net.parameters()), sparsity=largest)
    assert min(topology.nnz for topology in updater.topologies.values()) >= 1
    assert_refused(
        InfeasibleSparsityError,
        "conv.weight|head.weight|mid.weight",
        lambda net, o: regrow.static(net, o, sparsity=0.9999),
    )


@pytest.mark.parametrize("make", [regrow.granet, regrow.gradual])
def test_initial_sparsity_above_the_target(make: Any) -> None:
    assert_refused(
        ValueError,
        "initial_sparsity=0.9 lies above sparsity=0.7.*at most 0.7",
        lambda net, o: make(net, o, sparsity=0.7, initial_sparsity=0.9, n_steps=100, interval=5),
    )


@pytest.mark.parametrize("make", [regrow.granet, regrow.gradual])
def test_initial_sparsity_out_of_range(make: Any) -> None:
    assert_refused(
        ValueError,
        "initial_sparsity must lie in",
        lambda net, o: make(net, o, sparsity=0.7, initial_sparsity=-0.2, n_steps=100, interval=5),
    )


# -- the schedule ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(SCHEDULED))
def test_an_interval_too_long(method: str) -> None:
    assert_refused(
        ValueError,
        "interval=100 never comes due.*choose an interval below",
        lambda net, o: SCHEDULED[method](net, o, sparsity=0.7, n_steps=100),
    )


@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [
        ("interval", 0, ValueError),
        ("interval", -5, ValueError),
        ("interval", 2.5, TypeError),
        ("n_steps", 0, ValueError),
        ("n_steps", "100", TypeError),
        ("stop_at", 0.0, ValueError),
        ("stop_at", 1.5, ValueError),
        ("weight_step", "later", ValueError),
        ("seed", 1.5, TypeError),
        ("seed", True, TypeError),
    ],
)
@pytest.mark.parametrize("method", list(SCHEDULED))
def test_schedule_arguments(method: str, option: str, value: Any, kind: type[Exception]) -> None:
    options = {"n_steps": 100, "interval": 5, option: value}
    assert_refused(kind, option, lambda net, o: SCHEDULED[method](net, o, sparsity=0.7, **options))


@pytest.mark.parametrize("method", ["set", "rigl", "mest", "granet"])
@pytest.mark.parametrize(
    ("option", "value"),
    [("drop_fraction", 1.5), ("drop_fraction", -0.1), ("regrow", "sometimes")],
)
def test_rewiring_arguments(method: str, option: str, value: Any) -> None:
    assert_refused(
        ValueError,
        f"{option} must",
        lambda net, o: SCHEDULED[method](
            net, o, sparsity=0.7, n_steps=100, interval=5, **{option: value}
        ),
    )


@pytest.mark.parametrize("make", [regrow.mest, regrow.granet])
@pytest.mark.parametrize("growth", ["momentum", "Gradient", "", None])
def test_unknown_growth(make: Any, growth: Any) -> None:
    assert_refused(
        ValueError,
        "growth must be one of random, gradient; got",
        lambda net, o: make(net, o, sparsity=0.7, n_steps=100, interval=5, growth=growth),
    )


def test_a_target_before_the_first_rewiring() -> None:
    assert_refused(
        ValueError,
        "no rewiring is due by prune_until=0.1 of 100 steps: the first is at step 20",
        lambda net, o: regrow.granet(
            net, o, sparsity=0.7, n_steps=100, interval=20, prune_until=0.1
        ),
    )


def test_a_soft_bound_below_zero() -> None:
    assert_refused(
        ValueError,
        "soft_bound must be at least 0, got -0.1",
        lambda net, o: regrow.mest(net, o, sparsity=0.7, n_steps=100, interval=5, soft_bound=-0.1),
    )


def test_arguments_are_never_swallowed() -> None:
    for make in (regrow.static, *SCHEDULED.values()):
        assert_refused(
            TypeError,
            "densty",
            lambda net, o: make(net, o, sparsity=0.7, densty=0.3),  # noqa: B023
        )


def test_a_model_or_optimizer_of_another_kind() -> None:
    net = tiny_net()
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got list"):
        regrow.static([net], sgd(net.parameters()), sparsity=0.5)
    for wrong in (None, net, "sgd", [None]):
        with pytest.raises(TypeError, match=r"optimizer must be a torch\.optim\.Optimizer"):
            regrow.static(net, wrong, sparsity=0.5)
    with pytest.raises(ValueError, match="empty sequence"):
        regrow.static(net, [], sparsity=0.5)
    one = sgd(net.parameters())
    with pytest.raises(ValueError, match="the same optimizer twice"):
        regrow.static(net, [one, one], sparsity=0.5)
    assert net.fc.weight.detach().all()


# -- which weights ---------------------------------------------------------------------------


def test_a_glob_that_matches_nothing() -> None:
    for select in ("decoder.*", ["conv.weight", "decoder.*"]):
        assert_refused(
            SparsityError,
            r"'decoder\.\*' matches no parameter; there are: conv.weight, conv.bias",
            lambda net, o: regrow.static(net, o, sparsity=0.5, select=select),  # noqa: B023
        )


def test_nothing_selected() -> None:
    assert_refused(
        SparsityError,
        "no weight is selected",
        lambda net, o: regrow.static(net, o, sparsity=0.5, select=lambda *_: False),
    )
    only_norms = nn.Sequential(nn.BatchNorm1d(4), nn.Embedding(4, 4))
    assert_refused(
        SparsityError,
        "no weight is selected",
        lambda net, o: regrow.static(net, o, sparsity=0.5),
        net=only_norms,
    )


def test_a_weight_in_no_optimizer() -> None:
    net = tiny_net()
    optimizer = sgd([p for n, p in net.named_parameters() if n != "mid.weight"])
    assert_refused(
        SparsityError,
        r"'mid\.weight' is in 0 of the optimizers.*parameters of this model$",
        lambda net, o: regrow.static(net, o, sparsity=0.5),
        net=net,
        optimizer=optimizer,
    )


def test_an_optimizer_of_another_model() -> None:
    optimizer = sgd(tiny_net().parameters())
    with pytest.raises(SparsityError, match="is in 0 of the optimizers"):
        regrow.static(tiny_net(), optimizer, sparsity=0.5)


def test_a_weight_in_two_optimizers() -> None:
    net = tiny_net()
    optimizers = [sgd(net.parameters()), sgd([net.mid.weight])]
    assert_refused(
        SparsityError,
        r"'mid\.weight' is in 2 of the optimizers.*take it out of the others",
        lambda net, o: regrow.static(net, o, sparsity=0.5),
        net=net,
        optimizer=optimizers,
    )


def test_a_weight_that_does_not_train() -> None:
    net = tiny_net()
    net.mid.weight.requires_grad_(False)
    assert_refused(
        SparsityError,
        r"'mid\.weight' has requires_grad=False",
        lambda net, o: regrow.static(net, o, sparsity=0.5),
        net=net,
    )
    updater = regrow.static(
        net, sgd(net.parameters()), sparsity=0.5, select=["conv.weight", "fc.weight"]
    )
    assert "mid.weight" not in updater.topologies


def test_a_lazy_model_that_has_not_run() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(3))
    with pytest.raises(SparsityError, match=r"'1\.weight' is not initialised: run the lazy model"):
        regrow.static(net, sgd(net[0].parameters()), sparsity=0.5)
    assert net[0].weight.detach().all()


def test_a_wrapped_tensor_such_as_a_shard() -> None:
    class Shard(torch.Tensor):
        pass

    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = nn.Parameter(torch.randn(4, 4).as_subclass(Shard))
    with pytest.raises(SparsityError, match=r"'1\.weight' is a Shard: .*only those of fully_shard"):
        regrow.static(net, sgd(net.parameters()), sparsity=0.5)
    assert net[0].weight.detach().all()


def test_complex_weights() -> None:
    net = nn.Sequential(nn.Linear(4, 4, dtype=torch.complex64))
    with pytest.raises(SparsityError, match="complex64; only real ones train"):
        regrow.static(net, sgd(net.parameters()), sparsity=0.5)


@pytest.mark.parametrize("first", list(METHODS))
def test_a_second_updater_on_the_same_weights(first: str) -> None:
    net = tiny_net()
    optimizer = sgd(net.parameters())
    updater = METHODS[first](net, optimizer, seed=1)
    old = masks_of(updater)
    for second in (regrow.static, lambda *a, **k: regrow.rigl(*a, n_steps=99, interval=5, **k)):
        assert_refused(
            SparsityError,
            r"'conv\.weight' is driven by another updater: call its detach\(\)",
            lambda net, o: second(net, o, sparsity=0.5, seed=2),  # noqa: B023
            net=net,
            optimizer=optimizer,
        )
    assert all(torch.equal(old[n], updater.topologies[n].mask) for n in old)


# -- optimizers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda p: torch.optim.LBFGS(p), "LBFGS cannot train sparse weights: .*flat history"),
        (lambda p: torch.optim.SparseAdam(p), "SparseAdam cannot train .*sparse gradients only"),
        (lambda p: torch.optim.Adafactor(p), "Adafactor cannot train .*rows and columns"),
    ],
)
def test_optimizers_that_cannot_work(make: Any, match: str) -> None:
    net = tiny_net()
    assert_refused(
        ValueError,
        match,
        lambda net, o: regrow.static(net, o, sparsity=0.5),
        net=net,
        optimizer=make(list(net.parameters())),
    )
    matrices = [p for p in net.parameters() if p.dim() == 2]
    rest = [p for p in net.parameters() if p.dim() != 2]
    assert_refused(
        ValueError,
        match,
        lambda net, o: regrow.static(net, o, sparsity=0.5),
        net=net,
        optimizer=[sgd(rest), make(matrices)],
    )


def test_a_foreign_optimizer_with_factored_state_is_found_at_its_first_step() -> None:
    class Factored(torch.optim.Optimizer):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {"lr": 0.1})

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        self.state[p]["row"] = p.grad.pow(2).reshape(p.shape[0], -1).sum(1)

    net = tiny_net()
    optimizer = Factored(net.parameters())
    regrow.static(net, optimizer, sparsity=0.5)
    loss_of(net, batches(1)[0]).backward()
    with pytest.raises(ValueError, match=r"Factored keeps state 'row' of shape \(8,\).*conv\.wei"):
        optimizer.step()
