"""Signs of health that the topology and its past give: age, dead neurons, collapse."""

from __future__ import annotations

import math
import warnings
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from regrow._names import owned_parameters
from regrow.errors import LayerCollapseWarning
from regrow.topology import Topology
from regrow.training._layer import Layer
from regrow.training._progress import Progress
from regrow.training._rule import Part

COLLAPSE_SHARE = 0.01
"""A layer has collapsed when it keeps less than this of the connections it would have if it still
held its share of the start, of all connections of its part of the model; or when it has none.

Pruning by one ranking over all layers can empty a layer and cut the network in two (layer
collapse: Tanaka et al. 2020, section 4). Shares, not counts: gradual pruning makes every layer
smaller. A hundredth is a choice, and from no paper: far beyond what moving connections between
layers is for, and early enough to look before the layer is empty."""


class Neurons(NamedTuple):
    """Outputs and inputs of a layer, and how many of them have no connection."""

    n_outputs: int
    n_dead_outputs: int
    n_inputs: int
    n_dead_inputs: int


class Ages(NamedTuple):
    """Mean and (lower) median of the steps that active units have lived; None where not known."""

    mean: float | None
    median: int | None


def owners_of(model: nn.Module) -> dict[str, nn.Module]:
    """Parameter name -> the module that owns it, the first one where several do."""
    return {one.name: one.owners[0][1] for one in owned_parameters(model)}


def neurons_of(topology: Topology, module: nn.Module | None) -> Neurons:
    """Count outputs and inputs with and without connections.

    Args:
        topology: Of a weight (out, in / groups, kernel); of a transposed convolution (in, out /
            groups, kernel), of an embedding (in, out). Fewer than two dimensions have neither
            outputs nor inputs.
        module: The owner of the weight, which says how to read it; None for a plain matrix.
    """
    shape = topology.shape
    if len(shape) < 2:
        return Neurons(0, 0, 0, 0)
    is_conv = isinstance(module, _ConvNd) or getattr(module, "holds_values", False)
    groups = int(getattr(module, "groups", 1)) if is_conv else 1
    inputs_first = isinstance(module, _ConvTransposeNd | nn.Embedding | nn.EmbeddingBag)
    row_ptr, columns = topology.csr
    rows_connected = row_ptr.diff() > 0
    kernel = math.prod(shape[2:])
    n_rows, n_others = shape[0], shape[1] * groups
    others_connected = torch.zeros(n_others, dtype=torch.bool, device=columns.device)
    for group, rows in enumerate(row_ptr[:: n_rows // groups].unfold(0, 2, 1).tolist()):
        others = columns[slice(*rows)].div(kernel, rounding_mode="floor")
        others_connected[others.to(torch.int64) + group * shape[1]] = True
    fed, used = rows_connected, others_connected
    if inputs_first:
        fed, used = used, fed
    return Neurons(
        fed.numel(),
        fed.numel() - int(fed.count_nonzero()),
        used.numel(),
        used.numel() - int(used.count_nonzero()),
    )


def exploration_of(layers: Sequence[Layer]) -> float | None:
    """Fraction of units that were ever active; None where a layer does not keep its past."""
    pasts = [layer.lifetimes for layer in layers]
    known = [past for past in pasts if past is not None]
    if len(known) < len(pasts):
        return None
    n_units = sum(layer.topology.n_units for layer in layers)
    return sum(past.n_ever_active() for past in known) / n_units


def cohorts_of(layers: Sequence[Layer], n_rewirings: int) -> list[list[int] | None]:
    """For each layer, how many active units date from the start and from each rewiring.

    None for a layer that does not keep its past.
    """
    # (Few distinct values: a histogram is small where the ages of all units are not.)
    return [
        None
        if layer.lifetimes is None
        else torch.bincount(layer.lifetimes.born, minlength=n_rewirings + 1).tolist()
        for layer in layers
    ]


def ages_of(cohorts: Sequence[Sequence[int] | None], progress: Progress) -> Ages:
    """Ages over the active units of one layer or of several.

    Args:
        cohorts: Of each layer; None for one that does not keep its past.
        progress: For the steps performed and those of the rewirings.
    """
    known = [cohort for cohort in cohorts if cohort is not None]
    if len(known) < len(cohorts):
        return Ages(None, None)
    started = [0, *(record.step for record in progress.history)]
    sizes = [sum(sizes) for sizes in zip(*known, strict=True)]
    total = sum(sizes)
    if not total:
        return Ages(None, None)
    # A callback of a rewiring asks before the step that rewires is counted.
    now = max(progress.steps, started[-1])
    ages = [now - step for step in started]
    mean = sum(age * n for age, n in zip(ages, sizes, strict=True)) / total
    youngest_first = list(accumulate(reversed(sizes)))
    median = ages[-1 - bisect_left(youngest_first, (total + 1) // 2)]
    return Ages(mean, median)


def collapsed_layers(parts: Sequence[Part], progress: Progress) -> Mapping[str, bool]:
    """Layer name -> whether it has collapsed (``COLLAPSE_SHARE``)."""
    initial = dict(zip(_names(parts), progress.initial_nnz, strict=True))
    found = {}
    for part in parts:
        nnz = {layer.name: layer.topology.nnz for layer in part.layers}
        before, now = sum(initial[name] for name in nnz), sum(nnz.values())
        for name, own in nnz.items():
            fair = initial[name] * now / before if before else 0
            found[name] = own == 0 or own < COLLAPSE_SHARE * fair
    return found


def warn_of_collapse(parts: Sequence[Part], progress: Progress, *, warned: set[str]) -> None:
    """Warn of each layer that has collapsed, once; not of one that was empty from the start.

    Args:
        parts: Layers with their rules.
        progress: For the counts of the start.
        warned: Names of the layers that were warned of; new ones are added.
    """
    initial = dict(zip(_names(parts), progress.initial_nnz, strict=True))
    collapsed = [name for name, flag in collapsed_layers(parts, progress).items() if flag]
    new = [name for name in collapsed if initial[name] and name not in warned]
    warned.update(new)
    if new:
        nnz = {layer.name: layer.topology.nnz for part in parts for layer in part.layers}
        left = ", ".join(f"{name} has {nnz[name]:,} of {initial[name]:,}" for name in new)
        warnings.warn(
            f"layer collapse by step {progress.steps}: {left} connections left, no more than "
            f"{COLLAPSE_SHARE:.0%} of its share at the start; give each layer its own budget "
            "(budget=regrow.per_layer()), or drop by a criterion that compares across layers",
            LayerCollapseWarning,
            stacklevel=2,
        )


def _names(parts: Sequence[Part]) -> list[str]:
    return [layer.name for part in parts for layer in part.layers]


def churn_of_layer(progress: Progress, index: int, unit_size: int) -> float | None:
    """Share of new units behind the last rewiring that layer ``index`` took part in, or None."""
    for record in reversed(progress.history):
        if record.took_part[index]:
            return _share(record.n_new[index], record.nnz[index] // unit_size)
    return None


def churn_of_all(progress: Progress, unit_sizes: Sequence[int]) -> float | None:
    """The same over all layers that took part in the last rewiring."""
    if not progress.history:
        return None
    last = progress.history[-1]
    took_part = [i for i, flag in enumerate(last.took_part) if flag]
    new = sum(last.n_new[i] for i in took_part)
    return _share(new, sum(last.nnz[i] // unit_sizes[i] for i in took_part))


def _share(new: int, active: int) -> float:
    return new / active if active else 0.0
