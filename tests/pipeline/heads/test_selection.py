"""Settings are chosen by the metric that was asked for, of the probabilities that are deployed; classes may be weighted."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from sklearn import metrics
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.svm import SVC

from features.errors import RequestError
from pipeline.data.training_data import Features, Part, Sample
from pipeline.evaluation.metrics import METRICS
from pipeline.heads.calibration import Calibrator
from pipeline.heads.logistic.search import Logistic
from pipeline.heads.registry import HEADS, find_head
from pipeline.heads.settings import best_of, least_accuracy
from pipeline.heads.svm import search as svm_search
from pipeline.options import MetricName

ELSEWHERE = {
    "accuracy": lambda y, p: metrics.accuracy_score(y, p.argmax(axis=1)),
    "balanced_accuracy": lambda y, p: metrics.balanced_accuracy_score(y, p.argmax(axis=1)),
    "average_precision": lambda y, p: metrics.average_precision_score(y, p[:, 1]),
    "log_loss": lambda y, p: metrics.log_loss(y, p),
    "mcc": lambda y, p: metrics.matthews_corrcoef(y, p.argmax(axis=1)),
}
WEIGHTED = [name for name, head in HEADS.items() if "class_weight" in head.grid]


def unequal(rows=150, share=0.2, features=8, views=1, seed=0):
    """Return a sample of two classes that overlap, the second one rarer, in five folds of which the first is val."""
    random = np.random.default_rng(seed)
    y = (np.arange(rows) % round(1 / share) == 0).astype(int)
    X = random.exponential(1.0, (rows * views, features)).astype(np.float32)
    X[:, 0] += 1.5 * np.repeat(y, views)
    number = np.arange(rows) // round(1 / share) % 5
    return Sample(Features(X, (features,), views, (Part("layer", "avg"),)), y, number == 0, number)


def small(name):
    """Return a head with few settings to try."""
    given = {
        "C": (0.3, 30.0),
        "alpha": (0.03, 3.0),
        "gamma": (1.0,),
        "scale": ("layer",),
        "epochs": (4,),
        "n_neighbors": (3, 9),
    }
    return find_head(name, {**given, "shrinkage": (0.1, 0.6), "class_weight": ("none", "balanced")})


@pytest.mark.parametrize("name", ["logistic", "rbf-svm", "ridge", "knn"])
@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("metric", ELSEWHERE)
def test_settings_are_rated_by_scikit_learns_metric_of_out_of_fold_probabilities(name, views, metric):
    head = small(name)
    sample = unequal(views=views)
    if head.views == "mean":
        sample, views = replace(sample, features=sample.features.averaged()), 1
    choice = head.search(sample).choose(sample.pairs("cv"), metric)
    for tried in choice.tried:
        settings = {each: value for each, value in tried.items() if each in head.grid}
        found = np.empty((len(sample.y), 2))
        search = head.search(sample)
        whole = search.fit(settings, sample.everything)
        for fit, look in sample.pairs("cv"):
            estimator = search.fit(settings, fit)
            if getattr(whole, "sigmoids_", None) is not None:  # those of the head of the run
                estimator.sigmoids_ = whole.sigmoids_
            rows = sample.features.X[np.repeat(look, views)]
            found[look] = estimator.predict_proba(rows).reshape(-1, views, 2).mean(axis=1)
        assert tried[metric] == pytest.approx(ELSEWHERE[metric](sample.y, found), abs=1e-4)  # logistic: in float32
        assert tried["log_loss"] == pytest.approx(metrics.log_loss(sample.y, found), abs=1e-4)
    sign, tried = -1 if metric == "log_loss" else 1, choice.tried
    if metric == "accuracy":
        least = least_accuracy(max(each["accuracy"] for each in tried), len(sample.y))
        tried = [{**each, "accuracy": 1.0} for each in tried if each["accuracy"] >= least]
    best = max(tried, key=lambda each: (sign * each[metric], -each["log_loss"]))
    assert choice.settings.items() <= best.items()


@pytest.mark.parametrize("name", ["linear-svm", "ridge"])
@pytest.mark.parametrize("select", ["cv", "val"])
def test_the_sigmoids_of_the_choice_are_those_of_the_head_of_the_run(name, select):
    sample = unequal()
    search = small(name).search(sample)
    settings = search.choose(sample.pairs(select), "log_loss").settings
    images = sample.everything if select == "cv" else ~sample.val
    kept, again = (each.fit(settings, images).sigmoids_ for each in (search, small(name).search(sample)))
    assert kept is search._kept[2] and again is not kept
    np.testing.assert_allclose([kept.slopes, kept.offsets], [again.slopes, again.offsets], rtol=1e-6)


@pytest.mark.parametrize("name", sorted(HEADS))
def test_every_head_chooses_by_every_kind_of_metric(name):
    sample = unequal(rows=60)
    for metric in ("accuracy", "average_precision", "log_loss"):
        choice = small(name).search(sample).choose(sample.pairs("cv"), metric)
        assert all(each[metric] is not None and each["log_loss"] is not None for each in choice.tried)


@pytest.mark.parametrize("metric", ["accuracy", "roc_auc"])
def test_a_dense_head_keeps_the_epoch_that_is_best_by_the_metric(metric):
    sample = unequal()
    search = find_head("mlp", {"epochs": (12,), "learning_rate": (0.003, 0.01)}).search(sample)
    choice = search.choose(sample.pairs("cv"), metric)
    best = max(choice.tried, key=lambda each: (round(each[metric], 12), -each["log_loss"]))
    assert choice.settings == {name: best[name] for name in choice.settings}
    assert choice.history[f"val_{metric}"][choice.settings["epochs"] - 1] == best[metric]
    chances = search.fit(choice.settings, ~sample.val).predict_proba(sample.features.X[sample.val])
    score = {"accuracy": ELSEWHERE["accuracy"], "roc_auc": lambda y, p: metrics.roc_auc_score(y, p[:, 1])}[metric]
    assert best[metric] == pytest.approx(score(sample.y[sample.val], chances), abs=1e-6)


def test_a_metric_that_is_undefined_on_val_is_refused():
    sample = unequal()
    sample.y[sample.val] = 0
    with pytest.raises(RequestError, match=r"roc_auc must be defined .* one class.*metric='log_loss', select='cv'"):
        small("logistic").search(sample).choose(sample.pairs("val"), "roc_auc")
    with pytest.raises(RequestError, match="roc_auc must be defined"):
        small("mlp").search(sample).choose(sample.pairs("cv"), "roc_auc")


def test_every_metric_that_can_decide_may_be_asked_for():
    assert set(get_args(MetricName)) == {each.name for each in METRICS} - {"calibration_error"}  # 0 for a constant head


def test_ties_are_broken_by_log_loss():
    settings = [{"C": C} for C in (1, 2, 3)]
    ratings = [{"accuracy": 0.9, "log_loss": loss} for loss in (0.5, 0.4, 0.3)]
    ratings[2]["accuracy"] = 0.9 + 3e-16  # rounding alone is no lead
    assert best_of(settings, ratings, "accuracy", 1000).settings == {"C": 3}
    ratings[2]["accuracy"] = 0.8
    assert best_of(settings, ratings, "accuracy", 1000).settings == {"C": 2}
    impossible = dict.fromkeys(("accuracy", "log_loss"))
    assert best_of(settings, [impossible, impossible, ratings[0]], "accuracy", 1000).settings == {"C": 3}


@pytest.mark.parametrize(
    ("accuracies", "rows", "chosen"),
    [
        ((0.9, 0.895), 1000, 2),  # the standard error is 0.0095
        ((0.9, 0.889), 1000, 1),
        ((0.9, 0.895), 10_000, 1),
        ((1.0, 0.98), 50, 2),  # all right is no certainty
    ],
)
def test_settings_within_a_standard_error_of_the_best_accuracy_are_chosen_by_log_loss(accuracies, rows, chosen):
    ratings = [{"accuracy": accuracies[0], "log_loss": 0.5}, {"accuracy": accuracies[1], "log_loss": 0.4}]
    assert best_of([{"C": 1}, {"C": 2}], ratings, "accuracy", rows).settings == {"C": chosen}
    of_f1 = [{**each, "macro_f1": each["accuracy"]} for each in ratings]
    assert best_of([{"C": 1}, {"C": 2}], of_f1, "macro_f1", rows).settings == {"C": 1}


@pytest.mark.parametrize("n_classes", [2, 3])
def test_balanced_weights_are_scikit_learns(n_classes):
    random = np.random.default_rng(1)
    y = np.repeat(np.arange(n_classes), [60, 12, 20][:n_classes])
    X = random.exponential(1, (len(y), 10)).astype(np.float32)
    X[:, 0] += y
    sample = Sample(Features(X, (10,), 1, (Part("layer", "avg"),)), y, np.zeros(len(y), bool), np.arange(len(y)) % 5)
    ours = Logistic(10.0, class_weight="balanced").fit(X, y)
    scaled = (X / ours.scale_).astype(np.float64)
    theirs = LogisticRegression(C=10.0, class_weight="balanced", tol=1e-10, max_iter=100_000).fit(scaled, y)
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(scaled), atol=1e-3)
    settings = {"scale": "layer", "C": 10.0, "class_weight": "balanced"}
    svm = find_head("linear-svm").search(sample).fit(settings, sample.everything)
    other = SVC(C=10.0, kernel="linear", class_weight="balanced").fit(scaled, y)
    if n_classes == 2:
        np.testing.assert_allclose(svm.decision_function(X), other.decision_function(scaled), atol=1e-2)
    ridge = (
        find_head("ridge")
        .search(sample)
        .fit({"scale": "layer", "alpha": 0.1, "class_weight": "balanced"}, sample.everything)
    )
    other = RidgeClassifier(alpha=0.1, class_weight="balanced").fit(scaled, y)
    np.testing.assert_allclose(ridge.decision_function(X), other.decision_function(scaled), atol=1e-3)


@pytest.mark.parametrize("name", WEIGHTED)
def test_heads_that_can_weight_classes_try_it_and_become_another_head(name):
    sample = unequal(rows=60)
    head = small(name)
    choice = head.search(sample).choose(sample.pairs("cv"))
    settings = choice.settings if name != "vote" else next(iter(choice.settings.values()))
    assert settings["class_weight"] in ("none", "balanced")
    assert {each["class_weight"] for each in choice.tried} == {"none", "balanced"}

    def weighted(kind):
        if name == "vote":
            return {member: {**each, "class_weight": kind} for member, each in choice.settings.items()}
        return {**choice.settings, "class_weight": kind}

    chances = [
        head.search(sample).fit(weighted(kind), sample.everything).predict_proba(sample.features.X)
        for kind in ("none", "balanced")
    ]
    assert np.abs(chances[0] - chances[1]).max() > 1e-3


def test_all_heads_weight_classes_but_those_that_have_nothing_to_weight():
    assert set(HEADS) - set(WEIGHTED) == {"knn", "nearest-mean", "majority"}
    with pytest.raises(RequestError, match="class_weight must be one of balanced, none; got 'equal'"):
        find_head("logistic", {"class_weight": ("equal",)})
    assert find_head("logistic", {"class_weight": (None,)}).grid["class_weight"] == ("none",)


def test_calibration_needs_two_images_of_each_class_in_different_folds():
    sample = unequal()
    y = np.zeros_like(sample.y)
    y[0] = 1
    with pytest.raises(RequestError, match="at least 2 different training rows of each class"):
        Calibrator(Sample(sample.features, y, sample.val, sample.folds), sample.everything)


@pytest.mark.parametrize("name", ["linear-svm", "rbf-svm"])
def test_settings_of_very_many_images_are_chosen_on_some_of_them_and_said(name, monkeypatch, said):
    head, sample = small(name), unequal(rows=300)
    few = svm_search.stratified_mask(sample.y, sample.folds, 100)
    some = sample.only(few)
    expected = head.search(some, head.grid).choose(some.pairs("cv"))
    monkeypatch.setattr(svm_search, "_MANY", 200)
    monkeypatch.setattr(svm_search, "_SOME", 100)
    search = head.search(sample, head.grid)
    choice = search.choose(sample.pairs("cv"))
    assert (choice.settings, choice.tried) == (expected.settings, expected.tried)
    tried = 5 * len(choice.tried)
    assert f"300 images: settings are chosen on {few.sum()} of them, since each of {tried} fits" in said[0]
    assert "12 fits to most of the images take about" in said[1]
    monkeypatch.undo()
    fitted, again = (each.fit(choice.settings, sample.everything) for each in (search, head.search(sample, head.grid)))
    X = sample.features.matrix
    np.testing.assert_allclose(fitted.predict_proba(X), again.predict_proba(X), atol=1e-9)  # fitted to all of them


def test_some_images_are_of_all_classes_and_folds_alike():
    y, folds = np.repeat([0, 1, 2], [9000, 990, 10]), np.arange(10_000) % 5
    few = svm_search.stratified_mask(y, folds, 4000)
    assert [int((few & (y == label)).sum()) for label in range(3)] == pytest.approx([3600, 396, 6], abs=3)
    assert {(label, fold) for label, fold in zip(y[few], folds[few], strict=True)} == {
        (c, f) for c in range(3) for f in range(5)
    }
    assert np.bincount(folds[few]).max() - np.bincount(folds[few]).min() < 20
