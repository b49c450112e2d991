"""A part of a data set that keeps the shares of its classes."""

import numpy as np
import torch

from regrow.topology import derived_generator

# One fixed seed: a subset belongs to the data set, not to a study's seed, or runs that should
# differ in their seed alone would also differ in their data.
_SEED = 0


def stratified(labels: np.ndarray, n_samples: int, *, name: str) -> np.ndarray:
    """Indices of a subset in which each class has its share, and at least one sample.

    Seats are given by the Webster/Sainte-Laguë rule: the sample of rank r (from 0, in a fixed
    random order) of a class with n samples has the key (2r + 1)/n, and the smallest keys enter.
    Counts are proportional to rounding, equal to within one where the classes are equally large,
    and a smaller subset is part of every larger one.

    Args:
        labels: int64 (N,).
        n_samples: Size of the subset, from the number of classes present to N.
        name: What the subset is of, such as ``"cifar10 test"``: other names, other draws.

    Returns:
        Indices int64 (n_samples,), ascending.

    Raises:
        ValueError: ``n_samples`` is below the number of classes or above N.
    """
    present, counts = np.unique(labels, return_counts=True)
    if not len(present) <= n_samples <= len(labels):
        raise ValueError(
            f"{name}: a subset of {n_samples} samples was asked for; from {len(present)} (one "
            f"for each class) to {len(labels)} (all there are) would work"
        )
    generator = derived_generator(_SEED, "regrow.data.stratified", name)
    keys = np.empty(len(labels))
    for label, count in zip(present, counts, strict=True):
        members = np.flatnonzero(labels == label)
        order = torch.randperm(int(count), generator=generator).numpy()
        ranks = np.arange(count)
        # Division is rounded correctly, so keys equal as fractions are equal as floats and the
        # tie between classes is broken by their number.
        keys[members[order]] = np.where(ranks == 0, -1.0, (2 * ranks + 1) / count)
    chosen = np.lexsort((labels, keys))[:n_samples]
    return np.sort(chosen).astype(np.int64)
