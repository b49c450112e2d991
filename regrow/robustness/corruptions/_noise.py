"""Noise: Gaussian, shot, impulse and speckle."""

import numpy as np

from regrow.robustness.corruptions._pixels import fractions, grey_levels
from regrow.robustness.corruptions._types import Batch, Draws, Generators, Images


def draw_normal(generators: Generators, batch: Batch) -> Draws:
    """Standard normal numbers, one a value of the image."""
    shape = batch.images.shape[1:]
    return (np.stack([generator.standard_normal(shape) for generator in generators]),)


def gaussian_noise(batch: Batch) -> Images:
    """Add N(0, sigma); constants: sigma."""
    (sigma,) = batch.constants
    values = batch.draws[0] * sigma
    values += fractions(batch.images)
    return grey_levels(values)


def speckle_noise(batch: Batch) -> Images:
    """Add v * N(0, sigma) to the value v; constants: sigma."""
    (sigma,) = batch.constants
    clean = fractions(batch.images)
    values = batch.draws[0] * sigma
    values *= clean
    values += clean
    return grey_levels(values)


def draw_counts(generators: Generators, batch: Batch) -> Draws:
    """Photon counts: Poisson with mean v * c for the value v; constants: c."""
    (photons,) = batch.constants
    means = fractions(batch.images) * photons
    pairs = zip(generators, means, strict=True)
    return (np.stack([generator.poisson(mean) for generator, mean in pairs]),)


def shot_noise(batch: Batch) -> Images:
    """Counts divided by the count c of a white pixel; constants: c."""
    (photons,) = batch.constants
    return grey_levels(batch.draws[0] / photons)


def draw_impulses(generators: Generators, batch: Batch) -> Draws:
    """Two uniform numbers a value: whether it is hit, and by which of the two."""
    shape = (2, *batch.images.shape[1:])
    return (np.stack([generator.random(shape) for generator in generators]),)


def impulse_noise(batch: Batch) -> Images:
    """Salt and pepper in equal parts, each channel on its own; constants: amount hit."""
    (amount,) = batch.constants
    hit = batch.draws[0][:, 0] <= amount
    salt = batch.draws[0][:, 1] <= 0.5
    return np.where(hit, salt * np.uint8(255), batch.images)
