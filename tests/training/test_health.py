"""Churn and survival age: against loops over single connections."""

import copy
import statistics
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_cases import METHODS, OPTIMIZERS, batches, step, tiny_net
from torch import nn

import regrow
from regrow.training import Rewiring
from regrow.training._health import ages_of
from regrow.training._progress import Progress

Updater = regrow.TopologyUpdater


class Diary:
    """What happened to every single unit, written down after each step, without regrow's help.

    A unit that was dropped and came back in one rewiring looks as if nothing had happened to it,
    so decisions are overheard.
    """

    def __init__(self, updater: Updater, monkeypatch: pytest.MonkeyPatch) -> None:
        self.updater = updater
        self.ages = {name: dict.fromkeys(units_of(updater, name), 0) for name in updater.topologies}
        self.churn: dict[str, float] = {}
        self.largest_churn = 0.0
        self.last: tuple[int, int] | None = None
        self.came_back: dict[str, set[int]] = {}
        self.n_came_back = 0

        def overheard(topology: regrow.Topology, delta: regrow.TopologyDelta) -> regrow.Topology:
            (name,) = [n for n, one in updater.topologies.items() if one is topology]
            self.came_back[name] = set(delta.dropped.tolist()) & set(delta.grown.tolist())
            return regrow.topology.apply(topology, delta)

        monkeypatch.setattr("regrow.training._driver.apply", overheard)

    def note(self) -> None:
        """One step later."""
        rewired = self.updater.rewirings and self.updater.history[-1].step == self.updater.steps
        new_total = active_total = 0
        for i, name in enumerate(self.updater.topologies):
            before, now = self.ages[name], units_of(self.updater, name)
            self.ages[name] = {unit: before.get(unit, -1) + 1 for unit in now}
            for unit in self.came_back.pop(name, set()):
                assert unit in before
                self.ages[name][unit] = 0
                self.n_came_back += 1
            if rewired and self.updater.history[-1].took_part[i]:
                new = [unit for unit in now if unit not in before]
                self.churn[name] = len(new) / len(now) if now else 0.0
                self.largest_churn = max(self.largest_churn, self.churn[name])
                new_total += len(new)
                active_total += len(now)
        if rewired:
            self.last = (new_total, active_total)

    def check(self) -> None:
        """The report says the same."""
        report = self.updater.report()
        for row in report.layers:
            assert row.churn == self.churn.get(row.name), row.name
            check_ages(row, list(self.ages[row.name].values()))
        check_ages(report, [age for ages in self.ages.values() for age in ages.values()])
        assert report.churn == (None if self.last is None else self.last[0] / self.last[1])


def check_ages(told: Any, ages: list[int]) -> None:
    if not ages:
        assert (told.survival_age, told.survival_age_median) == (None, None)
        return
    assert told.survival_age == pytest.approx(statistics.fmean(ages))
    assert told.survival_age_median == statistics.median_low(ages)


def units_of(updater: Updater, name: str) -> list[int]:
    """Active units, read off the mask of single elements."""
    topology = updater.topologies[name]
    flat = topology.mask.reshape(-1).tolist()
    units = torch.arange(topology.n_units)
    elements = topology.structure.elements_of(units, topology.shape).tolist()
    return [unit for unit, own in enumerate(elements) if all(flat[e] for e in own)]


def train(
    net: nn.Module,
    optimizer: Any,
    updater: Updater,
    monkeypatch: pytest.MonkeyPatch,
    n: int = 22,
) -> Diary:
    diary = Diary(updater, monkeypatch)
    diary.check()
    for batch in batches(n):
        step(net, optimizer, batch)
        diary.note()
        diary.check()
    assert updater.rewirings
    return diary


