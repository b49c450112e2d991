"""The multilayer perceptron of the paper, of truly sparse layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import nn

from regrow import Topology, erdos_renyi
from regrow._checks import check_choice, check_count, check_fraction
from regrow.allocation import allocate_counts
from regrow.nn import SparseLinear, SparseModule
from regrow.systems.truly_sparse._activation import AllReLU, SeededDropout
from regrow.topology import derived_generator, random_topology

Activation = Literal["all_relu", "relu"]
ACTIVATIONS = ("all_relu", "relu")


def sparse_mlp(
    sizes: Sequence[int],
    *,
    epsilon: float = 20,
    activation: Activation = "all_relu",
    slope: float = 0.6,
    dropout: float = 0.0,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> nn.Sequential:
    """A multilayer perceptron whose layers hold their connections only.

    Every layer, the output layer too, has ``epsilon`` (n_in + n_out) connections, or all n_in n_out
    where that is more: with ten classes the output layer is full at the default. The truly sparse
    code does the same; SET's older code has a dense output layer whatever its size. No dense weight
    is ever allocated.

    First values are uniform in ±sqrt(6 / (1 + a^2) / k), k the connections of the neuron and a the
    negative slope: He's law for activation and fan-in that are really there. (The official code
    divides by the dense fan-in, which lets signals fade from layer to layer, and leaves out a.)
    Those of the output layer are in ±sqrt(1 / k); biases begin at zero.

    Args:
        sizes: Inputs, neurons of each hidden layer, outputs: three numbers or more. Paper:
            784-1000-1000-1000-10 for MNIST, 3072-4000-1000-4000-10 for CIFAR-10.
        epsilon: Connections for each input and output neuron of a layer, above 0. Paper: 20.
        activation: Behind hidden layers: ``"all_relu"`` or ``"relu"``.
        slope: Negative side of All-ReLU, in [0, 1]; see ``AllReLU``. Without effect on ReLU.
        dropout: Fraction in [0, 1) of hidden activations dropped in training. Paper: 0.3.
        seed: Of topologies, values and dropout.
        dtype: Of the parameters; by default torch's default.
        backend: Of the products: see ``regrow.nn.SparseLinear``.

    Returns:
        A ``Sequential`` of ``SparseLinear``, activation and dropout; its outputs are linear.

    Raises:
        TypeError: An argument is of another type.
        ValueError: An argument is out of range, or a layer would get no connection.

    Source: Curci, Mocanu & Pechenizkiy 2021, "Truly sparse neural networks at scale"; topology:
    Mocanu et al. 2018 (SET).

    Example:
        >>> net = sparse_mlp((784, 1000, 1000, 10))
        >>> [layer.nnz for layer in net if hasattr(layer, "nnz")]
        [35680, 40000, 10000]
    """
    widths = _check_sizes(sizes)
    check_choice(activation, "activation", ACTIVATIONS)
    check_fraction(slope, "slope", closed=True)
    check_fraction(dropout, "dropout")
    shapes = {str(i): pair[::-1] for i, pair in enumerate(pairwise(widths))}
    counts = allocate_counts(shapes, None, erdos_renyi(epsilon=epsilon))
    negative = slope if activation == "all_relu" else 0.0
    modules: list[nn.Module] = []
    for i, (name, shape) in enumerate(shapes.items(), start=1):
        generator = derived_generator(seed, "topology", name)
        topology = random_topology(shape, counts[name], generator=generator, compact=True)
        is_hidden = i < len(shapes)
        layer = _layer(topology, seed=_seed(seed, name), dtype=dtype, backend=backend)
        modules.append(layer)
        if is_hidden:
            # Its values come in ±1 / sqrt(k).
            layer.values.data.mul_(math.sqrt(6 / (1 + negative**2)))
            modules.append(AllReLU(slope, layer=i) if activation == "all_relu" else nn.ReLU())
            if dropout:
                modules.append(SeededDropout(dropout, seed=_seed(seed, f"dropout {name}")))
    return nn.Sequential(*modules)


def hidden_weights(model: nn.Module) -> list[str]:
    """Names of the weights of all truly sparse layers but the last: those that evolve.

    Args:
        model: A module with ``SparseLinear`` layers, in the order in which they follow each other.

    Returns:
        Names such as ``"0.weight"``, as ``TopologyUpdater.topologies`` has them.

    Raises:
        ValueError: There are fewer than two truly sparse layers.
    """
    names = [
        f"{path}.weight"
        for path, module in model.named_modules()
        if isinstance(module, SparseModule)
    ]
    if len(names) < 2:
        raise ValueError(
            f"model must have at least two truly sparse layers, a hidden one and the output; it "
            f"has {len(names)}: make one with sparse_mlp, or convert it with regrow.compress_"
        )
    return names[:-1]


def _layer(
    topology: Topology, *, seed: int, dtype: torch.dtype | None, backend: str
) -> SparseLinear:
    n_out, n_in = topology.shape
    layer = SparseLinear(
        n_in, n_out, sparsity=None, topology=topology, seed=seed, dtype=dtype, backend=backend
    )
    layer.bias.data.zero_()
    return layer


def _seed(seed: int, part: str) -> int:
    """A seed for one layer: layers of one shape and one seed would begin alike."""
    return int(torch.randint(2**62, (), generator=derived_generator(seed, part)))


def _check_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    if isinstance(sizes, str) or not isinstance(sizes, Sequence) or len(sizes) < 3:
        raise ValueError(
            "sizes must name inputs, at least one hidden layer and outputs, such as "
            f"(784, 1000, 10); got {sizes!r:.80}"
        )
    return tuple(check_count(size, "a size") for size in sizes)
