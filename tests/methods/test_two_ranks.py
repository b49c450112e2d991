"""Two gloo ranks, started once for all cases: alike, and equal to one process."""

from typing import Any

import pytest
import torch
from dist import ranks
from torch import Tensor

pytestmark = pytest.mark.dist


def assert_alike(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a["history"] == b["history"]
    assert a["steps"] == b["steps"] == ranks.N_STEPS
    for i, (one, two) in enumerate(zip(a["all_masks"], b["all_masks"], strict=True)):
        assert all(torch.equal(one[name], two[name]) for name in one), i
    for name, value in a["weights"].items():
        assert torch.equal(value, b["weights"][name]), name


def assert_close(ours: dict[str, Any], alone: dict[str, Any]) -> None:
    for i, (one, two) in enumerate(zip(ours["all_masks"], alone["all_masks"], strict=True)):
        assert all(torch.equal(one[name], two[name]) for name in one), i
    for name, value in ours["weights"].items():
        torch.testing.assert_close(value, alone["weights"][name], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("method", "optimizer"), ranks.TABLE)
def test_ranks_are_identical(results: list[dict[str, Any]], method: str, optimizer: str) -> None:
    first, second = (result[f"{method}/{optimizer}"] for result in results)
    assert_alike(first, second)
    assert bool(first["history"]) == (method != "static")


@pytest.mark.parametrize(
    ("method", "optimizer"),
    # Muon orthogonalises in bfloat16, where a last bit of the average shows.
    [case for case in ranks.TABLE if case[1] != "muon+adamw"],
)
def test_two_ranks_equal_one_process(
    results: list[dict[str, Any]], method: str, optimizer: str
) -> None:
    alone = ranks.train(method, optimizer, ranks.global_batches())
    assert_close(results[0][f"{method}/{optimizer}"], alone)


@pytest.mark.parametrize("wrap_first", [True, False])
@pytest.mark.parametrize("bucket_view", [True, False])
@pytest.mark.parametrize("method", ["rigl", "set"])
def test_ddp_variants(
    results: list[dict[str, Any]], method: str, bucket_view: bool, wrap_first: bool
) -> None:
    key = f"{method}/view={bucket_view}/first={wrap_first}"
    assert_alike(results[0][key], results[1][key])
    alone = ranks.train(method, "sgd", ranks.global_batches())
    assert_close(results[0][key], alone)


def test_b07_growth_follows_the_averaged_gradient(results: list[dict[str, Any]]) -> None:
    """sparsimony: under DDP, growth follows rank 0's local gradient."""
    first, second = (result["growth"] for result in results)
    n_by_rank_0, n_grown = 0, 0
    for name, old in first["old"].items():
        new = first["new"][name]
        assert torch.equal(new, second["new"][name])
        grown = new & ~old
        count = int(grown.sum())
        average = (first["local"][name] + second["local"][name]) / 2
        assert torch.equal(grown, _largest(average, ~old, count)), name
        n_by_rank_0 += int((grown & _largest(first["local"][name], ~old, count)).sum())
        n_grown += count
    assert n_grown > 100
    assert n_by_rank_0 < 0.9 * n_grown, "the two gradients would choose alike: no test"


def _largest(grad: Tensor, among: Tensor, count: int) -> Tensor:
    scores = grad.abs().masked_fill(~among, -1.0).reshape(-1)
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen[scores.argsort(descending=True)[:count]] = True
    return chosen.view(grad.shape)


def test_ranks_that_do_not_average_are_told(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert "ranks decided different topologies at step 1" in result["mismatch"]["error"]
        assert "process_group=None" in result["mismatch"]["error"]


def test_ranks_may_train_different_models(results: list[dict[str, Any]]) -> None:
    first, second = (result["alone"] for result in results)
    assert (first["steps"], second["steps"]) == (4, 5)
    assert len(first["history"]) == len(second["history"]) == 2
    assert any(not torch.equal(first["masks"][n], second["masks"][n]) for n in first["masks"])


def test_a_rewiring_waits_on_all_ranks_where_one_is_not_finite(
    results: list[dict[str, Any]],
) -> None:
    first, second = (result["not finite"] for result in results)
    assert first["rewirings"] == second["rewirings"] == [0, 0, 0, 1, 1]
    assert all(torch.equal(first["masks"][n], second["masks"][n]) for n in first["masks"])