@pytest.mark.parametrize("method", ["set", "rigl", "granet-gradient", "gradual"])
def test_churn_and_age_against_a_diary(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    diary = train(net, optimizer, METHODS[method](net, optimizer, seed=5), monkeypatch)
    pruned_only = method == "gradual"
    assert (diary.largest_churn == 0) == pruned_only
    if method == "granet-gradient":
        assert diary.n_came_back > 10, "pruned, and grown again at zero"


@pytest.mark.parametrize(
    "structure",
    [
        regrow.OutChannel(),
        regrow.InChannel(),
        regrow.Kernel(),
        regrow.Block(2, 2),
        regrow.ConstantFanIn(),
        regrow.NM(2, 4),
    ],
    ids=repr,
)
def test_units_are_counted_whatever_they_are(
    structure: regrow.topology.Structure, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = tiny_net()
    optimizer = OPTIMIZERS["adamw"](net.parameters())
    updater = regrow.set_training(
        net,
        optimizer,
        sparsity=None if isinstance(structure, regrow.NM) else 0.5,
        n_steps=30,
        interval=3,
        structure=structure,
        select=regrow.fitting(structure),
    )
    diary = train(net, optimizer, updater, monkeypatch, n=14)
    assert diary.largest_churn > 0


def test_what_came_back_at_zero_is_young_but_not_new(monkeypatch: pytest.MonkeyPatch) -> None:
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = regrow.set_training(
        net, optimizer, sparsity=0.5, n_steps=40, interval=3, drop_fraction=0.9, regrow="zero"
    )
    diary = train(net, optimizer, updater, monkeypatch)
    assert diary.n_came_back > 100
    gone = sum(sum(record.n_grown) - sum(record.n_new) for record in updater.history)
    assert gone == diary.n_came_back


@given(
    rewired_at=st.lists(st.integers(1, 20), max_size=4, unique=True).map(sorted),
    sizes=st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=1, max_size=3),
)
def test_mean_and_lower_median_of_a_histogram(
    rewired_at: list[int], sizes: list[list[int]]
) -> None:
    started = [0, *rewired_at]
    cohorts = [layer[: len(started)] for layer in sizes]
    nothing = tuple[int, ...]()
    history = [Rewiring(at, nothing, nothing, nothing, nothing, ()) for at in rewired_at]
    progress = Progress(seed=0, initial_nnz=[], overdue=[], steps=25, history=history)
    ages = [
        25 - at for layer in cohorts for at, n in zip(started, layer, strict=True) for _ in range(n)
    ]
    told = ages_of(cohorts, progress)
    if not ages:
        assert told == (None, None)
    else:
        assert told.mean == pytest.approx(statistics.fmean(ages))
        assert told.median == statistics.median_low(ages)


def two_parts(**other: Any) -> tuple[nn.Module, Any, Updater]:
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    parts = [
        regrow.part(
            regrow.set_training,
            select=["conv.weight", "fc.weight"],
            sparsity=0.7,
            n_steps=30,
            interval=3,
        ),
        regrow.part(
            regrow.gradual,
            select=["mid.weight"],
            sparsity=0.8,
            n_steps=30,
            interval=5,
            structure=regrow.Block(1, 4),
            **other,
        ),
        regrow.part(regrow.static, select=["head.weight"], sparsity=0.5),
    ]
    return net, optimizer, regrow.combine(net, optimizer, parts)


def test_parts_have_their_own_last_rewiring(monkeypatch: pytest.MonkeyPatch) -> None:
    net, optimizer, updater = two_parts()
    diary = train(net, optimizer, updater, monkeypatch, n=17)
    rows = {row.name: row for row in updater.report().layers}
    assert rows["head.weight"].churn is None
    assert rows["head.weight"].survival_age == rows["head.weight"].survival_age_median == 17
    assert rows["mid.weight"].churn == 0
    assert rows["conv.weight"].churn > 0
    assert set(diary.churn) == {"conv.weight", "fc.weight", "mid.weight"}


def test_a_resumed_updater_reports_the_same() -> None:
    net, optimizer, updater = two_parts()
    data = batches(24)
    for batch in data[:13]:
        step(net, optimizer, batch)
    net2, optimizer2, updater2 = two_parts()
    net2.load_state_dict(net.state_dict())
    optimizer2.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    updater2.load_state_dict(copy.deepcopy(updater.state_dict()))
    assert updater2.report() == updater.report()
    assert updater2.metrics(per_layer=True) == updater.metrics(per_layer=True)
    assert updater.report().churn
    for batch in data[13:]:
        step(net, optimizer, batch)
        step(net2, optimizer2, batch)
    assert updater2.report() == updater.report()


def test_ages_in_a_callback_of_the_rewiring_itself() -> None:
    """The step under way is not counted yet, and what it grew is of age 0, not -1."""
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = METHODS["set"](net, optimizer, seed=5)
    seen = []
    updater.on_rewire(lambda record: seen.append((record.step, updater.report().layers[1])))
    for batch in batches(4):
        step(net, optimizer, batch)
    ((at, row),) = seen
    assert row.survival_age == pytest.approx((1 - row.churn) * at)
    assert row.survival_age == updater.report().layers[1].survival_age
