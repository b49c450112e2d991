"""What tells one method from the other: their rules, written out."""

import itertools
import math
from typing import Any

import pytest
import torch
from tiny_cases import OPTIMIZERS, batches, counts_of, loss_of, masks_of, step, tiny_net
from torch import Tensor, nn

import regrow
from regrow.criteria import gradient, magnitude, signed_magnitude

SELECTED = ["conv.weight", "fc.weight", "mid.weight", "head.weight"]
N_WEIGHTS = 2584


def build(make: Any, **options: Any) -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    net = tiny_net(dtype=torch.float64)
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    return net, optimizer, make(net, optimizer, **options)


def train(make: Any, n: int, **options: Any) -> tuple[Any, list[dict[str, Tensor]]]:
    net, optimizer, updater = build(make, **options)
    masks = [masks_of(updater)]
    for batch in batches(n, dtype=torch.float64):
        step(net, optimizer, batch)
        masks.append(masks_of(updater))
    return updater, masks


# -- SET and RigL ----------------------------------------------------------------------------


def drop_counts(make: Any, **options: Any) -> list[tuple[int, ...]]:
    updater, _ = train(make, 40, sparsity=0.7, n_steps=40, interval=5, regrow="never", **options)
    return [record.n_dropped for record in updater.history]


@pytest.mark.parametrize("make", [regrow.rigl, regrow.set_training])
def test_the_drop_fraction_falls_along_a_cosine(make: Any) -> None:
    _, _, updater = build(make, sparsity=0.7, n_steps=40, interval=5)
    start = counts_of(updater)
    n_all = {"conv.weight": 216, "fc.weight": 2048, "mid.weight": 256, "head.weight": 64}
    want = []
    for t in (5, 10, 15, 20, 25):  # below stop_at = 0.75 of 40
        fraction = 0.3 / 2 * (1 + math.cos(math.pi * t / 30))
        want.append(tuple(min(int(fraction * start[n]), n_all[n] - start[n]) for n in SELECTED))
    assert drop_counts(make) == want


def test_a_constant_fraction_and_no_early_stop_is_set_s_own_schedule() -> None:
    counts = drop_counts(
        regrow.set_training, drop_fraction=regrow.schedules.constant(0.3), stop_at=1.0
    )
    assert len(counts) == 7  # 5, 10, ..., 35
    assert len(set(counts)) == 1


def test_set_drops_both_signs_alike_and_magnitude_does_not() -> None:
    def run(drop: Any) -> tuple[int, int, int, int]:
        net = nn.Linear(20, 40)
        with torch.no_grad():
            net.weight.uniform_(0.5, 1.0)
            net.weight[:20] -= 2.0  # from -1.5 to -1: larger than all positive ones
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
        updater = regrow.set_training(
            net,
            optimizer,
            sparsity=0.5,
            n_steps=10,
            interval=2,
            drop=drop,
            regrow="never",
            drop_fraction=regrow.schedules.constant(0.4),
            stop_at=0.4,
        )
        old, signs = updater.topologies["weight"].mask.clone(), net.weight.detach().sign()
        for _ in range(3):
            net(torch.randn(4, 20)).sum().backward()
            optimizer.step()
        dropped = old & ~updater.topologies["weight"].mask
        return tuple(  # type: ignore[return-value]
            int((where & (signs == sign)).sum()) for where in (old, dropped) for sign in (1, -1)
        )

    positive, negative, up, down = run(signed_magnitude)
    assert abs(up - 0.4 * positive) <= 1
    assert abs(down - 0.4 * negative) <= 1
    assert up + down == int(0.4 * (positive + negative))
    positive, negative, up, down = run(magnitude)
    assert (up, down) == (int(0.4 * 400), 0)


def test_defaults_are_those_of_the_papers() -> None:
    """A rewiring step of RigL takes the weight step's place, SET's does not; SET drops by sign."""
    rigl, _ = train(regrow.rigl, 8, sparsity=0.7, n_steps=20, interval=3)
    set_, _ = train(regrow.set_training, 8, sparsity=0.7, n_steps=20, interval=3)
    assert (rigl.steps, rigl.rewirings, rigl.weight_steps) == (8, 2, 6)
    assert (set_.steps, set_.rewirings, set_.weight_steps) == (8, 2, 8)
    assert rigl._parts[0].rule.drop is magnitude
    assert rigl._parts[0].rule.grow is gradient
    assert set_._parts[0].rule.drop is signed_magnitude
    for make in (regrow.mest, regrow.granet, regrow.gradual):
        updater, _ = train(make, 8, sparsity=0.7, n_steps=20, interval=3)
        assert updater.weight_steps == 8
        assert updater._parts[0].rule.drop is magnitude


