"""Models split by ``fully_shard``: exact counts, and the topology of one process."""

from typing import Any

import pytest
import torch
from dist import sharded

pytestmark = pytest.mark.dist
CASES = {case[0]: case for case in sharded.cases()}


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    """What one process does with the whole batches."""
    data = sharded.batches()
    return {key: sharded.train(case, data) for key, case in CASES.items()}


@pytest.mark.parametrize("key", CASES)
def test_ranks_decide_as_one_process(
    results: list[dict[str, Any]], alone: dict[str, dict[str, Any]], key: str
) -> None:
    one = alone[key]
    assert len(one["masks"]) == sharded.N_STEPS + 1
    changed = 0
    for rank in results:
        ours = rank[f"sharded/{key}"]
        for i, (a, b) in enumerate(zip(ours["masks"], one["masks"], strict=True)):
            assert a.keys() == b.keys()
            assert all(torch.equal(a[name], b[name]) for name in a), i
        for name, value in one["weights"].items():
            torch.testing.assert_close(ours["weights"][name], value, rtol=1e-9, atol=1e-12)
        first, last = ours["masks"][0], ours["masks"][-1]
        changed += sum(int((first[name] != last[name]).sum()) for name in first)
    assert changed > 0


@pytest.mark.parametrize("key", [key for key in CASES if key.startswith(("rigl/", "set/"))])
def test_every_group_keeps_its_count(results: list[dict[str, Any]], key: str) -> None:
    structure = CASES[key][2]["structure"]
    for rank in results:
        ours = rank[f"sharded/{key}"]
        for name, mask in ours["masks"][0].items():
            assert int(mask.sum()) == int(ours["masks"][-1][name].sum())
            counts = ours["counts"][name]
            if structure.even_groups:
                assert counts.unique().numel() == 1, name
            if structure.fixed_sparsity is not None:
                assert counts.unique().tolist() == [2]


@pytest.mark.parametrize("key", ["rigl/constant fan-in", "set/unstructured"])
def test_resume_is_bit_for_bit(results: list[dict[str, Any]], key: str) -> None:
    for rank in results:
        found = rank[f"sharded/resume/{key}"]
        assert found["equal"]
        assert found["n_tensors"] > 30
        assert found["rewirings"] == 3


def test_sharding_after_the_method_is_told(results: list[dict[str, Any]]) -> None:
    for rank in results:
        said = rank["sharded/refusals"]
        assert "was replaced after it was made sparse" in said["other order"]
        assert "fully_shard before the method" in said["other order"]
        assert "count before fully_shard" in said["flops"]
        assert "is split over ranks: leave process_group out" in said["no group"]
        assert "mid.weight" in said["plan"]


def test_evaluating_between_backward_and_step(results: list[dict[str, Any]]) -> None:
    assert [rank["sharded/evaluates"]["rewirings"] for rank in results] == [1, 1]


def test_an_overflow_in_one_shard_skips_the_step_on_all_ranks(
    results: list[dict[str, Any]],
) -> None:
    for rank in results:
        assert rank["sharded/overflow"] == {"steps": [1, 1, 2, 3, 4], "rewirings": 1}
