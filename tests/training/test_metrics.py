"""The stream of metrics: who is called when, and the gradient norm."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tiny_cases import (
    METHODS,
    MORE_OPTIMIZERS,
    OPTIMIZERS,
    as_list,
    batches,
    due_steps,
    loss_of,
    step,
    tiny_net,
)
from torch import nn

import regrow

DATA = batches(22)
Told = list[tuple[int, Mapping[str, float]]]


def listen(updater: regrow.TopologyUpdater, **other: Any) -> Told:
    """A list that fills as training goes on."""
    told: Told = []
    updater.on_metrics(lambda step, metrics: told.append((step, metrics)), **other)
    return told


def start(method: str = "set", optimizer: str = "sgd") -> tuple[Any, Any, Any]:
    net = tiny_net()
    one = {**OPTIMIZERS, **MORE_OPTIMIZERS}[optimizer](net.parameters())
    return net, one, METHODS[method](net, one, seed=5)


# -- when ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["static", "set", "rigl", "gradual"])
def test_after_each_rewiring(method: str) -> None:
    net, optimizer, updater = start(method)
    told = listen(updater)
    for i, batch in enumerate(DATA):
        before = len(told)
        step(net, optimizer, batch)
        if len(told) > before:
            assert told[-1] == (i + 1, updater.metrics())
    assert [at for at, _ in told] == [record.step for record in updater.history]
    assert [at for at, _ in told] == [at for at in due_steps(method) if at <= len(DATA)]


def test_every_few_steps() -> None:
    net, optimizer, updater = start()
    three, all_, rewirings = listen(updater, every=3), listen(updater, every=1), listen(updater)
    for batch in DATA:
        step(net, optimizer, batch)
        assert all_[-1] == (updater.steps, updater.metrics())
    assert [at for at, _ in three] == [3, 6, 9, 12, 15, 18, 21]
    assert [at for at, _ in all_] == list(range(1, 23))
    by_step = dict(all_)
    assert all(by_step[at] == metrics for at, metrics in [*three, *rewirings])


def test_per_layer_and_its_own_mapping() -> None:
    net, optimizer, updater = start()
    updater.on_metrics(lambda _, metrics: metrics.clear())  # type: ignore[attr-defined]
    short, long = listen(updater), listen(updater, per_layer=True)
    for batch in DATA[:4]:
        step(net, optimizer, batch)
    assert short[0][1] == updater.metrics()
    assert long[0][1] == updater.metrics(per_layer=True)
    for name, topology in updater.topologies.items():
        assert long[0][1][f"regrow/layer/{name}/nnz"] == topology.nnz


def test_the_step_is_over_when_a_callback_is_called() -> None:
    net, optimizer, updater = start("rigl")
    seen = []
    updater.on_metrics(
        lambda at, metrics: seen.append((updater.steps - at, updater.metrics() == metrics)),
        every=1,
    )
    for batch in DATA[:9]:
        step(net, optimizer, batch)
    assert seen == [(0, True)] * 9


def test_detach_ends_the_stream() -> None:
    net, optimizer, updater = start()
    told = listen(updater, every=1)
    step(net, optimizer, DATA[0])
    updater.detach()
    step(net, optimizer, DATA[1])
    assert len(told) == 1


def test_a_copy_has_the_same_listeners_and_later_ones_of_its_own() -> None:
    net, optimizer, updater = start()

    class Logger:
        """What must not be copied along: it has a file open, say."""

        def __init__(self) -> None:
            self.steps: list[int] = []

        def log(self, at: int, metrics: Mapping[str, float]) -> None:
            self.steps.append(at)

        def __deepcopy__(self, memo: dict[int, object]) -> Any:
            raise AssertionError("a logger was copied")

    shared, own = Logger(), Logger()
    updater.on_metrics(shared.log, every=1)
    step(net, optimizer, DATA[0])
    net2, optimizer2, updater2 = copy.deepcopy((net, optimizer, updater))
    assert updater2.report() == updater.report()
    updater2.on_metrics(own.log, every=1)
    step(net, optimizer, DATA[1])
    assert (shared.steps, own.steps) == ([1, 2], [])
    step(net2, optimizer2, DATA[1])
    assert (shared.steps, own.steps) == ([1, 2, 2], [2])
    assert updater2.report() == updater.report()


def test_listeners_are_no_part_of_the_state() -> None:
    net, optimizer, updater = start()
    before = updater.state_dict()
    listen(updater, every=1)
    assert list(before) == list(updater.state_dict())
    step(net, optimizer, DATA[0])
    assert updater.report().grad_norm is not None
    updater.load_state_dict(updater.state_dict())
    assert updater.report().grad_norm is None, "measured on no step since"


def test_training_is_the_same_with_and_without_listeners() -> None:
    ends = []
    for hears in (False, True):
        net, optimizer, updater = start("rigl", "adamw")
        if hears:
            listen(updater, every=1, per_layer=True)
        for batch in DATA:
            step(net, optimizer, batch)
        ends.append([updater.history, *(p.detach().clone() for p in net.parameters())])
    assert ends[0][0] == ends[1][0]
    assert all(torch.equal(a, b) for a, b in zip(ends[0][1:], ends[1][1:], strict=True))


def test_nothing_is_measured_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    monkeypatch.setattr(
        "regrow.training._metrics.live_grad_norms", lambda layers: measured.append(1) or {}
    )
    net, optimizer, updater = start("rigl")
    for batch in DATA[:9]:
        step(net, optimizer, batch)
    assert not measured
    assert updater.report().grad_norm is None
    listen(updater)
    for batch in DATA[:8]:
        step(net, optimizer, batch)
    assert len(measured) == 2, "steps 12 and 16 rewire"


@pytest.mark.parametrize(
    ("callback", "every", "kind", "message"),
    [
        ("writer", None, TypeError, r"log_metrics\(\.\.\.\)"),
        (print, 0, ValueError, "every must be at least 1"),
        (print, 1.5, TypeError, "every must be an integer"),
        (print, True, TypeError, "every must be an integer"),
    ],
)
def test_refused(callback: Any, every: Any, kind: type[Exception], message: str) -> None:
    _, _, updater = start()
    with pytest.raises(kind, match=message):
        updater.on_metrics(callback, every=every)


# -- the gradient norm -----------------------------------------------------------------------------


def norms_by_hand(
    net: nn.Module, updater: regrow.TopologyUpdater, gradients: Mapping[str, torch.Tensor]
) -> dict[str, float]:
    """Entry by entry, in double precision."""
    found = {}
    for name, topology in updater.topologies.items():
        pairs = zip(
            gradients[name].double().reshape(-1).tolist(),
            topology.mask.reshape(-1).tolist(),
            strict=True,
        )
        found[name] = math.sqrt(math.fsum(g * g for g, live in pairs if live))
    return found


def dense_gradients(net: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
    names, parameters = zip(*net.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss_of(net, batch), parameters), strict=True))


def check_norms(told: Mapping[str, float], by_hand: Mapping[str, float]) -> None:
    for name, norm in by_hand.items():
        assert told[f"regrow/layer/{name}/grad_norm"] == pytest.approx(norm, rel=1e-5)
    total = math.sqrt(math.fsum(norm**2 for norm in by_hand.values()))
    assert told["regrow/grad_norm"] == pytest.approx(total, rel=1e-5)
    assert total > 0


@pytest.mark.parametrize("optimizer_name", ["sgd", "muon+adamw"])
@pytest.mark.parametrize("method", ["static", "set", "rigl", "mest-gradient", "granet-gradient"])
def test_norm_over_live_entries(method: str, optimizer_name: str) -> None:
    """Those alive before the step, also where a rewiring reads the dense gradient."""
    net, optimizer, updater = start(method, optimizer_name)
    told = listen(updater, every=1, per_layer=True)
    for batch in DATA[:9]:
        by_hand = norms_by_hand(net, updater, dense_gradients(net, batch))
        step(net, optimizer, batch)
        check_norms(told[-1][1], by_hand)
        report = updater.report()
        assert report.grad_norm_step == updater.steps
        assert report.grad_norm == told[-1][1]["regrow/grad_norm"]


@pytest.mark.parametrize("weight_step", ["before", "after", "skip"])
def test_norm_on_a_rewiring_step(weight_step: Any) -> None:
    net = tiny_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    updater = regrow.rigl(
        net, optimizer, sparsity=0.7, n_steps=30, interval=2, weight_step=weight_step
    )
    told = listen(updater, per_layer=True)
    for batch in DATA[:4]:
        by_hand = norms_by_hand(net, updater, dense_gradients(net, batch))
        step(net, optimizer, batch)
        if updater.steps % 2 == 0:
            check_norms(told[-1][1], by_hand)
    assert len(told) == 2


def test_it_is_the_norm_that_clipping_sees() -> None:
    net, optimizer, updater = start("set")
    told = listen(updater, every=1)
    selected = [net.get_parameter(name) for name in updater.topologies]
    loss_of(net, DATA[0]).backward()
    whole = float(nn.utils.clip_grad_norm_(selected, math.inf))
    optimizer.step()
    assert told[-1][1]["regrow/grad_norm"] == pytest.approx(whole, rel=1e-6)
    optimizer.zero_grad()
    loss_of(net, DATA[1]).backward()
    assert float(nn.utils.clip_grad_norm_(selected, 0.01)) > 0.02
    optimizer.step()
    assert told[-1][1]["regrow/grad_norm"] == pytest.approx(0.01, rel=1e-3), "clipped by then"


def test_norm_with_a_closure() -> None:
    net, optimizer, updater = start("rigl")
    told = listen(updater, every=1, per_layer=True)
    for batch in DATA[:5]:
        by_hand = norms_by_hand(net, updater, dense_gradients(net, batch))

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = loss_of(net, batch)  # noqa: B023
            loss.backward()
            return loss

        optimizer.step(closure)
        check_norms(told[-1][1], by_hand)


@pytest.mark.parametrize("fused", [False, True])
def test_norm_is_unscaled_and_skipped_steps_are_not_told(fused: bool) -> None:
    net = tiny_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=fused)
    updater = regrow.rigl(net, optimizer, sparsity=0.7, n_steps=30, interval=3)
    told = listen(updater, every=1, per_layer=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for i, batch in enumerate(DATA[:8]):
        by_hand = norms_by_hand(net, updater, dense_gradients(net, batch))
        overflows = i in (2, 5)
        loss = loss_of(net, batch) * (math.inf if overflows else 1)
        scaler.scale(loss).backward()
        before = len(told)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert len(told) == before + (not overflows)
        if not overflows:
            check_norms(told[-1][1], by_hand)
    assert [at for at, _ in told] == [1, 2, 3, 4, 5, 6]


def test_an_old_norm_is_not_told_as_that_of_the_last_step() -> None:
    net, optimizer, updater = start("static")
    told = listen(updater, every=4)
    for batch in DATA[:6]:
        step(net, optimizer, batch)
    assert "regrow/grad_norm" not in updater.metrics()
    report = updater.report()
    assert (report.grad_norm_step, report.grad_norm) == (4, told[0][1]["regrow/grad_norm"])
    assert "at step 4" in str(report)


def test_a_layer_without_gradient_has_no_norm() -> None:
    net, optimizer, updater = start("set")
    told = listen(updater, every=1, per_layer=True)
    optimizer.step()
    assert not [name for name in told[0][1] if name.endswith("grad_norm")]
    net.head(torch.ones(2, 16)).square().sum().backward()
    optimizer.step()
    (name,) = [n for n in told[1][1] if n.startswith("regrow/layer") and n.endswith("grad_norm")]
    assert name == "regrow/layer/head.weight/grad_norm"
    assert told[1][1][name] == pytest.approx(told[1][1]["regrow/grad_norm"])


def test_half_precision_gradients_do_not_overflow() -> None:
    net = nn.Linear(64, 64, dtype=torch.float16)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6)
    updater = regrow.static(net, optimizer, sparsity=0.5)
    told = listen(updater, every=1)
    for one in as_list(optimizer)[0].param_groups[0]["params"]:
        one.grad = torch.full_like(one, 300.0)  # its square is no half
    net.weight.grad[~updater.topologies["weight"].mask] = math.nan  # set by hand, so not masked
    optimizer.step()
    assert told[0][1]["regrow/grad_norm"] == pytest.approx(300 * math.sqrt(2048))