# -- random or gradient ----------------------------------------------------------------------


@pytest.mark.parametrize("make", [regrow.mest, regrow.granet])
def test_growth_is_what_was_asked_for(make: Any) -> None:
    """By gradient it follows the largest dense gradients; at random it does not."""
    shares = {}
    for growth in ("random", "gradient"):
        net, optimizer, updater = build(
            make,
            sparsity=0.7,
            n_steps=20,
            interval=3,
            growth=growth,
            regrow="never",
            **({"soft_bound": 0.3} if make is regrow.mest else {"initial_sparsity": 0.6}),
        )
        data = batches(3, dtype=torch.float64)
        for batch in data[:2]:
            step(net, optimizer, batch)
        old = masks_of(updater)
        plain = tiny_net(dtype=torch.float64)
        plain.load_state_dict(net.state_dict())
        loss_of(plain, data[2]).backward()
        step(net, optimizer, data[2])
        hits = total = 0
        for name, mask in old.items():
            grown = updater.topologies[name].mask & ~mask
            count = int(grown.sum())
            scores = plain.get_parameter(name).grad.abs().masked_fill(mask, -1).flatten()
            # By score: among ties, of units that no sample reaches, any will do.
            least = scores.sort(descending=True).values[count - 1] if count else 0.0
            hits += int((scores[grown.flatten()] >= least).sum())
            total += count
        assert total > 40
        shares[growth] = hits / total
    assert shares["gradient"] == 1.0
    assert shares["random"] < 0.5


def test_random_growth_never_leaves_the_gradient_dense() -> None:
    for make in (regrow.set_training, regrow.mest, regrow.gradual):
        net, optimizer, updater = build(make, sparsity=0.7, n_steps=20, interval=2)
        for batch in batches(8, dtype=torch.float64):
            loss_of(net, batch).backward()
            for name, topology in updater.topologies.items():
                assert not net.get_parameter(name).grad[~topology.mask].any()
            optimizer.step()
            optimizer.zero_grad()


# -- MEST ------------------------------------------------------------------------------------


@pytest.mark.parametrize("growth", ["random", "gradient"])
def test_mest_holds_a_soft_bound_that_shrinks(growth: Any) -> None:
    updater, masks = train(
        regrow.mest, 30, sparsity=0.8, n_steps=30, interval=3, soft_bound=0.2, growth=growth
    )
    counts = [sum(int(m.sum()) for m in one.values()) for one in masks]
    target = 0.2 * N_WEIGHTS
    # Rewirings at 3, 6, ..., 21; half of the bound from 3/4 of 21 on, none at 21.
    for t, count in enumerate(counts):
        past = t // 3 * 3
        above = 0.0 if past >= 21 else 0.1 if past >= 15 else 0.2
        assert count == round(target * (1 + above)), t
    assert updater.nnz == round(target)


def test_mest_without_a_soft_bound_replaces_a_fraction() -> None:
    """EM: the count stays, and a falling fraction is dropped and grown."""
    updater, masks = train(
        regrow.mest,
        30,
        sparsity=0.8,
        n_steps=30,
        interval=3,
        soft_bound=0.0,
        drop_fraction=0.4,
        regrow="never",
    )
    assert {sum(int(m.sum()) for m in one.values()) for one in masks} == {round(0.2 * N_WEIGHTS)}
    totals = [sum(record.n_dropped) for record in updater.history]
    assert totals == sorted(totals, reverse=True)
    want = [0.4 / 2 * (1 + math.cos(math.pi * t / 21)) * 0.2 * N_WEIGHTS for t in range(3, 22, 3)]
    # Rounded down in each of four layers; and "never" stops at the 15 free places of the last.
    assert all(w - 8 <= n <= w for n, w in zip(totals, want, strict=True))
    assert totals[-1] == 0


def test_mest_restarts_what_is_chosen_again() -> None:
    """regrow="zero", as in the official code: it is in both lists."""
    updater, _ = train(
        regrow.mest, 16, sparsity=0.3, n_steps=30, interval=3, soft_bound=0.2, drop_fraction=0.5
    )
    kept, _ = train(
        regrow.mest,
        16,
        sparsity=0.3,
        n_steps=30,
        interval=3,
        soft_bound=0.2,
        drop_fraction=0.5,
        regrow="keep",
    )
    assert sum(updater.history[0].n_dropped) > sum(kept.history[0].n_dropped)


