"""What a step does: hooks, closures, accumulation, what a rewiring does to the weights."""

from typing import Any

import pytest
import torch
from tiny_cases import (
    MORE_OPTIMIZERS,
    OPTIMIZERS,
    as_list,
    batches,
    check_dead,
    counts_of,
    fresh_state,
    loss_of,
    masks_of,
    same,
    snapshot,
    step,
    tiny_net,
)
from torch import Tensor, nn

import regrow

F64 = torch.float64
ALL = {**OPTIMIZERS, **MORE_OPTIMIZERS}


def rigl(
    net: nn.Module, optimizer: Any, *, interval: int = 3, **options: Any
) -> regrow.TopologyUpdater:
    return regrow.rigl(net, optimizer, sparsity=0.7, n_steps=16, interval=interval, **options)


def same_masks(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


# -- closures --------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer_name", [n for n in ALL if n != "muon+adamw"])
@pytest.mark.parametrize("weight_step", ["before", "after", "skip"])
@pytest.mark.parametrize("by_keyword", [True, False])
def test_a_closure_gives_what_the_plain_loop_gives(
    optimizer_name: str, weight_step: Any, by_keyword: bool
) -> None:
    data = batches(10)

    def run(use_closure: bool) -> tuple[list[Tensor], list[float], Any]:
        net = tiny_net()
        optimizer = ALL[optimizer_name](net.parameters())
        updater = rigl(net, optimizer, weight_step=weight_step)
        losses = []
        for batch in data:
            optimizer.zero_grad()
            if use_closure:

                def closure() -> Tensor:
                    optimizer.zero_grad()
                    loss = loss_of(net, batch)  # noqa: B023
                    loss.backward()
                    return loss

                loss = optimizer.step(closure=closure) if by_keyword else optimizer.step(closure)
                losses.append(float(loss.detach()))
            else:
                losses.append(step(net, optimizer, batch))
        return snapshot(net, optimizer), losses, updater.history

    plain, closed = run(False), run(True)
    assert same(plain[0], closed[0])
    assert plain[1:] == closed[1:]
    assert len(plain[2]) == 3


def test_closures_of_several_optimizers() -> None:
    data = batches(10)

    def run(use_closure: bool) -> tuple[list[Tensor], Any]:
        net = tiny_net()
        optimizers = as_list(MORE_OPTIMIZERS["muon+adamw"](net.parameters()))
        updater = rigl(net, optimizers, weight_step="before")
        for batch in data:
            if not use_closure:
                step(net, optimizers, batch)
                continue
            for at, one in enumerate(optimizers):

                def closure() -> Tensor:
                    loss = loss_of(net, batch)  # noqa: B023
                    if at == 0:  # noqa: B023
                        loss.backward()
                    return loss

                one.step(closure)
            for one in optimizers:
                one.zero_grad()
        return snapshot(net, optimizers), updater.history

    plain, closed = run(False), run(True)
    assert same(plain[0], closed[0])
    assert plain[1] == closed[1]


def test_a_closure_that_is_evaluated_twice() -> None:
    """As sharpness-aware steps do: one step, and one rewiring where one is due."""

    class Twice(torch.optim.Optimizer):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {"lr": 0.05})

        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            with torch.enable_grad():
                closure()
                loss = closure()
            for parameter in self.param_groups[0]["params"]:
                if parameter.grad is not None:
                    parameter.sub_(0.05 * parameter.grad)
            return loss

    for weight_step in ("before", "after", "skip"):
        net = tiny_net()
        optimizer = Twice(net.parameters())
        updater = rigl(net, optimizer, weight_step=weight_step)
        start = counts_of(updater)
        for batch in batches(7):

            def closure() -> Tensor:
                optimizer.zero_grad()  # noqa: B023
                loss = loss_of(net, batch)  # noqa: B023
                loss.backward()
                return loss

            optimizer.step(closure)
            assert counts_of(updater) == start
        assert [record.step for record in updater.history] == [3, 6]


