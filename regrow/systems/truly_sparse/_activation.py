"""All-ReLU, and dropout that draws from a seed of its own."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regrow._checks import check_count, check_fraction
from regrow.topology import derived_generator


@final
class AllReLU(nn.Module):
    """Alternated left ReLU: x where x > 0, else ``slope`` x with the sign of the layer.

    The negative side goes down to the right, -``slope`` x, in the first, third, ... hidden layer,
    and up, +``slope`` x, in the second, fourth, ... There is nothing to learn.

    Args:
        slope: Steepness of the negative side, in [0, 1]. Paper: 0.6 on MNIST and Fashion-MNIST,
            0.75 on CIFAR-10; 0 is ReLU.
        layer: Which hidden layer it stands behind, counted from 1; the output has none.

    Raises:
        TypeError: An argument is of another type.
        ValueError: ``slope`` or ``layer`` is out of range.

    Source: Curci, Mocanu & Pechenizkiy 2021, "Truly sparse neural networks at scale", section 3.1.

    Example:
        >>> AllReLU(0.5, layer=1)(torch.tensor([-2.0, 2.0])).tolist()
        [1.0, 2.0]
        >>> AllReLU(0.5, layer=2)(torch.tensor([-2.0, 2.0])).tolist()
        [-1.0, 2.0]
    """

    def __init__(self, slope: float = 0.6, *, layer: int) -> None:
        super().__init__()
        self.slope = check_fraction(slope, "slope", closed=True)
        self.layer = check_count(layer, "layer")

    def forward(self, x: Tensor) -> Tensor:
        """The activation, in the memory order of ``x``."""
        return F.leaky_relu(x, -self.slope if self.layer % 2 else self.slope)

    def extra_repr(self) -> str:
        """Slope and layer."""
        return f"slope={self.slope:g}, layer={self.layer}"


@final
class SeededDropout(nn.Module):
    """Dropout whose draws depend on a seed, and not on torch's global generator.

    Draws go on from call to call; ``restart`` begins them again, as a trainer does at each epoch so
    that a resumed training draws what an uninterrupted one would. State is not part of checkpoints.

    Args:
        p: Fraction in [0, 1) of activations that are zeroed in training, to within 2^-17; the
            others are scaled by one over the fraction that stays.
        seed: Any integer.

    Raises:
        TypeError: An argument is of another type.
        ValueError: ``p`` is out of range.
    """

    def __init__(self, p: float = 0.3, *, seed: int = 0) -> None:
        super().__init__()
        self.p = check_fraction(p, "p")
        self.restart(seed)

    def restart(self, seed: int, *parts: int | str) -> None:
        """Draw from now on as this seed and further parts of it say."""
        self._seed, self._parts = seed, parts
        self._generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """``x`` with some zeros in training, ``x`` itself otherwise."""
        if not self.training or self.p == 0.0:
            return x
        if self._generator is None:
            self._generator = derived_generator(self._seed, "dropout", *self._parts)
        return x * _kept(x.shape, self.p, self._generator).to(x)

    def extra_repr(self) -> str:
        """The fraction."""
        return f"p={self.p:g}"

    def __getstate__(self) -> dict[str, object]:
        # Copies and pickles begin the draws of their parts anew: generators are no data.
        return self.__dict__ | {"_generator": None}


def _kept(shape: torch.Size, p: float, generator: torch.Generator) -> Tensor:
    """Factors of activations: 0, or 1 over the fraction that stays.

    Sixteen bits a draw, four draws a random number: ``bernoulli_`` takes a third of a training step
    of layers this sparse. They lie feature by feature, as truly sparse layers' results do.
    """
    n, n_features = shape.numel(), shape[-1]
    n_dropped = round(p * 2**16)
    numbers = torch.empty(-(-n // 4), dtype=torch.int64).random_(
        -(2**63), None, generator=generator
    )
    stays = numbers.view(torch.int16)[:n] >= n_dropped - 2**15
    factors = stays.float().mul_(2**16 / (2**16 - n_dropped))
    return factors.view(n_features, n // n_features).t().reshape(shape)