# -- GraNet and GMP --------------------------------------------------------------------------


def test_granet_starts_at_half_and_ends_exactly() -> None:
    updater, masks = train(regrow.granet, 32, sparsity=0.8, n_steps=32, interval=4)
    counts = [sum(int(m.sum()) for m in one.values()) for one in masks]
    end = 20  # the last rewiring up to 0.6875 of 32 steps, which is 22
    for t, count in enumerate(counts):
        past = min(t // 4 * 4, end)
        sparsity = 0.8 - 0.3 * (1 - past / end) ** 3
        assert count == round(N_WEIGHTS * (1 - sparsity)), t
    assert [record.step for record in updater.history] == [4, 8, 12, 16, 20, 24, 28]
    late = [sum(record.n_grown) for record in updater.history if record.step > end]
    assert all(late), "it goes on replacing after the target is met"


def test_granet_from_dense_for_low_targets() -> None:
    updater, _ = train(regrow.granet, 1, sparsity=0.5, n_steps=32, interval=4)
    assert updater.sparsity == 0.0
    updater, _ = train(regrow.granet, 1, sparsity=0.6, n_steps=32, interval=4, initial_sparsity=0.2)
    assert updater.sparsity == pytest.approx(0.2, abs=1 / N_WEIGHTS)
    plan = str(build(regrow.granet, sparsity=0.5, n_steps=32, interval=4)[2].plan())
    assert "may be pruned later" in plan


def test_gradual_only_prunes_and_starts_late() -> None:
    updater, masks = train(regrow.gradual, 40, sparsity=0.9, n_steps=40, interval=4)
    assert [record.step for record in updater.history] == [12, 16, 20, 24, 28]
    for old, new in itertools.pairwise(masks):
        assert all(not (new[n] & ~old[n]).any() for n in SELECTED)
    for t, one in enumerate(masks):
        past = max([8, *[s for s in (12, 16, 20, 24, 28) if s <= t]])
        sparsity = 0.9 - 0.9 * (1 - (past - 8) / 20) ** 3
        assert sum(int(m.sum()) for m in one.values()) == round(N_WEIGHTS * (1 - sparsity)), t


def test_gradual_prunes_the_smallest_of_all_layers() -> None:
    net, optimizer, updater = build(regrow.gradual, sparsity=0.9, n_steps=40, interval=4)
    for batch in batches(11, dtype=torch.float64):
        step(net, optimizer, batch)
    loss_of(net, batches(1, dtype=torch.float64)[0]).backward()
    optimizer.step()
    live = torch.cat(
        [
            p.detach()[updater.topologies[n].mask].abs()
            for n, p in net.named_parameters()
            if n in updater.topologies
        ]
    )
    assert updater.rewirings == 1
    pruned = 1 - live.numel() / N_WEIGHTS
    assert pruned == pytest.approx(0.9 - 0.9 * 0.8**3, abs=1e-3)
    # Weights were uniform in +-1/sqrt(fan_in): the cut falls on all layers at one magnitude.
    assert live.min() > 0
    assert updater.topologies["fc.weight"].sparsity > updater.topologies["head.weight"].sparsity


def test_gradual_per_layer_as_zhu_and_gupta() -> None:
    updater, _ = train(
        regrow.gradual,
        30,
        sparsity=0.75,
        n_steps=30,
        interval=3,
        budget=regrow.per_layer(allocation=regrow.uniform()),
    )
    assert all(abs(t.nnz - t.n_elements / 4) <= 1 for t in updater.topologies.values())


@pytest.mark.parametrize("weight_step", ["before", "after", "skip"])
def test_the_target_is_met_whatever_the_weight_step(weight_step: Any) -> None:
    for make in (regrow.mest, regrow.granet, regrow.gradual):
        updater, _ = train(make, 30, sparsity=0.7, n_steps=30, interval=4, weight_step=weight_step)
        assert updater.nnz == round(0.3 * N_WEIGHTS)
        skipped = updater.rewirings if weight_step == "skip" else 0
        assert updater.weight_steps == 30 - skipped


def test_static_never_rewires() -> None:
    updater, masks = train(regrow.static, 12, sparsity=0.7)
    assert (updater.steps, updater.rewirings, updater.weight_steps) == (12, 0, 12)
    assert all(torch.equal(masks[0][n], masks[-1][n]) for n in SELECTED)
    assert updater.exploration == updater.nnz / N_WEIGHTS
