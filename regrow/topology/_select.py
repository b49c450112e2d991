"""Exact selection: k of each group, ties broken by position."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from regrow.errors import SparsityError

# Below this many scores a whole `kthvalue` costs less than looking for a bound first.
_SAMPLE_FROM = 1 << 18
_SAMPLE = 1 << 14


def select_top(
    scores: Tensor,
    groups: Tensor | None,
    k: Tensor | int,
    *,
    tie: Literal["lower_index"] = "lower_index",
) -> Tensor:
    """Positions of exactly the ``k`` highest scores of each group.

    Args:
        scores: (n,) real; NaN ranks below everything, -inf included with it.
        groups: (n,) int64, the group of each score in [0, number of groups); None for one group.
        k: How many of each group: an int for one group, else (number of groups,) int64.
        tie: Among equal scores the lower position enters first. The only rule there is.

    Returns:
        Positions into ``scores``, ascending int64, ``sum(k)`` of them.

    Raises:
        SparsityError: A group has fewer than ``k`` scores, or ``k`` is negative.
        ValueError: ``tie`` is unknown.

    Example:
        >>> select_top(torch.tensor([1.0, 3.0, 3.0, 2.0]), None, 2).tolist()
        [1, 2]
        >>> select_top(torch.tensor([3.0, 3.0, 3.0, 2.0]), None, 2).tolist()
        [0, 1]
    """
    if tie != "lower_index":
        raise ValueError(f"tie must be 'lower_index', got {tie!r}")
    if groups is None:
        return _select_one_group(scores, _as_count(k, scores.numel()))
    if not isinstance(k, Tensor) or k.dim() != 1:
        raise SparsityError(f"k must have one entry for each group where there are groups, got {k}")
    return _select_of_groups(scores, groups, k.to(scores.device))


def select_top_reference(scores: Tensor, groups: Tensor, k: Tensor) -> Tensor:
    """The same as ``select_top`` by two stable sorts: the plainest correct form, for any groups.

    Args:
        scores: (n,) real.
        groups: (n,) int64.
        k: (number of groups,) int64.

    Returns:
        Ascending positions.

    Raises:
        SparsityError: A group has fewer than ``k`` scores, or ``k`` is negative.
    """
    sizes = _group_sizes(groups, k)
    by_score = torch.sort(without_nan(scores), descending=True, stable=True).indices
    order = by_score[torch.sort(groups[by_score], stable=True).indices]
    starts = torch.cumsum(sizes, 0) - sizes
    sorted_groups = groups[order]
    rank = torch.arange(order.numel(), device=scores.device) - starts[sorted_groups]
    return torch.sort(order[rank < k[sorted_groups]]).values


def _group_sizes(groups: Tensor, k: Tensor) -> Tensor:
    sizes = torch.bincount(groups, minlength=k.numel())
    if sizes.numel() != k.numel():
        raise SparsityError(f"k has {k.numel()} entries for {sizes.numel()} groups")
    wrong = ((k < 0) | (k > sizes)).nonzero().squeeze(1)
    if wrong.numel():
        first = int(wrong[0])
        raise SparsityError(
            f"cannot select {int(k[first])} of the {int(sizes[first])} scores of group {first}"
        )
    return sizes


def _select_of_groups(scores: Tensor, groups: Tensor, k: Tensor) -> Tensor:
    """Groups of about one size as rows of a table, which are sorted side by side."""
    sizes = _group_sizes(groups, k)
    n = scores.numel()
    width = int(sizes.max()) if sizes.numel() else 0
    if not scores.dtype.is_floating_point or width * k.numel() > 4 * n:
        return select_top_reference(scores, groups, k)
    order = None
    if bool((groups[1:] < groups[:-1]).any()):
        order = torch.sort(groups, stable=True).indices
        scores, groups = scores[order], groups[order]
    starts = torch.cumsum(sizes, 0) - sizes
    column = torch.arange(n, device=scores.device) - starts[groups]
    # Padding lies behind a group's own scores, and the sort is stable: -inf is no special case.
    table = scores.new_full((k.numel(), width), -torch.inf)
    table[groups, column] = without_nan(scores)
    by_score = torch.sort(table, dim=1, descending=True, stable=True).indices
    enters = torch.arange(width, device=scores.device) < k.unsqueeze(1)
    chosen = (by_score + starts.unsqueeze(1))[enters]
    return torch.sort(chosen if order is None else order[chosen]).values


def _as_count(k: Tensor | int, n: int) -> int:
    count = int(k)
    if not 0 <= count <= n:
        raise SparsityError(f"cannot select {count} of {n} scores")
    return count


def without_nan(scores: Tensor) -> Tensor:
    """Scores with -inf in place of NaN; the same tensor where there is none."""
    # A maximum carries NaN along: one pass, and no second tensor in the common case.
    if scores.dtype.is_floating_point and scores.numel() and bool(scores.amax().isnan()):
        return scores.masked_fill(scores.isnan(), -torch.inf)
    return scores


def _select_one_group(scores: Tensor, k: int) -> Tensor:
    n = scores.numel()
    if k == 0:
        return torch.empty(0, dtype=torch.int64, device=scores.device)
    if k == n:
        return torch.arange(n, device=scores.device)
    scores = without_nan(scores)
    threshold = _kth_highest(scores, k)
    chosen = (scores >= threshold).nonzero().squeeze(1)
    surplus = chosen.numel() - k
    if surplus:
        tied = (scores[chosen] == threshold).nonzero().squeeze(1)
        stays = torch.ones_like(chosen, dtype=torch.bool)
        stays[tied[tied.numel() - surplus :]] = False
        chosen = chosen[stays]
    return chosen


def _kth_highest(scores: Tensor, k: int) -> Tensor:
    """The k-th highest score. Large inputs are first cut at a bound taken from a sample.

    The bound only decides how much is left to look at: whatever it is, the result is exact.
    """
    n = scores.numel()
    if n >= _SAMPLE_FROM and k < n // 2:
        sample = scores[:: n // _SAMPLE]
        rank = k * sample.numel() / n
        looser = min(sample.numel(), int(rank + 4 * rank**0.5 + 8))
        bound = torch.topk(sample, looser).values[-1]
        left = scores[scores >= bound]
        if left.numel() >= k:
            scores, n = left, left.numel()
    if scores.device.type != "cpu":
        return torch.kthvalue(scores, n - k + 1).values
    # On the CPU torch's kthvalue takes quadratic time on descending scores; introselect does not.
    wide = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    kth = np.partition(wide.detach().numpy(), n - k)[n - k]
    return torch.as_tensor(kth, dtype=scores.dtype)
