"""Ridge classifiers and linear discriminants beside scikit-learn's."""

import numpy as np
import pytest
from samples import sample_of
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeClassifier

from features.errors import RequestError
from pipeline.data.svd_basis import rotate
from pipeline.heads.closed_form.models import Discriminants, Ridge
from pipeline.heads.registry import find_head

OURS = {"ridge": Ridge, "lda": Discriminants}


def drawn(n, d, n_classes, seed=0):
    """Return features and classes of unequal size."""
    random = np.random.default_rng(seed)
    y = random.permutation(np.minimum(np.arange(n) % (n_classes + 2), n_classes - 1))
    X = random.exponential(1, (n, d)).astype(np.float32)
    X[:, 0] += y
    return X, y


def theirs(name, value, kind, n_classes):
    """Return scikit-learn's estimator; balanced weights are equal shares of the classes."""
    if name == "ridge":
        return RidgeClassifier(value, class_weight=None if kind == "none" else kind, solver="svd")
    return LinearDiscriminantAnalysis("lsqr", value, None if kind == "none" else np.full(n_classes, 1 / n_classes))


def scores_beside(name, X, y, rows, kind, value):
    """Return our scores and theirs, (n, k), of models of some rows."""
    (rotation,) = rotate(X, X.mean(axis=0, dtype=np.float64), [np.full(X.shape[1], 2.0, np.float32)])
    weights, intercept = OURS[name](rotation, y, rows, kind).solve(value)
    scaled = X.astype(np.float64) / 2
    fitted = theirs(name, value, kind, len(np.unique(y[rows]))).fit(scaled[rows], y[rows])
    found = [rotation.rows @ weights + intercept, fitted.decision_function(scaled).reshape(len(X), -1)]
    if name == "lda" and found[0].shape[1] > 1:  # log densities, up to a number per row
        found = [each - each.mean(axis=1, keepdims=True) for each in found]
    return found


@pytest.mark.parametrize(
    ("name", "values"), [("ridge", (0.01, 1.0, 100.0)), ("lda", (0.01, 0.3, 1.0))], ids=["ridge", "lda"]
)
@pytest.mark.parametrize("kind", ["none", "balanced"])
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("d", [20, 200])
@pytest.mark.parametrize("left_out", [0, 6, 40])
def test_models_of_some_rows_are_scikit_learns(name, values, d, n_classes, left_out, kind):
    X, y = drawn(80, d, n_classes)
    for value in values:
        ours, others = scores_beside(name, X, y, np.arange(80) >= left_out, kind, value)
        np.testing.assert_allclose(ours, others, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", OURS)
def test_a_class_that_is_left_out_has_no_score(name):
    X, y = drawn(60, 20, 3)
    ours, others = scores_beside(name, X, y, y != 1, "none", 0.5)
    np.testing.assert_allclose(ours, others, atol=1e-7)
    assert ours.shape == (60, 1)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("select", ["cv", "val"])
def test_settings_are_rated_by_the_head_that_they_give(name, select):
    """The figures of each setting are those of a search that knows this setting alone."""
    X, y = drawn(90, 30, 3)
    sample, grid = sample_of(X, y), find_head(name).grid
    tried = find_head(name).search(sample).choose(sample.pairs(select)).tried
    for each in tried[::4]:
        alone = find_head(name, {setting: (each[setting],) for setting in grid})
        assert alone.search(sample).choose(sample.pairs(select)).tried == [each]


@pytest.mark.parametrize(
    ("name", "setting", "bad", "good"), [("ridge", "alpha", 1e-300, 1.0), ("lda", "shrinkage", 1.5, 0.5)]
)
def test_a_setting_without_a_solution_is_refused_and_not_chosen(name, setting, bad, good):
    X, y = drawn(40, 100, 2)[0], np.arange(40) // 3 % 2
    sample, few = sample_of(X * np.float32(1e6), y), np.arange(40) >= 30
    with pytest.raises(
        RequestError, match=rf"{setting} must have a solution for 10 images; got {bad:g}: .*settings={{"
    ):
        find_head(name).search(sample).fit({"scale": "layer", setting: bad}, few)
    choice = find_head(name, {setting: (good, bad)}).search(sample).choose([(few, ~few)])
    assert choice.settings[setting] == good
    assert {each[setting] for each in choice.tried if each["accuracy"] is None} == {bad}


@pytest.mark.parametrize("name", OURS)
def test_rows_that_do_not_differ_within_classes_are_told_apart(name):
    y = np.tile([0, 1], 20)
    sample = sample_of(np.column_stack([y, 1 - y]).astype(np.float32), y)
    for settings in find_head(name).search(sample).choose(sample.pairs("cv")).tried:
        head = find_head(name).search(sample).fit(settings, sample.everything)
        np.testing.assert_array_equal(head.predict(sample.features.X), y)
