"""Parts that cannot be combined: said before anything has changed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from part_cases import four_parts, rigl_part, sgd
from tiny_cases import masks_of, same, snapshot, tiny_net

import regrow
from regrow import part
from regrow.errors import InfeasibleSparsityError, SparsityError

SELECTED = ["conv.weight", "fc.weight", "mid.weight", "head.weight"]


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        (
            lambda: [rigl_part("fc.weight"), rigl_part(["fc.weight", "mid.weight"])],
            SparsityError,
            r"parts select the same weights: fc\.weight$",
        ),
        (
            lambda: [rigl_part("fc.weight"), rigl_part("mid.weight", weight_step="before")],
            ValueError,
            "parts differ in weight_step: before, skip; .* pass the same weight_step= to each",
        ),
        (lambda: [rigl_part("fc.weight"), rigl_part("none.*")], SparsityError, "matches no"),
        (
            lambda: [rigl_part("fc.weight"), rigl_part("mid.weight", sparsity=1.5)],
            ValueError,
            r"sparsity must lie in \[0, 1\)",
        ),
        (
            lambda: [rigl_part("fc.weight"), rigl_part("head.weight", sparsity=0.999)],
            InfeasibleSparsityError,
            "cannot be met",
        ),
        (
            lambda: [
                rigl_part("fc.weight"),
                part(
                    regrow.gradual,
                    select="mid.weight",
                    sparsity=0.5,
                    n_steps=20,
                    interval=3,
                    structure=regrow.NM(2, 4),
                ),
            ],
            SparsityError,
            r"gradual moves to a target, and NM\(n=2, m=4\) fixes",
        ),
        (
            lambda: [rigl_part("fc.weight"), rigl_part("conv.weight", structure=regrow.NM(2, 4))],
            SparsityError,
            "needs a number of inputs that 4 divides",
        ),
        (lambda: [rigl_part("fc.weight"), regrow.rigl], TypeError, r"regrow\.part\(method"),
        (lambda: rigl_part("fc.weight"), TypeError, "parts must be a sequence"),
        (list, ValueError, "at least one part"),
        (
            lambda: [part(lambda model, optimizer, *, select, seed, process_group: None,
                          select="fc.weight")],
            SparsityError,
            "not one of regrow.methods",
        ),
    ],
)  # fmt: skip
def test_nothing_has_changed_after_an_error(
    parts: Callable[[], Any], error: type[Exception], message: str
) -> None:
    net = tiny_net()
    optimizer = sgd(net)
    before = snapshot(net, optimizer)
    with pytest.raises(error, match=message):
        regrow.combine(net, optimizer, parts())
    assert same(snapshot(net, optimizer), before)
    assert not optimizer._optimizer_step_pre_hooks
    assert not net._forward_pre_hooks
    regrow.combine(net, optimizer, four_parts())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsty": 0.5, "n_steps": 9}, r"part\(rigl, .*has no argument 'sparsty'; it has spar"),
        ({"sparsity": 0.5}, r"part\(rigl, \.\.\.\): missing .*'n_steps'"),
        ({"sparsity": 0.5, "n_steps": 9, "seed": 1}, "seed holds for all parts"),
        ({"sparsity": 0.5, "n_steps": 9, "process_group": None}, "process_group holds for all"),
        ({"sparsity": 0.5, "n_steps": 9, "model": None}, "multiple values .*'model'"),
    ],
)
def test_wrong_arguments_are_told_where_the_part_is_made(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        part(regrow.rigl, select="fc.weight", **arguments)


@pytest.mark.parametrize("seed", [1.5, True, "0"])
def test_seeds_that_are_no_integers(seed: Any) -> None:
    net = tiny_net()
    with pytest.raises(TypeError, match="seed must be an integer"):
        regrow.combine(net, sgd(net), four_parts(), seed=seed)


def test_every_method_can_be_a_part() -> None:
    for name in ("static", "set_training", "rigl", "mest", "granet", "gradual"):
        net = tiny_net()
        schedule = {} if name == "static" else {"n_steps": 20, "interval": 3}
        one = part(getattr(regrow, name), select="fc.weight", sparsity=0.7, **schedule)
        updater = regrow.combine(net, sgd(net), [one])
        assert list(updater.topologies) == ["fc.weight"]


def test_parts_may_be_used_again() -> None:
    parts = four_parts()
    masks = []
    for _ in range(2):
        net = tiny_net()
        masks.append(masks_of(regrow.combine(net, sgd(net), parts, seed=5)))
    assert all(torch.equal(masks[0][n], masks[1][n]) for n in SELECTED)
