"""The scikit-learn estimators: its own checks, and what those do not ask."""

import pickle
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

import scipy.sparse as sp
from sklearn.base import clone
from sklearn.datasets import load_digits, make_regression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import regrow
import regrow.systems.truly_sparse as package
from regrow.systems.truly_sparse import (
    ImportancePruning,
    SparseMLPClassifier,
    SparseMLPRegressor,
)

SMALL = {"hidden_layer_sizes": (20,), "max_iter": 10, "dropout": 0.0, "learning_rate_init": 0.1}


def checks():
    for estimator in (SparseMLPClassifier(**SMALL), SparseMLPRegressor(**SMALL)):
        for one, check in estimator_checks_generator(estimator, mark="skip"):
            function = getattr(check, "func", check)
            name = f"{type(estimator).__name__}-{function.__name__}"
            yield pytest.param(one, check, id=name)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.parametrize(("estimator", "check"), list(checks()))
def test_what_scikit_learn_asks_of_estimators(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return (x[:600] / 16).astype(np.float32), y[:600]


def small(**more):
    settings = {
        "hidden_layer_sizes": (100, 100),
        "epsilon": 5,
        "dropout": 0.0,
        "max_iter": 20,
        "batch_size": 20,
        "learning_rate_init": 0.05,
        "random_state": 0,
    }
    return SparseMLPClassifier(**(settings | more))


@pytest.fixture(scope="module")
def fitted(digits):
    return small().fit(*digits)


def test_it_learns_and_is_sparse(fitted, digits):
    assert fitted.score(*digits) > 0.95
    assert fitted.nnz_ == sum(m.nnz for m in fitted.model_ if hasattr(m, "nnz"))
    assert fitted.nnz_ == 5 * (164 + 200 + 110)
    assert (fitted.n_iter_, len(fitted.loss_curve_)) == (20, 20)
    assert fitted.loss_ == fitted.loss_curve_[-1]
    assert fitted.best_loss_ == min(fitted.loss_curve_)
    assert fitted.loss_curve_[-1] < 0.3 * fitted.loss_curve_[0]
    assert fitted._training.updater.rewirings == 19
    assert (fitted.n_layers_, fitted.n_outputs_, fitted.n_features_in_) == (4, 10, 64)


def test_probabilities(fitted, digits):
    found = fitted.predict_proba(digits[0])
    assert found.shape == (600, 10)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.log(found), fitted.predict_log_proba(digits[0]), atol=1e-3)
    assert np.array_equal(fitted.classes_[found.argmax(1)], fitted.predict(digits[0]))


def test_sparse_input_is_the_same(digits):
    x, y = digits
    x = x.astype(np.float64)
    dense, compressed = small(max_iter=3).fit(x, y), small(max_iter=3).fit(sp.csr_matrix(x), y)
    np.testing.assert_allclose(dense.loss_curve_, compressed.loss_curve_, rtol=1e-9)
    a, b = dense.predict_proba(x), compressed.predict_proba(sp.coo_array(x))
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-12)


