"""The first topology and the first values of a truly sparse layer."""

from __future__ import annotations

import torch
from torch import Tensor

from regrow._checks import check_fraction, check_is_structure
from regrow.errors import SparsityError
from regrow.topology import Structure, Topology, derived_generator, random_topology
from regrow.typing import Shape


def draw_topology(
    shape: Shape, *, sparsity: float | None, structure: Structure, seed: int
) -> Topology:
    """A compact topology at a sparsity, as near as whole units and even groups allow.

    Args:
        shape: Of the dense weight.
        sparsity: Fraction in [0, 1) of zeros; None where the structure fixes it.
        structure: What a unit is.
        seed: Layers of one shape and one seed get the same topology.

    Raises:
        TypeError: An argument is of another type.
        ValueError: ``sparsity`` is out of range, missing, or another than the structure fixes.
    """
    check_is_structure(structure)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    structure.check(shape)
    fixed = structure.fixed_sparsity
    if sparsity is None:
        if fixed is None:
            raise SparsityError("sparsity must be a fraction in [0, 1), got None")
        sparsity = fixed
    check_fraction(sparsity, "sparsity")
    if fixed is not None and abs(sparsity - fixed) > 1e-6:
        raise SparsityError(f"{structure} fixes the sparsity at {fixed:g}, got sparsity={sparsity}")
    n_units, n_groups = structure.n_units(shape), structure.n_groups(shape)
    step = n_groups if fixed is not None or structure.even_groups else 1
    count = step * round(n_units * (1 - sparsity) / step)
    generator = derived_generator(seed, "topology")
    return random_topology(shape, count, generator=generator, structure=structure, compact=True)


@torch.no_grad()
def draw_values(topology: Topology, *, seed: int, dtype: torch.dtype) -> Tensor:
    """Uniform values, as torch's layers begin with, by the number of inputs an output really has.

    Uniform in [-b, b] with b = 1 / sqrt(n), n the connections of the output: torch's own bound
    with the dense fan-in in its place (Evci et al. 2022, "Gradient flow in sparse neural networks",
    section 3: by the dense fan-in, signals fade). None is exactly zero.

    Args:
        topology: Where they belong.
        seed: Layers of one topology and one seed get the same values.
        dtype: Of the result.

    Returns:
        (nnz,) on the topology's device.
    """
    row_ptr, _ = topology.csr
    # Doubles, so that no draw lies just in the middle.
    draws = torch.rand(
        topology.nnz, generator=derived_generator(seed, "values"), dtype=torch.float64
    )
    values = draws.mul_(2).sub_(1).to(row_ptr.device)
    n_inputs = row_ptr.diff()
    bound = n_inputs.clamp(min=1).double().rsqrt()
    return values.mul_(torch.repeat_interleave(bound, n_inputs, output_size=topology.nnz)).to(dtype)


@torch.no_grad()
def draw_bias(n_out: int, *, fan_in: int, seed: int, dtype: torch.dtype) -> Tensor:
    """Uniform in [-b, b], b = 1 / sqrt(fan_in): as torch's layers draw it, by the dense fan-in."""
    draws = torch.rand(n_out, generator=derived_generator(seed, "bias"), dtype=torch.float64)
    return draws.mul_(2).sub_(1).div_(max(fan_in, 1) ** 0.5).to(dtype)
