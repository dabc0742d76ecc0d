"""Sigmoids turn scores into probabilities, whatever the scores' unit, zero and number."""

import numpy as np
import pytest
from samples import blobs, rows_of
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from pipeline.data.training_data import Features, Part
from pipeline.heads.calibration import Sigmoids
from pipeline.training.fits.fitting import fit_head

TWO = np.array([0, 1])


def noisy_scores(rows, apart=1.0, share=0.3, seed=0):
    """Return scores, (rows, 1), whose classes overlap, and the classes."""
    random = np.random.default_rng(seed)
    y = (random.random(rows) < share).astype(int)
    y[:2] = 0, 1
    return (random.normal(size=rows) + apart * y)[:, None], y


def smoothed_loss(slope, offset, scores, y):
    """Return the log loss on targets with half a row added to each side, as Platt 1999, section 2.2, adds one; row by row."""
    targets = {1: (np.sum(y == 1) + 0.5) / (np.sum(y == 1) + 1), 0: 0.5 / (np.sum(y == 0) + 1)}
    chances = expit(slope * scores[:, 0] + offset)
    return -np.mean(
        [targets[k] * np.log(p) + (1 - targets[k]) * np.log(1 - p) for k, p in zip(y, chances, strict=True)]
    )


@pytest.mark.parametrize("rows", [4, 12, 60, 1000])
@pytest.mark.parametrize("apart", [0.5, 2.0, 6.0])
def test_the_sigmoid_has_the_lowest_log_loss_on_smoothed_targets(rows, apart):
    """Against Nelder and Mead's search, which needs no derivatives."""
    scores, y = noisy_scores(rows, apart)
    sigmoids = Sigmoids.fit(scores, y, TWO)
    found = minimize(
        lambda at: smoothed_loss(*at, scores, y), np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 0}
    )
    assert sigmoids.slopes[0] > 0
    np.testing.assert_allclose([*sigmoids.slopes, *sigmoids.offsets], found.x, rtol=1e-5, atol=1e-5)


def test_classes_at_one_score_each_get_the_smoothed_targets():
    """(6 + 1/2) / (6 + 1) of six rows, (3 + 1/2) / (3 + 1) of three."""
    y = np.repeat([0, 1], [6, 3])
    probabilities = Sigmoids.fit(2.0 * y[:, None] - 1, y, TWO).probabilities(np.array([-1.0, 1.0]))
    np.testing.assert_allclose(probabilities, [[13 / 14, 1 / 14], [1 / 8, 7 / 8]], atol=1e-8)


@pytest.mark.parametrize("unit", [1e-9, 1e-6, 1e-3, 1e6])
@pytest.mark.parametrize("zero", [0.0, -300.0])
def test_unit_and_zero_of_scores_do_not_matter(unit, zero):
    scores, y = noisy_scores(200)
    moved = unit * (scores + zero)
    expected = Sigmoids.fit(scores, y, TWO).probabilities(scores)
    assert expected[:, 1].max() - expected[:, 1].min() > 0.4
    np.testing.assert_allclose(Sigmoids.fit(moved, y, TWO).probabilities(moved), expected, atol=1e-8)


@pytest.mark.parametrize("score", [0.0, 0.1, -1e9])
def test_equal_scores_give_the_mean_target(score):
    """Six rows with targets 1 / 14 and three with 7 / 8."""
    y = np.repeat([0, 1], [6, 3])
    chances = Sigmoids.fit(np.full((9, 1), score), y, TWO).probabilities(np.array([score, score + 1]))[:, 1]
    np.testing.assert_allclose(chances, (6 / 14 + 3 * 7 / 8) / 9)


