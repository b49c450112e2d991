"""Quality of the images' own streams; all seeds are fixed, so nothing here is up to chance."""

import numpy as np
import pytest
from scipy import stats

from regrow.robustness.corruptions import ALL
from regrow.robustness.corruptions._streams import stream_states, streams

N_SEEDS = 4000
LEAST = 1e-3  # of the p-values, some twenty of which are looked at
EXTREMES = np.array([0, 1, -1, 2**63 - 1, -(2**63)], dtype=np.int64)


def table(draw, *, seeds=None, name="gaussian_noise", severity=1):
    """One row of draws an image."""
    if seeds is None:
        seeds = np.arange(N_SEEDS)
    return np.stack([draw(generator) for generator in streams(seeds, name, severity)])


@pytest.fixture(scope="module")
def uniforms():
    return table(lambda generator: generator.random(64))


@pytest.fixture(scope="module")
def normals():
    return table(lambda generator: generator.standard_normal(64))


def largest_correlation(rows):
    """Largest correlation between two different rows."""
    correlations = np.corrcoef(rows)
    return np.abs(correlations - np.eye(len(rows))).max()


def test_uniforms_are_uniform(uniforms):
    assert stats.kstest(uniforms.ravel(), "uniform").pvalue > LEAST
    assert abs(uniforms.mean() - 1 / 2) < 4 / np.sqrt(12 * uniforms.size)
    assert abs(uniforms.var() - 1 / 12) < 4 * np.sqrt(1 / 180 / uniforms.size)


def test_first_draws_of_neighbouring_seeds_are_uniform(uniforms):
    # A stream that is not mixed well enough at its start shows here first.
    for position in range(3):
        assert stats.kstest(uniforms[:, position], "uniform").pvalue > LEAST
    steps = np.diff(uniforms[:, 0]) % 1
    assert stats.kstest(steps, "uniform").pvalue > LEAST


def test_normals_are_normal(normals):
    assert stats.kstest(normals.ravel(), "norm").pvalue > LEAST
    assert abs(normals.mean()) < 4 / np.sqrt(normals.size)
    assert abs(normals.var() - 1) < 4 * np.sqrt(2 / normals.size)
    assert stats.kstest((normals**2).sum(axis=1), "chi2", args=(64,)).pvalue > LEAST


def test_positions_and_neighbouring_images_are_uncorrelated(normals):
    # Between two columns of 4000 the deviation is 1/63, between two rows of 64 it is 1/8.
    assert largest_correlation(normals.T) < 5 / np.sqrt(N_SEEDS)
    neighbours = (normals[1:] * normals[:-1]).sum()
    assert abs(neighbours) < 4 * np.sqrt(normals[1:].size)


@pytest.mark.parametrize("high", [2, 5, 8])
def test_integers_are_even(high):
    counts = np.bincount(table(lambda generator: generator.integers(high, size=16)).ravel())
    assert len(counts) == high
    assert stats.chisquare(counts).pvalue > LEAST


@pytest.mark.parametrize("mean", [0.7, 30.0, 500.0])
def test_counts_are_poisson(mean):
    counts = table(lambda generator: generator.poisson(mean, size=16)).ravel()
    assert abs(counts.mean() - mean) < 4 * np.sqrt(mean / counts.size)
    deviation = mean * np.sqrt((2 + 1 / mean) / counts.size)
    assert abs(counts.var() - mean) < 4 * deviation


def test_bits_of_the_states_are_balanced():
    states = stream_states(np.arange(N_SEEDS), "fog", 1)
    bits = np.unpackbits(states.view(np.uint8).reshape(N_SEEDS, -1), axis=1)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(N_SEEDS)
    flipped = np.unpackbits((states[:-1:2] ^ states[1::2]).view(np.uint8))
    assert abs(flipped.mean() - 0.5) < 4 * 0.5 / np.sqrt(flipped.size)


def test_states_are_distinct_and_extreme_seeds_work():
    seeds = np.concatenate([np.arange(2, 10_000), EXTREMES])
    assert len(np.unique(stream_states(seeds, "snow", 2), axis=0)) == len(seeds)
    rows = table(lambda generator: generator.random(8), seeds=EXTREMES)
    assert len(np.unique(rows)) == rows.size


def test_names_and_severities_have_unrelated_streams():
    seeds = np.array([7])
    rows = [
        table(lambda generator: generator.standard_normal(4096), seeds=seeds, name=n, severity=s)[0]
        for n in ALL
        for s in range(1, 6)
    ]
    assert largest_correlation(np.stack(rows)) < 5.5 / np.sqrt(4096)


def test_a_stream_depends_on_its_seed_only():
    def draw(generator):
        # An odd number of 32-bit draws leaves half a word, which must not reach the next image.
        generator.integers(10, size=3, dtype=np.int32)
        return generator.random(5)

    seeds = np.arange(20)
    whole = table(draw, seeds=seeds)
    backwards = table(draw, seeds=seeds[::-1])[::-1]
    np.testing.assert_array_equal(whole, backwards)
    np.testing.assert_array_equal(whole[13:14], table(draw, seeds=seeds[13:14]))
