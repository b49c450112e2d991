"""Mixed precision: a GradScaler skips steps, and fused optimizers hide that."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_cases import batches, check_dead, fresh_state, loss_of, masks_of, same, snapshot, tiny_net
from torch import Tensor, nn
from torch.amp import GradScaler

import regrow

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "sgd fused": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3, fused=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
}
BOTH = ["sgd", "adamw fused"]
Poison = Callable[[nn.Module, regrow.TopologyUpdater], None]


def rigl(net: nn.Module, optimizer: Any, **options: Any) -> regrow.TopologyUpdater:
    return regrow.rigl(net, optimizer, sparsity=0.7, n_steps=16, interval=4, **options)


def set_training(net: nn.Module, optimizer: Any, **options: Any) -> regrow.TopologyUpdater:
    return regrow.set_training(net, optimizer, sparsity=0.7, n_steps=16, interval=4, **options)


class Run:
    """A net, trained with a scaler or without."""

    def __init__(
        self, name: str, method: Callable[..., Any] = rigl, *, scaled: bool = True, **options: Any
    ) -> None:
        self.net = tiny_net()
        self.optimizer = OPTIMIZERS[name](self.net.parameters())
        self.updater: regrow.TopologyUpdater = method(self.net, self.optimizer, **options)
        self.scaler = GradScaler("cpu", init_scale=2.0**10, growth_interval=1000, enabled=scaled)
        self.fresh = fresh_state(OPTIMIZERS[name], self.net)

    def step(
        self, batch: tuple[Tensor, Tensor], *, poison: str | None = None, clip: bool = False
    ) -> None:
        """One iteration; ``poison`` puts an inf into a dead or a live entry before it arrives."""
        handle = None
        if poison is not None:
            mask = self.updater.topologies["fc.weight"].mask
            at = tuple((mask if poison == "live" else ~mask).nonzero()[7].tolist())

            def spoil(grad: Tensor) -> Tensor:
                grad = grad.clone()
                grad[at] = torch.inf
                return grad

            handle = self.net.fc.weight.register_hook(spoil)
        self.scaler.scale(loss_of(self.net, batch)).backward()
        if handle is not None:
            handle.remove()
        if clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.net.parameters(), 0.5)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        check_dead(self.net, self.optimizer, self.updater, self.fresh)

    def everything(self) -> list[Tensor]:
        return [*snapshot(self.net, self.optimizer), *masks_of(self.updater).values()]


@pytest.mark.parametrize("name", list(OPTIMIZERS))
@pytest.mark.parametrize("weight_step", ["before", "after", "skip"])
@pytest.mark.parametrize("clip", [False, True])
def test_a_scale_changes_nothing(name: str, weight_step: Any, clip: bool) -> None:
    """A power of two is exact: with a scaler or without, the run is the same bit for bit."""
    plain = Run(name, scaled=False, weight_step=weight_step)
    scaled = Run(name, weight_step=weight_step)
    for batch in batches(10):
        plain.step(batch, clip=clip)
        scaled.step(batch, clip=clip)
    assert same(plain.everything(), scaled.everything())
    assert plain.updater.history == scaled.updater.history
    assert scaled.updater.rewirings == 2
    assert scaled.scaler.get_scale() == 2.0**10


@pytest.mark.parametrize("name", list(OPTIMIZERS))
@pytest.mark.parametrize("method", [rigl, set_training])
def test_an_overflow_is_no_step(name: str, method: Any) -> None:
    data = batches(10)
    smooth, rough = Run(name, method), Run(name, method)
    for i, batch in enumerate(data, start=1):
        smooth.step(batch)
        if i in (2, 4, 5, 8):  # ordinary, due, right behind it, due
            before = rough.everything()
            for _ in range(2):
                rough.step(batches(1, seed=i)[0], poison="live")
            assert same(before, rough.everything())
            assert rough.updater.steps == i - 1
        rough.step(batch)
        assert rough.updater.steps == i
    assert smooth.updater.history == rough.updater.history
    assert same(smooth.everything(), rough.everything())


@pytest.mark.parametrize("name", list(OPTIMIZERS))
@pytest.mark.parametrize("weight_step", ["before", "after", "skip"])
def test_a_rewiring_stays_due_behind_the_last_planned_step(name: str, weight_step: Any) -> None:
    run = Run(name, weight_step=weight_step)
    data = batches(12)
    for batch in data[:7]:
        run.step(batch)
    assert run.updater.rewirings == 1
    for _ in range(3):
        run.step(data[7], poison="live")
    assert (run.updater.steps, run.updater.rewirings) == (7, 1)
    run.step(data[8])
    assert (run.updater.steps, run.updater.rewirings) == (8, 2)
    run.step(data[9])
    assert [record.step for record in run.updater.history] == [4, 8]


@pytest.mark.parametrize("name", list(OPTIMIZERS))
@pytest.mark.parametrize("method", [rigl, set_training])
def test_an_overflow_in_dead_entries_changes_nothing_on_an_ordinary_step(
    name: str, method: Any
) -> None:
    clean, dirty = Run(name, method), Run(name, method)
    due = {4, 8} if method is rigl else set()  # SET reads no gradient: every step is ordinary
    for i, batch in enumerate(batches(10), start=1):
        clean.step(batch)
        dirty.step(batch, poison=None if i in due else "dead")
        assert dirty.updater.steps == i
    assert same(clean.everything(), dirty.everything())
    assert dirty.scaler.get_scale() == 2.0**10, "no overflow was seen"


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_an_overflow_in_dead_entries_counts_where_growth_would_read_them(name: str) -> None:
    run = Run(name)
    data = batches(5)
    for batch in data[:3]:
        run.step(batch)
    before = run.everything()
    run.step(data[3], poison="dead")
    assert same(before, run.everything())
    assert (run.updater.steps, run.updater.rewirings) == (3, 0)
    run.step(data[4])
    assert (run.updater.steps, run.updater.rewirings) == (4, 1)


@pytest.mark.parametrize("name", BOTH)
def test_growth_reads_the_unscaled_gradient(name: str) -> None:
    """With ``fused=True`` the gradient is still scaled at the step; scores must not be."""
    seen: list[float] = []

    def spy(layer: Any, flat: Tensor) -> Tensor:
        seen.append(float(layer.grad_at(flat).abs().max()))
        return layer.weight_at(flat).abs()

    for scaled in (False, True):
        run = Run(name, scaled=scaled, drop=spy)
        for batch in batches(4):
            run.step(batch)
    n_layers = len(run.updater.topologies)
    assert len(seen) == 2 * n_layers
    assert seen[:n_layers] == seen[n_layers:]


@pytest.mark.parametrize("name", BOTH)
def test_resume_with_a_scaler(name: str) -> None:
    data = batches(10)
    run, again = Run(name), Run(name)
    for batch in data[:5]:
        run.step(batch)
    run.step(data[5], poison="live")
    again.net.load_state_dict(run.net.state_dict())
    again.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
    again.updater.load_state_dict(run.updater.state_dict())
    again.scaler.load_state_dict(run.scaler.state_dict())
    for batch in data[6:]:
        run.step(batch)
        again.step(batch)
    assert same(run.everything(), again.everything())


def test_autocast_to_bfloat16() -> None:
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = rigl(net, optimizer)
    start = updater.nnz
    for x, y in batches(10):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = net(x)
        assert out.dtype == torch.bfloat16
        nn.functional.cross_entropy(out.float(), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        assert updater.nnz == start
    assert updater.rewirings == 2
    assert not net.fc.weight.detach()[~updater.topologies["fc.weight"].mask].any()
