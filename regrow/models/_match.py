"""Dense models with as many parameters as a sparse one keeps: the control of equal size."""

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from regrow._checks import check_count, check_fraction
from regrow.errors import SparsityError
from regrow.models._constructors import Constructor
from regrow.models._width import WIDTH_NAMES, Width

Widths = tuple[int, ...]
Count = Callable[[Widths], int]

# Among widths whose error is below this, the most proportional ones are taken: a twentieth of a
# per cent decides nothing, a distorted shape might.
_NEGLIGIBLE = 5e-4
# Constructors may round widths to multiples of 8, or take no others; GroupNorm likes 32.
_COARSE = (8, 32)
_SMALLEST_FACTOR = 1 / 64


def match_parameters(
    constructor: Constructor, n_classes: int, n_parameters: int, *, tolerance: float = 0.01
) -> Width:
    """Find the width at which a dense model has a given number of parameters.

    Norms and biases count. Where the constructor takes one width for each stage, all of them are
    first changed by one factor; then single stages by a few channels, since the factor alone
    misses by one or two per cent. Models are built without memory (on the meta device) where they
    can be, and torch's global generator is left as it was.

    Args:
        constructor: Makes a model from the number of classes and ``width=``, as those of
            :func:`regrow.models.constructor` do, which also gives others' models a ``width``. Its
            default decides what is searched: a sequence of integers: the width of each stage; an
            integer: one width; a float: one multiplier.
        n_classes: Number of classes.
        n_parameters: How many parameters the model should have, at least 1.
        tolerance: Largest relative error allowed, in [0, 1). Default: ours, one per cent.

    Returns:
        The width found, of the type of the default: a tuple of integers, an integer or a float.
        The same at each call.

    Raises:
        TypeError: The constructor cannot be called, or a count is no integer.
        ValueError: A number is out of its range.
        SparsityError: The constructor has no ``width`` that could be searched, cannot be called
            with one, or has none within the tolerance; the message names the nearest found.

    Example:
        >>> from regrow.models import small_cnn
        >>> width = match_parameters(small_cnn, 10, 121_000)
        >>> abs(sum(p.numel() for p in small_cnn(10, width=width).parameters()) - 121_000) < 121
        True
    """
    default = _default_width(constructor)
    check_count(n_classes, "n_classes", least=2)
    target = check_count(n_parameters, "n_parameters")
    tolerance = check_fraction(tolerance, "tolerance")

    @functools.cache
    def count(width: Width) -> int:
        return _count(constructor, n_classes, width)

    width: Width
    if isinstance(default, float):
        width = _match_factor(count, default, target)
    elif isinstance(default, int):
        (width,) = _match_widths(
            lambda widths: count(widths[0]), (default,), target, tolerance=tolerance
        )
    else:
        width = _match_widths(count, tuple(default), target, tolerance=tolerance)
    error = abs(count(width) - target) / target
    if error > tolerance:
        raise SparsityError(
            f"no width of {_name(constructor)} gives {target} parameters within "
            f"{tolerance:.2%}: the nearest found is width={width!r} with {count(width)} "
            f"({error:.2%} away); another number of parameters, a tolerance above {error:.4f} or "
            "another model would do"
        )
    return width


def _default_width(constructor: Constructor) -> Width:
    if not callable(constructor):
        raise TypeError(
            f"constructor must be a function that makes a model, got {constructor!r}; "
            "regrow.models.constructor(name) finds one by name"
        )
    parameter = inspect.signature(constructor).parameters.get("width")
    if parameter is None:
        raise SparsityError(
            f"{_name(constructor)} takes no argument width, nor {', '.join(WIDTH_NAMES[1:])} in "
            "its place, so there is no narrower model of its kind with a given number of "
            "parameters; give it width=(...), one integer a stage, or leave that control out"
        )
    default = parameter.default
    numbers = [default] if isinstance(default, int | float) else default
    if (
        not isinstance(numbers, Sequence)
        or isinstance(numbers, str)
        or not numbers
        or not all(_is_number(number, default) for number in numbers)
    ):
        raise SparsityError(
            f"the default of {_name(constructor)}'s width says what may be searched: positive "
            f"integers, one a stage, one positive integer, or one positive float; it is "
            f"{default!r}"
        )
    return default if isinstance(default, int | float) else tuple(default)


def _is_number(number: object, default: object) -> bool:
    kind = float if isinstance(default, float) else int
    return isinstance(number, kind) and not isinstance(number, bool) and number > 0


def _name(constructor: Constructor) -> str:
    return getattr(constructor, "__name__", repr(constructor))


