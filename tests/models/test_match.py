import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from regrow.errors import SparsityError
from regrow.models import match_parameters, resnet18, resnet34, small_cnn, vgg16_bn
from regrow.models._match import _steps


def n_parameters(make, n_classes, **arguments):
    with torch.device("meta"):
        model = make(n_classes, **arguments)
    return sum(p.numel() for p in model.parameters())


def live_parameters(make, n_classes, sparsity):
    """What a sparse model keeps: all norms and biases, and its share of the weights."""
    with torch.device("meta"):
        model = make(n_classes)
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    total = sum(p.numel() for p in model.parameters())
    return total - round(sparsity * sum(w.numel() for w in weights))


def relative_error(make, n_classes, width, target):
    return abs(n_parameters(make, n_classes, width=width) - target) / target


@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize(
    ("make", "n_classes", "default"),
    [
        (small_cnn, 10, (32, 64, 128)),
        (resnet18, 10, (64, 128, 256, 512)),
        (resnet34, 100, (64, 128, 256, 512)),
        (vgg16_bn, 10, (64, 128, 256, 512, 512)),
    ],
)
def test_equal_to_a_thousandth_and_in_proportion(make, n_classes, default, sparsity):
    target = live_parameters(make, n_classes, sparsity)
    width = match_parameters(make, n_classes, target)
    assert relative_error(make, n_classes, width, target) < 1e-3
    # Between the widths that a common factor would give: all within a few channels of the shape.
    factors = [found / full for found, full in zip(width, default, strict=True)]
    assert max(factors) - min(factors) < 2 * 3.5 / min(default)
    assert all(isinstance(channels, int) for channels in width)


def test_among_equal_counts_the_shape_is_kept():
    width = match_parameters(resnet34, 100, live_parameters(resnet34, 100, 0.5))
    factor = width[3] / 512
    for found, full in zip(width, (64, 128, 256, 512), strict=True):
        assert abs(found - factor * full) < 1


def test_the_whole_model_needs_no_change():
    target = n_parameters(resnet18, 10)
    assert match_parameters(resnet18, 10, target, tolerance=0) == (64, 128, 256, 512)


@settings(max_examples=15, deadline=None)
@given(st.integers(20_000, 2_000_000), st.integers(2, 50))
def test_any_target_is_met_within_a_thousandth(target, n_classes):
    width = match_parameters(small_cnn, n_classes, target)
    assert relative_error(small_cnn, n_classes, width, target) < 2e-3


def test_nothing_nearer_is_missed_by_brute_force():
    """With a target too small for any choice, the best of all widths is found."""
    target = 700
    widths = list(itertools.product(range(1, 7), repeat=3))
    nearest = min(relative_error(small_cnn, 2, width, target) for width in widths)
    found = match_parameters(small_cnn, 2, target, tolerance=0.5)
    assert relative_error(small_cnn, 2, found, target) <= max(nearest, 5e-4)


def test_the_global_generator_is_not_moved_and_the_answer_is_repeatable():
    state = torch.get_rng_state()
    first = match_parameters(small_cnn, 10, 100_000)
    torch.manual_seed(9)
    assert match_parameters(small_cnn, 10, 100_000) == first
    torch.set_rng_state(state)
    match_parameters(stubborn, 10, 2_000)
    assert torch.equal(torch.get_rng_state(), state)


def stubborn(n_classes, *, width=(16, 16)):
    """Looks at a value, which the meta device has none of, and draws random numbers."""
    if float(torch.rand(()).item()) > 2:
        raise AssertionError
    return nn.Sequential(
        nn.Linear(8, width[0]), nn.Linear(width[0], width[1]), nn.Linear(width[1], n_classes)
    )


def test_constructors_that_cannot_be_built_without_memory():
    width = match_parameters(stubborn, 10, 2_000)
    assert sum(p.numel() for p in stubborn(10, width=width).parameters()) == pytest.approx(
        2000, rel=1e-2
    )


def of_one_width(n_classes, *, width=64):
    return nn.Sequential(nn.Linear(100, width), nn.Linear(width, n_classes))


def test_one_integer_width():
    # 100 w + w + 10 w + 10 parameters.
    assert match_parameters(of_one_width, 10, 111 * 37 + 10, tolerance=0) == 37
    assert match_parameters(of_one_width, 10, 111 * 37 + 10 + 40) == 37
    assert match_parameters(of_one_width, 10, 111 * 900 + 10, tolerance=0) == 900


def of_a_multiplier(num_classes, width=1.0):
    channels = max(1, int(64 * width))
    return nn.Sequential(nn.Linear(100, channels), nn.Linear(channels, num_classes))


def test_a_multiplier():
    for channels in (7, 37, 64, 150):
        found = match_parameters(of_a_multiplier, 10, 111 * channels + 10, tolerance=0)
        assert isinstance(found, float)
        assert int(64 * found) == channels