@pytest.mark.parametrize("with_closure", [False, True])
def test_a_subclass_whose_step_calls_its_parent_s_steps_once(with_closure: bool) -> None:
    """torch fires the step hooks of both where the parent class was ever built."""

    class Mine(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    ends = []
    for kind in (torch.optim.SGD, Mine):
        net = tiny_net()
        optimizer = kind(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        updater = rigl(net, optimizer)
        for batch in batches(7):

            def closure() -> Tensor:
                optimizer.zero_grad()  # noqa: B023
                loss = loss_of(net, batch)  # noqa: B023
                loss.backward()
                return loss

            if with_closure:
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
        assert updater.steps == 7
        assert [record.step for record in updater.history] == [3, 6]
        ends.append(snapshot(net, optimizer))
    assert same(*ends)


def test_schedulers_of_the_learning_rate_wrap_step_as_ever() -> None:
    data = batches(8)
    ends = []
    for scheduler_first in (True, False):
        net = tiny_net()
        optimizer = OPTIMIZERS["sgd"](net.parameters())
        if not scheduler_first:
            updater = rigl(net, optimizer)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)
        if scheduler_first:
            updater = rigl(net, optimizer)
        for batch in data:
            step(net, optimizer, batch)
            scheduler.step()
        assert (updater.steps, updater.rewirings) == (8, 2)
        ends.append(snapshot(net, optimizer))
    assert same(*ends)


# -- accumulation ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rigl", "granet", "mest"])
@pytest.mark.parametrize("n_micro", [2, 4])
def test_accumulation_equals_one_large_batch(method: str, n_micro: int) -> None:
    """Growth follows the gradient of the whole step, not of the last micro-batch."""
    data = batches(12, dtype=F64)
    make = {
        "rigl": regrow.rigl,
        "granet": regrow.granet,
        "mest": lambda *a, **k: regrow.mest(*a, growth="gradient", **k),
    }[method]

    def run(n: int) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        net = tiny_net(dtype=F64)
        optimizer = OPTIMIZERS["sgd"](net.parameters())
        updater = make(net, optimizer, sparsity=0.7, n_steps=16, interval=3)
        seen = []
        for x, y in data:
            for part_x, part_y in zip(x.chunk(n), y.chunk(n), strict=True):
                (loss_of(net, (part_x, part_y)) / n).backward()
            optimizer.step()
            optimizer.zero_grad()
            seen.append(masks_of(updater))
        return seen, dict(net.state_dict())

    whole, parts = run(1), run(n_micro)
    assert all(same_masks(a, b) for a, b in zip(whole[0], parts[0], strict=True))
    for name, value in whole[1].items():
        torch.testing.assert_close(value, parts[1][name], rtol=1e-9, atol=1e-12)
    assert not same_masks(whole[0][0], whole[0][-1])


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad_without_a_step_leaves_nothing_behind(set_to_none: bool) -> None:
    """A gradient that is thrown away, on a due step too, must not colour the next one."""
    data = batches(10)
    junk = batches(10, seed=99)

    def run(waste: bool) -> tuple[list[Tensor], Any]:
        net = tiny_net()
        optimizer = OPTIMIZERS["adamw"](net.parameters())
        updater = rigl(net, optimizer)
        for batch, other in zip(data, junk, strict=True):
            if waste:
                loss_of(net, other).backward()
                optimizer.zero_grad(set_to_none=set_to_none)
            loss_of(net, batch).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=set_to_none)
        return snapshot(net, optimizer), updater.history

    assert same(run(True)[0], run(False)[0])
    assert run(True)[1] == run(False)[1]


def test_gradients_left_in_place_are_overwritten_cleanly() -> None:
    """``zero_grad(set_to_none=False)`` before the backward pass, as old loops do."""
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = rigl(net, optimizer)
    fresh = fresh_state(OPTIMIZERS["sgd"], net)
    start = counts_of(updater)
    for batch in batches(10):
        optimizer.zero_grad(set_to_none=False)
        loss_of(net, batch).backward()
        optimizer.step()
        check_dead(net, optimizer, updater, fresh)
        assert counts_of(updater) == start
    assert updater.rewirings == 3


# -- clipping and logging --------------------------------------------------------------------