def _count(constructor: Constructor, n_classes: int, width: Width) -> int:
    """Parameters of the model, built on the meta device or, where that fails, for real."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                model = constructor(n_classes, width=width)
        except (RuntimeError, TypeError, ValueError):
            # Constructors may look at values, which the meta device has none of.
            try:
                model = constructor(n_classes, width=width)
            except (RuntimeError, TypeError, ValueError, ArithmeticError) as error:
                raise SparsityError(
                    f"{_name(constructor)} cannot be called with width={width!r}, which the search "
                    f"for a model of equal size needs: {error}"
                ) from error
    return sum(parameter.numel() for parameter in model.parameters())


def _match_widths(count: Count, default: Widths, target: int, *, tolerance: float) -> Widths:
    """Widths of the first search that comes within the tolerance, or else the nearest found."""
    searches: list[Callable[[Count, Widths, int], Widths]] = [
        functools.partial(_on_grid, unit=1, negligible=min(_NEGLIGIBLE, tolerance)),
        *(functools.partial(_on_grid, unit=unit, negligible=tolerance) for unit in _COARSE),
        _scale,
    ]
    found: list[Widths] = []
    refusals: list[SparsityError] = []
    for search in searches:
        try:
            widths = search(count, default, target)
            miss = abs(count(widths) - target)
        except SparsityError as refusal:
            refusals.append(refusal)
            continue
        if miss <= tolerance * target:
            return widths
        found.append(widths)
    if not found:
        raise refusals[0]
    return min(found, key=lambda widths: abs(count(widths) - target))


def _on_grid(count: Count, default: Widths, target: int, *, unit: int, negligible: float) -> Widths:
    """Widths at multiples of ``unit`` from the default, near a common factor.

    The nearest count wins; counts nearer than ``negligible`` are alike, and the most proportional
    widths win.
    """
    predict, factor = _quadratic(count, default, target, unit=unit)
    origin = np.array(default)
    ideal = factor * origin
    nearest = np.rint((ideal - origin) / unit).astype(np.int64)
    steps = _steps(len(default), fine=unit == 1)
    lowest = -((origin - 1) // unit)  # a stage has at least one channel
    box = origin + unit * np.unique(np.maximum(nearest + steps, lowest), axis=0)
    errors = np.abs(predict(box) - target) / target
    distortion = (((box - ideal) / np.maximum(ideal, 1)) ** 2).sum(axis=1)
    best: list[int] = box[np.lexsort((distortion, np.maximum(errors, negligible)))[0]].tolist()
    return tuple(best)


def _steps(n_stages: int, *, fine: bool) -> np.ndarray:
    """Ways to move the widths, (n, n_stages): at most about twenty thousand."""
    radius = 3 if fine and n_stages <= 5 else 1
    n_free = min(n_stages, 9)
    moves = itertools.product(range(-radius, radius + 1), repeat=n_free)
    return np.pad(np.array(list(moves)), ((0, 0), (0, n_stages - n_free)))


def _quadratic(
    count: Count, default: Widths, target: int, *, unit: int
) -> tuple[Callable[[np.ndarray], np.ndarray], float]:
    """The count as a function of the widths, and the common factor that meets the target.

    A convolution has n_in n_out k^2 weights, and norms and biases are linear in the widths: the
    count is a polynomial of degree two, known exactly from its values ``unit`` channels beside the
    default.
    """
    n_stages = len(default)
    base = np.array(default)
    one = np.eye(n_stages, dtype=np.int64)

    def value(steps: np.ndarray) -> int:
        return count(tuple(int(channels) for channels in base + unit * steps))

    origin = value(0 * one[0])
    single = [value(step) for step in one]
    hessian = np.empty((n_stages, n_stages))
    for i, j in itertools.combinations_with_replacement(range(n_stages), 2):
        both = value(one[i] + one[j])
        hessian[i, j] = hessian[j, i] = both - single[i] - single[j] + origin
    slope = np.array(single) - origin - hessian.diagonal() / 2

    def predict(widths: np.ndarray) -> np.ndarray:
        steps = (widths - base) / unit
        values: np.ndarray = origin + steps @ slope + ((steps @ hessian) * steps).sum(axis=1) / 2
        return values

    # Along the ray of proportional widths the polynomial is a + b t + c t^2.
    a = float(predict(0 * base[None])[0])
    c = float(base @ hessian @ base) / (2 * unit**2)
    b = origin - a - c
    if c > 0:
        factor = (-b + math.sqrt(max(0.0, b * b + 4 * c * (target - a)))) / (2 * c)
    else:
        factor = (target - a) / b if b > 0 else 1.0
    # Where the count is no such polynomial the factor means nothing: build nothing huge for it.
    return predict, min(max(factor, 0.0), max(1.0, 2 * target / origin))


def _scale(count: Count, default: Widths, target: int) -> Widths:
    """Widths multiplied by one factor, the nearest seen while halving the interval."""

    def at(factor: float) -> Widths:
        return tuple(max(1, round(factor * channels)) for channels in default)

    low, high = 0.0, _upper_factor(lambda factor: count(at(factor)), target)
    seen = [at(high)]
    while at(low) != at(high) and high - low > 1e-6:
        middle = (low + high) / 2
        seen.append(at(middle))
        low, high = (middle, high) if count(at(middle)) < target else (low, middle)
    return min(seen, key=lambda widths: abs(count(widths) - target))


def _match_factor(count: Callable[[float], int], default: float, target: int) -> float:
    """A multiplier, the nearest seen while halving the interval."""
    low = _SMALLEST_FACTOR
    high = _upper_factor(lambda factor: count(factor * default), target)
    seen = [high]
    while high - low > 1e-5 * high and abs(count(seen[-1] * default) - target) > 0:
        middle = (low + high) / 2
        seen.append(middle)
        low, high = (middle, high) if count(middle * default) < target else (low, middle)
    return default * min(seen, key=lambda factor: abs(count(factor * default) - target))


def _upper_factor(count: Callable[[float], int], target: int) -> float:
    """1, or the first power of two at which the count reaches the target or stops growing."""
    factor = 1.0
    while count(factor) < target and count(2 * factor) > count(factor):
        factor *= 2
    return factor