def test_sparse_input_is_never_made_dense(monkeypatch):
    rng = np.random.default_rng(0)
    n, n_features = 300, 20_000
    y = np.arange(n) % 2
    columns = rng.integers(0, n_features // 2, (n, 5)) * 2 + y[:, None]
    x = sp.csr_matrix(
        (np.ones(5 * n, np.float32), (np.arange(n).repeat(5), columns.ravel())),
        shape=(n, n_features),
    )
    for name in ("toarray", "todense"):
        monkeypatch.setattr(sp.csr_matrix, name, None)
    estimator = small(hidden_layer_sizes=(16,), max_iter=1, epsilon=1)
    assert np.isfinite(estimator.fit(x, y).loss_)


def test_random_state(digits):
    x, y = digits
    one, same, other = (small(max_iter=2, random_state=s).fit(x, y) for s in (1, 1, 2))
    assert np.array_equal(one.predict_proba(x), same.predict_proba(x))
    assert one.loss_curve_ == same.loss_curve_ != other.loss_curve_


def test_pickles_predict_alike_and_go_on_alike(fitted, digits):
    x, y = digits
    twin = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(twin.predict_proba(x), fitted.predict_proba(x))
    again = pickle.loads(pickle.dumps(twin))
    for estimator in (twin, again):
        estimator.partial_fit(x, y)
    first = pickle.loads(pickle.dumps(fitted)).partial_fit(x, y)
    assert np.array_equal(again.predict_proba(x), first.predict_proba(x))
    assert np.array_equal(twin.predict_proba(x), first.predict_proba(x))
    assert first.n_iter_ == 21


def test_partial_fit_streams(digits):
    x, y = digits
    estimator = small(rewire_interval=30)
    for epoch in range(4):
        for i in range(0, 600, 20):
            classes = np.arange(10) if epoch == i == 0 else None
            estimator.partial_fit(x[i : i + 20], y[i : i + 20], classes=classes)
    assert estimator.score(x, y) > 0.6
    updater = estimator._training.updater
    assert updater.steps == 120
    assert updater.rewirings == 3
    with pytest.raises(ValueError, match=r"label np.int64\(10\)"):
        estimator.partial_fit(x[:2], np.array([1, 10]))


def test_classes_of_partial_fit(digits):
    x, y = digits
    with pytest.raises(ValueError, match="first call"):
        small().partial_fit(x, y)
    estimator = small().partial_fit(x, y, classes=range(10))
    estimator.partial_fit(x, y, classes=range(10))
    with pytest.raises(ValueError, match="classes must stay"):
        estimator.partial_fit(x, y, classes=range(11))


def test_partial_fit_rewires_every_hundred_steps_by_default(digits):
    x, y = digits
    estimator = small().partial_fit(x[:40], y[:40], classes=np.arange(10))
    assert estimator._training.updater.rewirings == 0
    for _ in range(55):
        estimator.partial_fit(x[:40], y[:40])
    assert estimator._training.updater.rewirings == 1


def test_early_stopping_returns_to_the_best_epoch(digits):
    x, y = digits
    estimator = small(early_stopping=True, max_iter=60, n_iter_no_change=3, tol=0.0).fit(x, y)
    scores = estimator.validation_scores_
    assert len(scores) == estimator.n_iter_ < 60
    assert estimator.best_validation_score_ == max(scores)
    assert max(scores[-3:]) <= max(scores[:-3])
    codes = y.astype(np.int64)
    _, held_x, _, held_y = train_test_split(
        x, codes, test_size=0.1, stratify=codes, random_state=estimator._seed
    )
    assert estimator.score(held_x, held_y) == pytest.approx(max(scores))
    estimator.partial_fit(x, y)  # the updater went back, too


def test_training_ends_when_the_loss_stands_still(digits):
    estimator = small(max_iter=50, tol=1e3, n_iter_no_change=4).fit(*digits)
    assert estimator.n_iter_ == 5


def test_warm_start_goes_on(digits):
    x, y = digits
    whole = small(max_iter=4).fit(x, y)
    parts = small(max_iter=2, warm_start=True)
    parts.fit(x, y)
    parts.fit(x, y)
    assert parts.n_iter_ == 4
    assert np.array_equal(whole.predict_proba(x), parts.predict_proba(x))
    parts.set_params(learning_rate_init=1e-9, momentum=0.0, alpha=0.0, drop_fraction=0.0).fit(x, y)
    assert np.allclose(whole.predict_proba(x), parts.predict_proba(x), atol=1e-4)
    fresh = small(max_iter=2)
    assert fresh.fit(x, y).n_iter_ == fresh.fit(x, y).n_iter_ == 2


def test_importance_pruning(digits):
    estimator = small(importance=ImportancePruning(30, start=0, every=4)).fit(*digits)
    assert estimator.nnz_ < 5 * (164 + 200 + 110) * 0.9
    assert estimator.score(*digits) > 0.9


def test_in_a_search_and_a_pipeline(digits):
    x, y = digits
    search = GridSearchCV(small(max_iter=3), {"activation": ["relu", "all_relu"]}, cv=2)
    search.fit(x[:200], y[:200])
    assert set(search.best_params_) == {"activation"}
    assert clone(search.best_estimator_).get_params()["epsilon"] == 5
    assert make_pipeline(StandardScaler(), small(max_iter=3)).fit(x, y).score(x, y) > 0.5


def test_regression_with_one_and_two_outputs():
    x, y = make_regression(200, 10, n_targets=2, noise=1.0, random_state=0)
    y = (y - y.mean(0)) / y.std(0)
    settings = {"hidden_layer_sizes": (50,), "dropout": 0.0, "random_state": 0, "batch_size": 20}
    both = SparseMLPRegressor(**settings, max_iter=60, learning_rate_init=0.05).fit(x, y)
    assert both.predict(x).shape == (200, 2)
    assert both.score(x, y) > 0.9
    early = SparseMLPRegressor(**settings, max_iter=5, early_stopping=True).fit(x, y[:, 0])
    assert early.predict(x).shape == (200,)
    assert len(early.validation_scores_) == early.n_iter_
    with pytest.raises(ValueError, match="2 outputs"):
        early.partial_fit(x, y)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_layer_sizes": ()},
        {"hidden_layer_sizes": (0,)},
        {"max_iter": 0},
        {"learning_rate_init": 0},
        {"activation": "tanh"},
        {"tol": -1},
        {"n_iter_no_change": 0},
    ],
)
def test_parameters_are_checked_by_fit(wrong, digits):
    (name,) = wrong
    with pytest.raises(ValueError, match=r"size|lr|" + name):
        small(**wrong).fit(*digits)


def test_threads_and_random_state_of_others_are_left_alone(digits):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    small(max_iter=1, dropout=0.3).fit(*digits)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    with pytest.raises(AttributeError, match="no attribute 'Foo'"):
        _ = package.Foo
    assert "SparseMLPClassifier" in dir(package)
    assert "SparseMLPClassifier" not in package.__all__
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    for name in [n for n in sys.modules if n.startswith(f"{package.__name__}.estimators")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(regrow.errors.BackendUnavailableError, match=r"regrow\[sklearn\]"):
        _ = package.SparseMLPClassifier