def test_clipping_sees_live_gradients_between_rewirings() -> None:
    net = tiny_net(dtype=F64)
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = rigl(net, optimizer, interval=3)
    dense_norms = {}
    for i, batch in enumerate(batches(7, dtype=F64), start=1):
        plain = tiny_net(dtype=F64)
        plain.load_state_dict(net.state_dict())
        loss_of(plain, batch).backward()
        live = [
            p.grad * updater.topologies[n].mask if n in updater.topologies else p.grad
            for n, p in plain.named_parameters()
        ]
        live_norm = torch.cat([g.flatten() for g in live]).norm()
        dense_norm = torch.cat([p.grad.flatten() for p in plain.parameters()]).norm()
        loss_of(net, batch).backward()
        seen = nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
        expected = dense_norm if i in (3, 6) else live_norm
        torch.testing.assert_close(seen, expected)
        dense_norms[i] = float(dense_norm / live_norm)
        optimizer.step()
        optimizer.zero_grad()
    assert min(dense_norms.values()) > 1.02, "the two norms would agree: no test"


# -- what is counted -------------------------------------------------------------------------


def test_a_due_step_without_any_gradient_counts_and_grows_nothing() -> None:
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = rigl(net, optimizer)
    before = masks_of(updater)
    for _ in range(4):
        optimizer.step()
    assert updater.steps == 4
    assert updater.rewirings == 1
    assert same_masks(before, masks_of(updater))


def test_callbacks_and_history_tell_the_same() -> None:
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = rigl(net, optimizer, regrow="never")
    seen: list[Any] = []
    updater.on_rewire(seen.append)
    moved = []
    for batch in batches(12):
        old = masks_of(updater)
        step(net, optimizer, batch)
        new = masks_of(updater)
        if not same_masks(old, new):
            moved.append(
                (
                    tuple(int((old[n] & ~new[n]).sum()) for n in old),
                    tuple(int((new[n] & ~old[n]).sum()) for n in old),
                )
            )
    assert tuple(seen) == updater.history
    assert [(r.n_dropped, r.n_grown) for r in seen] == moved
    assert [r.step for r in seen] == [3, 6, 9]


def test_exploration_is_the_union_of_all_topologies() -> None:
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = rigl(net, optimizer)
    union = masks_of(updater)
    for batch in batches(12):
        step(net, optimizer, batch)
        union = {n: union[n] | m for n, m in masks_of(updater).items()}
        n_ever = sum(int(m.sum()) for m in union.values())
        assert updater.exploration == n_ever / sum(m.numel() for m in union.values())
    assert updater.report().exploration == pytest.approx(updater.exploration)


@pytest.mark.parametrize("weight_step", ["before", "after", "skip"])
def test_a_callback_that_raises_leaves_a_whole_step_behind(weight_step: Any) -> None:
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = regrow.set_training(
        net, optimizer, sparsity=0.5, n_steps=12, interval=2, weight_step=weight_step
    )
    seen = []

    def callback(record: Any) -> None:
        seen.append((record.step, updater.steps, updater.report().weight_steps))
        if len(seen) == 1:
            raise KeyboardInterrupt

    updater.on_rewire(callback)
    for i, batch in enumerate(batches(6), start=1):
        if i == 2:
            with pytest.raises(KeyboardInterrupt):
                step(net, optimizer, batch)
            optimizer.zero_grad()
        else:
            step(net, optimizer, batch)
    skipped = weight_step == "skip"
    assert seen == [(n, n, n // 2 if skipped else n) for n in (2, 4, 6)]
    updater.load_state_dict(updater.state_dict())
    assert [record.step for record in updater.history] == [2, 4, 6]


def test_a_criterion_may_return_a_view_of_the_gradient() -> None:
    """What it returned is not written to: it may be the gradient itself."""
    from regrow.criteria import Score, magnitude
    from regrow.schedules import UpdateWindow, constant
    from regrow.training import Part, Rule, TopologyUpdater, prepare_layers

    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    signed = Score("signed", lambda x, flat: x.grad_at(flat), reads_gradient=True, on_whole=True)
    rule = Rule(magnitude, signed, constant(0.3), UpdateWindow(2, 10), weight_step="after")
    layers = prepare_layers(
        net,
        sparsity=0.5,
        allocation=regrow.uniform(),
        structure=regrow.Unstructured(),
        select=regrow.default_weights,
        seed=0,
    )
    updater = TopologyUpdater(net, optimizer, parts=[Part(layers, rule)], seed=0)
    for batch in batches(5):
        step(net, optimizer, batch)
    assert updater.rewirings == 2
    assert all(p.isfinite().all() for p in net.parameters())