@pytest.mark.parametrize("n_stages", [1, 2, 6, 12])
def test_any_number_of_stages(n_stages):
    default = tuple(range(40, 40 + 3 * n_stages, 3))

    def stages(n_classes, *, width=default):
        sizes = [8, *width, n_classes]
        return nn.Sequential(*itertools.starmap(nn.Linear, itertools.pairwise(sizes)))

    target = round(0.6 * n_parameters(stages, 10))
    width = match_parameters(stages, 10, target)
    assert len(width) == n_stages
    assert relative_error(stages, 10, width, target) < (1e-2 if n_stages < 6 else 1e-3)


@pytest.mark.parametrize("n_stages", [1, 4, 5, 6, 9, 12])
def test_the_search_stays_small(n_stages):
    steps = _steps(n_stages, fine=True)
    assert steps.shape[1] == n_stages
    assert len(np.unique(steps, axis=0)) == len(steps) <= 20_000
    assert abs(steps).max() == (3 if n_stages <= 5 else 1)


def rounding(n_classes, *, width=(64, 128, 256)):
    """Rounds to multiples of 8: no polynomial of the widths."""
    a, b, c = (max(8, 8 * round(channels / 8)) for channels in width)
    return nn.Sequential(nn.Linear(8, a), nn.Linear(a, b), nn.Linear(b, c), nn.Linear(c, n_classes))


@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.5, 0.7])
def test_a_constructor_that_rounds_its_widths(sparsity):
    target = live_parameters(rounding, 10, sparsity)
    width = match_parameters(rounding, 10, target)
    assert relative_error(rounding, 10, width, target) < 0.01
    shape = [found / full for found, full in zip(width, (64, 128, 256), strict=True)]
    assert max(shape) < 1.5 * min(shape)


def test_a_constructor_that_takes_multiples_of_eight_only():
    def grouped(n_classes, *, width=(64, 128)):
        return nn.Sequential(
            nn.Conv2d(3, width[0], 3),
            nn.GroupNorm(8, width[0]),
            nn.Conv2d(width[0], width[1], 3),
            nn.GroupNorm(8, width[1]),
        )

    target = n_parameters(grouped, 10, width=(48, 104))
    assert match_parameters(grouped, 10, target, tolerance=0) == (48, 104)


def test_a_constructor_whose_count_is_no_polynomial():
    def steps(n_classes, *, width=(8, 8)):
        return nn.Linear(2 ** (sum(width) // 4), n_classes, bias=False)

    width = match_parameters(steps, 10, 10 * 2**7, tolerance=0)
    assert sum(width) // 4 == 7


@pytest.mark.parametrize("target", [10, 10**6])
def test_targets_out_of_reach_name_the_nearest(target):
    def fixed(n_classes, *, width=(4, 4)):
        return nn.Linear(50, n_classes)

    with pytest.raises(SparsityError, match=rf"fixed gives {target} .*nearest .* with 510 \("):
        match_parameters(fixed, 10, target)


def test_targets_below_the_narrowest_model():
    least = n_parameters(small_cnn, 10, width=(1, 1, 1))
    with pytest.raises(SparsityError, match=rf"width=\(1, 1, 1\) with {least}"):
        match_parameters(small_cnn, 10, 20)


def test_the_tolerance_is_kept():
    target = 111 * 37 + 10 + 40
    error = 40 / target
    assert match_parameters(of_one_width, 10, target, tolerance=error * 1.01) == 37
    with pytest.raises(SparsityError, match="width=37 with 4117"):
        match_parameters(of_one_width, 10, target, tolerance=error * 0.99)


def test_constructors_without_a_width():
    def plain(n_classes):
        return nn.Linear(4, n_classes)

    with pytest.raises(SparsityError, match="plain takes no argument width"):
        match_parameters(plain, 10, 100)


@pytest.mark.parametrize("default", [None, (), "64", (64, 0), (64, 1.5), 0, -1.0, True, {"a": 1}])
def test_defaults_that_say_nothing(default):
    def make(n_classes, *, width=default):
        return nn.Linear(4, n_classes)

    with pytest.raises(SparsityError, match="the default of make's width"):
        match_parameters(make, 10, 100)


def test_constructors_that_refuse_a_width():
    def grouped(n_classes, *, width=(60, 60)):
        return nn.Sequential(nn.Conv2d(3, width[0], 3), nn.GroupNorm(60, width[0]))

    with pytest.raises(SparsityError, match=r"grouped cannot be called with width=\(61, 60\)"):
        match_parameters(grouped, 10, 1000)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("resnet18", 10, 1000), TypeError, "constructor must be a function"),
        ((small_cnn, 1, 1000), ValueError, "n_classes must be at least 2"),
        ((small_cnn, 10, 0), ValueError, "n_parameters must be at least 1"),
        ((small_cnn, 10, 1e5), TypeError, "n_parameters must be an integer"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        match_parameters(*arguments)
    with pytest.raises(ValueError, match="tolerance must lie in"):
        match_parameters(small_cnn, 10, 1000, tolerance=1.0)
