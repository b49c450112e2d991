"""Weights of samples in the scikit-learn estimators."""

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")

import scipy.sparse as sp
import torch
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split

from regrow.systems.truly_sparse import SparseMLPClassifier, SparseMLPRegressor
from regrow.systems.truly_sparse.estimators._weights import cross_entropy, mean_squared_error

KINDS = [SparseMLPClassifier, SparseMLPRegressor]


def small(kind, **more):
    settings = {
        "hidden_layer_sizes": (12, 12),
        "epsilon": 3,
        "dropout": 0.0,
        "max_iter": 6,
        "batch_size": 16,
        "learning_rate_init": 0.05,
        "random_state": 0,
    }
    return kind(**(settings | more))


def problem(kind, n=60):
    random = np.random.default_rng(0)
    x = random.standard_normal((n, 8))
    numbers = x @ random.standard_normal((8, 3))
    return x, numbers[:, :2] if kind is SparseMLPRegressor else numbers.argmax(1)


def found(estimator, x):
    is_regressor = isinstance(estimator, SparseMLPRegressor)
    return estimator.predict(x) if is_regressor else estimator.predict_proba(x)


def weights_of(n=60):
    return np.random.default_rng(1).integers(0, 4, n)


# -- what a weight means -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_number_is_that_many_samples(kind):
    """With one batch an epoch; rewired between them."""
    (x, y), weights = problem(kind), weights_of()
    settings = {"batch_size": 1000, "max_iter": 12, "learning_rate_init": 0.2}
    weighted = small(kind, **settings).fit(x, y, weights)
    repeated = small(kind, **settings).fit(x.repeat(weights, 0), y.repeat(weights, 0))
    assert weighted._training.updater.rewirings == 11
    np.testing.assert_allclose(weighted.loss_curve_, repeated.loss_curve_, rtol=1e-9)
    np.testing.assert_allclose(found(weighted, x), found(repeated, x), rtol=1e-7)
    assert not np.allclose(found(weighted, x), found(small(kind, **settings).fit(x, y), x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize("batch_size", [16, 1000])
def test_samples_of_weight_zero_are_absent(kind, form, batch_size):
    x, y = problem(kind)
    weights = np.random.default_rng(2).choice([0.0, 0.5, 2.0], 60)
    kept = weights > 0
    for more in ({}, {"early_stopping": True}):
        whole = small(kind, batch_size=batch_size, **more).fit(form(x), y, weights)
        part = small(kind, batch_size=batch_size, **more).fit(form(x[kept]), y[kept], weights[kept])
        assert whole.loss_curve_ == part.loss_curve_
        assert np.array_equal(found(whole, x), found(part, x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", [1, 0.3, 5e-324, 1e308])
def test_equal_weights_are_none(kind, weight):
    x, y = problem(kind)
    none = small(kind, early_stopping=True).fit(x, y)
    for equal in (weight, [weight] * 60, np.full(60, weight)):
        same = small(kind, early_stopping=True).fit(x, y, sample_weight=equal)
        assert same.loss_curve_ == none.loss_curve_
        assert same.validation_scores_ == none.validation_scores_
        assert np.array_equal(found(same, x), found(none, x))


def test_the_loss_is_the_weighted_mean_over_all_samples_whatever_the_batches():
    """Means of each batch would be another loss, and other gradients in expectation."""
    (x, y), weights = problem(SparseMLPClassifier), weights_of() * 7.5
    still = {"learning_rate_init": 1e-300, "max_iter": 1, "max_grad_norm": None}
    for batch_size in (1000, 16, 3):
        one = small(SparseMLPClassifier, batch_size=batch_size, **still).fit(x, y, weights)
        codes = np.searchsorted(one.classes_, y)
        losses = -np.log(one.predict_proba(x)[np.arange(60), codes])
        assert one.loss_ == pytest.approx(np.average(losses, weights=weights), rel=1e-12)
        assert one.loss_ != pytest.approx(losses.mean(), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weighted_losses_and_their_gradients(dtype):
    random = np.random.default_rng(3)
    outputs, targets = random.standard_normal((2, 7, 3))
    codes, weights = random.integers(0, 3, 7), random.random(7) * 2
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    given = torch.tensor(outputs, dtype=dtype, requires_grad=True)

    chances = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    loss = cross_entropy(given, torch.tensor(np.column_stack([codes, weights])))
    assert loss.item() == pytest.approx(
        -np.mean(weights * np.log(chances[np.arange(7), codes])), rel=tolerance
    )
    (grad,) = torch.autograd.grad(loss, given)
    expected = weights[:, None] * (chances - np.eye(3)[codes]) / 7
    np.testing.assert_allclose(grad.numpy(), expected, rtol=tolerance, atol=tolerance)

    loss = mean_squared_error(given, torch.tensor(np.column_stack([targets, weights])).to(dtype))
    errors = outputs - targets
    assert loss.item() == pytest.approx(np.mean(weights * np.square(errors).mean(1)), rel=tolerance)
    (grad,) = torch.autograd.grad(loss, given)
    expected = weights[:, None] * 2 * errors / 21
    np.testing.assert_allclose(grad.numpy(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_heavier_of_two_answers_wins(dtype):
    x, y = problem(SparseMLPRegressor)
    x, y = x.astype(dtype), y[:, 0] > 0
    twice, both = np.vstack([x, x]), np.concatenate([y, ~y])
    weights = np.repeat([3.0, 1.0], 60)
    settings = {"max_iter": 40, "learning_rate_init": 0.1}
    right = small(SparseMLPClassifier, **settings).fit(twice, both, weights)
    wrong = small(SparseMLPClassifier, **settings).fit(twice, both, weights[::-1])
    assert right.score(x, y) > 0.9
    assert wrong.score(x, y) < 0.1
    assert right.score(twice, both, weights) == pytest.approx(0.75, abs=0.05)


def test_labels_of_weight_zero_are_classes():
    x, y = problem(SparseMLPClassifier)
    last = y.max()
    one = small(SparseMLPClassifier, max_iter=40, learning_rate_init=0.2)
    one.fit(x, y, (y != last).astype(int))
    assert one.classes_[-1] == last
    assert one.predict_proba(x)[:, -1].mean() < 0.05


# -- what else takes them ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_validation_scores_are_weighted(kind):
    (x, y), weights = problem(kind), weights_of() + 0.5
    one = small(kind, early_stopping=True, validation_fraction=0.3).fit(x, y, weights)
    stratify = y if kind is SparseMLPClassifier else None
    _, held_x, _, held_y, _, held_weights = train_test_split(
        x, y, weights, test_size=0.3, stratify=stratify, random_state=one._seed
    )
    if kind is SparseMLPClassifier:
        score = np.average(one.predict(held_x) == held_y, weights=held_weights)
    else:
        score = r2_score(held_y, one.predict(held_x), sample_weight=held_weights)
    assert one.best_validation_score_ == pytest.approx(score, rel=1e-9)
    assert one.best_validation_score_ != pytest.approx(one.score(held_x, held_y), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_partial_fit_takes_them(kind):
    (x, y), weights = problem(kind), weights_of()
    first = {"classes": np.unique(y)} if kind is SparseMLPClassifier else {}
    kept = weights > 0
    one, part, none = (small(kind) for _ in range(3))
    one.partial_fit(x, y, **first, sample_weight=weights)
    part.partial_fit(x[kept], y[kept], **first, sample_weight=2.0 * weights[kept])
    none.partial_fit(x, y, **first)
    assert np.array_equal(found(one, x), found(part, x))
    assert not np.allclose(found(one, x), found(none, x))
    # With them and without, and through a pickle, in one training.
    twin = pickle.loads(pickle.dumps(one))
    for each in (one, twin):
        each.partial_fit(x, y).partial_fit(x, y, sample_weight=weights)
    assert np.array_equal(found(one, x), found(twin, x))
    assert one.n_iter_ == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(59), r"sample_weight.shape == \(59,\)"),
        (np.ones((60, 1)), "1D array or scalar"),
        (np.r_[np.ones(59), -0.5], "at least 0, got -0.5"),
        (np.r_[np.ones(59), np.nan], "NaN"),
        (np.r_[np.ones(59), np.inf], "infinity"),
        (np.inf, "finite.* inf"),
        (np.nan, "at least 0, got nan"),
        (np.zeros(60), "zero"),
        (0, "zero"),
    ],
)
def test_bad_weights_are_refused_and_nothing_changes(kind, weights, message):
    x, y = problem(kind)
    one = small(kind, max_iter=1).fit(x, y)
    before = found(one, x)
    for train in (one.fit, one.partial_fit):
        with pytest.raises(ValueError, match=message):
            train(x, y // 2 if kind is SparseMLPClassifier else y, sample_weight=weights)
    assert np.array_equal(found(one, x), before)
    assert one.n_iter_ == 1
    if kind is SparseMLPClassifier:
        assert np.array_equal(one.classes_, np.unique(y))
