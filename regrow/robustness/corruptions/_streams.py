"""One stream of random numbers an image, whatever batch the image comes in."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function: a bijection of 64-bit words whose bits all depend on all."""
    words = (words ^ (words >> np.uint64(30))) * _FIRST
    words = (words ^ (words >> np.uint64(27))) * _SECOND
    return words ^ (words >> np.uint64(31))


def stream_states(seeds: NDArray[np.int64], name: str, severity: int) -> NDArray[np.uint64]:
    """State words of the images' streams.

    Args:
        seeds: int64 (N,), any values.
        name: Corruption; the same seeds give unrelated streams under another name.
        severity: 1 to 5; the same holds for severities.

    Returns:
        uint64 (N, 3), rows distinct where seeds are.

    Source: Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators (OOPSLA 2014).
    """
    digest = hashlib.blake2b(f"{name}/{severity}".encode(), digest_size=8).digest()
    kind = np.uint64(int.from_bytes(digest, "little"))
    # Arithmetic modulo 2**64 is what the hash is made of; arrays wrap without a warning.
    start = _mixed(seeds.view(np.uint64) ^ kind)
    steps = np.arange(1, 4, dtype=np.uint64) * _GAMMA
    return _mixed(start[:, None] + steps)


def streams(seeds: NDArray[np.int64], name: str, severity: int) -> Iterator[np.random.Generator]:
    """Generators of the images, one after the other.

    One generator object is set to the next image's state at each step, because building one costs
    ten times as much as drawing a thousand numbers; a generator is therefore spent as soon as the
    next is taken.

    Args:
        seeds: int64 (N,), one an image.
        name: Corruption.
        severity: 1 to 5.

    Yields:
        ``numpy.random.Generator`` over SFC64.
    """
    bits = np.random.SFC64(0)
    generator = np.random.Generator(bits)
    state = np.ones(4, dtype=np.uint64)  # the fourth word is SFC64's counter, which starts at one
    full: Any = {
        "bit_generator": "SFC64",
        "has_uint32": 0,
        "uinteger": 0,
        "state": {"state": state},
    }
    for words in stream_states(seeds, name, severity):
        state[:3] = words
        bits.state = full
        yield generator