@pytest.mark.parametrize("apart", [-3.0, -0.5, 0.0, 0.5, 3.0])
@pytest.mark.parametrize("seed", range(5))
def test_probabilities_rank_as_scores_do_or_not_at_all(apart, seed):
    scores, y = noisy_scores(60, apart, seed=seed)
    chances = Sigmoids.fit(scores, y, TWO).probabilities(scores)[:, 1]
    ahead = scores[y == 1].mean() > scores[y == 0].mean()
    assert roc_auc_score(y, chances) == (roc_auc_score(y, scores) if ahead else 0.5)
    if not ahead:
        np.testing.assert_allclose(chances.mean(), y.mean(), atol=0.02)


def test_several_classes_sum_to_one_where_one_of_them_has_no_ranking():
    random = np.random.default_rng(0)
    y = random.integers(0, 4, 200)
    scores = random.normal(size=(200, 4)) + 2 * np.eye(4)[y]
    scores[:, 2] = -scores[:, 2]
    sigmoids = Sigmoids.fit(scores, y, np.arange(4))
    assert sigmoids.slopes[2] == 0 and (np.delete(sigmoids.slopes, 2) > 0).all()
    probabilities = sigmoids.probabilities(scores)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert (probabilities > 0).all()


def test_equal_views_of_an_image_make_no_head_surer():
    """Nearest mean: repeated rows leave the scores as they are."""
    X, y, splits = blobs(2)
    chances = [
        fit_head(
            "nearest-mean",
            Features(np.repeat(X, views, axis=0), (X.shape[1],), views, (Part("layer", "avg"),)),
            rows_of(y, splits, 2),
            splits,
        )[0].probabilities
        for views in (1, 4)
    ]
    np.testing.assert_allclose(chances[1], chances[0], atol=1e-6)


@pytest.mark.parametrize("name", ["linear-svm", "rbf-svm", "ridge", "nearest-mean"])
def test_a_head_that_separates_its_twelve_rows_is_not_sure_of_itself(name):
    """Rows that were trained on are easy to tell apart; one in ten of the test rows has the other class."""
    X, y, splits = blobs(2)
    few = np.concatenate([np.flatnonzero((y == k) & (splits != 2))[:6] for k in (0, 1)])
    looked = np.flatnonzero(splits == 2)
    y[looked[::10]] = 1 - y[looked[::10]]
    rows = np.concatenate([few, looked])
    splits = np.concatenate([np.tile([0, 0, 1], 4), np.full(len(looked), 2)]).astype(np.uint8)
    features = Features(X[rows], (X.shape[1],), 1, (Part("layer", "avg"),))
    assert fit_head(name, features, rows_of(y[rows], splits, 2), splits)[0].test["log_loss"] < 0.6


@pytest.mark.parametrize(("views", "unit"), [(1, 1.0), (2, 1e-4)])
def test_sigmoids_of_many_classes_are_scikit_learns_one_by_one(views, unit):
    """Each against LogisticRegression on rows that count as positive with the weight of their target; one class is useless."""
    random = np.random.default_rng(3)
    y = np.repeat(np.tile(np.arange(70), 6), views)
    scores = random.normal(size=(len(y), 70)) * unit + 5
    scores[np.arange(len(y)), y] += random.uniform(0.5, 6, 70)[y] * unit
    scores[:, 69] = 5.0
    sigmoids = Sigmoids.fit(scores, y, np.arange(70), views)
    assert sigmoids.slopes[69] == 0
    for k in (0, 1, 33, 64, 68):
        p, n = np.sum(y == k) / views, np.sum(y != k) / views
        targets = np.where(y == k, (p + 0.5) / (p + 1), 0.5 / (n + 1))
        fitted = LogisticRegression(C=1e12, solver="newton-cholesky", tol=1e-10).fit(
            np.tile((scores[:, k] - 5) / unit, 2)[:, None],
            np.repeat([1, 0], len(y)),
            np.concatenate([targets, 1 - targets]),
        )
        expected = fitted.predict_proba((scores[:, k] - 5)[:, None] / unit)[:, 1]
        np.testing.assert_allclose(expit(sigmoids.slopes[k] * scores[:, k] + sigmoids.offsets[k]), expected, atol=1e-6)
