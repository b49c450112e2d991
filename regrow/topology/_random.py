"""Randomness that is derived, not stored."""

import hashlib

import torch


def derived_generator(seed: int, *parts: int | str) -> torch.Generator:
    """A CPU generator that depends on nothing but its arguments.

    The same arguments give the same draws on every rank, device and wrapper, and after a resume;
    the global generators are neither read nor moved. A step counter and a seed are therefore all
    the random state that a run must save.

    Args:
        seed: The run's seed, any integer.
        *parts: What the draws are for, such as a step and a layer's name. ``1`` and ``"1"`` give
            different draws, and so do ``("a", "bc")`` and ``("ab", "c")``.

    Returns:
        A ``torch.Generator`` on the CPU, seeded by 63 bits of the blake2b hash of the arguments.

    Raises:
        TypeError: The seed is no integer, or a part is neither an integer nor a string.

    Example:
        >>> a, b = derived_generator(0, 100, "fc"), derived_generator(0, 100, "fc")
        >>> bool((torch.rand(3, generator=a) == torch.rand(3, generator=b)).all())
        True
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, int | str):
            raise TypeError(f"parts must be integers and strings, got {part!r}")
    text = repr((seed, *parts)).encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    generator = torch.Generator(device="cpu")
    generator.manual_seed(int.from_bytes(digest, "little") >> 1)
    return generator
