"""Figures of each class, and thresholds, against scikit-learn, closed forms and counts by hand."""

import json
import logging
import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from features.errors import RequestError, UnsafeFile
from pipeline.evaluation.decisions.aim import DECIDED, Aim
from pipeline.evaluation.decisions.by_class import figures_by_class
from pipeline.evaluation.decisions.operating_point import OperatingPoint
from pipeline.evaluation.decisions.thresholds import choose_threshold
from pipeline.evaluation.significance import agresti_coull

NAMES = ("functional", "defective")


def unequal(rows=400, share=0.1, seed=0):
    """Return which rows are positive, and true probabilities of it."""
    random = np.random.default_rng(seed)
    positive = random.random(rows) < share
    scores = random.normal(2.0 * positive, 1)
    return positive, 1 / (1 + np.exp(-(2 * scores - 2 + math.log(share / (1 - share)))))


def test_figures_by_class_are_scikit_learns_with_intervals_of_shares():
    random = np.random.default_rng(0)
    y, predicted = random.integers(0, 3, 90), random.integers(0, 3, 90)
    expected = metrics.precision_recall_fscore_support(y, predicted)
    for number, found in enumerate(figures_by_class(y, predicted, "abc")):
        assert (found.precision, found.recall, found.f1, found.support) == pytest.approx(
            [each[number] for each in expected]
        )
        hits = int(np.sum((y == number) & (predicted == number)))
        for ends, rows in ((found.recall_interval, found.support), (found.precision_interval, found.predicted)):
            assert ends == pytest.approx(agresti_coull(hits / rows, rows), abs=1e-9)


def test_classes_without_rows_have_no_figures():
    never, absent = figures_by_class(np.zeros(4, int), np.array([0, 0, 0, 1]), "ab")
    assert (never.recall, never.precision, never.predicted) == (0.75, 1, 3)
    assert (absent.recall, absent.f1, absent.recall_interval, absent.precision) == (None, None, None, 0)
    json.dumps(absent.to_json(), allow_nan=False)


def test_intervals_by_class_count_groups():
    """By hand: five groups, right or wrong as a whole: without one, the share changes by a quarter of its distance from the mean.

    They tell as much as p (1 - p) / v rows; t(0.975, 4) = 2.776445 takes the place of the normal distribution's quantile.
    """
    y, predicted = np.repeat([0, 1], 50), np.repeat([0, 1, 0, 1], [40, 10, 10, 40])
    first, _ = figures_by_class(y, predicted, "ab", np.arange(100) // 10)
    n = 0.8 * 0.2 / (4 / 5 * (4 * 0.2**2 + 0.8**2) / 4**2) * (1.959964 / 2.776445) ** 2
    assert first.recall_interval == pytest.approx(agresti_coull(0.8, n), abs=1e-5)


@pytest.mark.parametrize("metric", DECIDED)
@pytest.mark.parametrize("seed", range(3))
def test_no_threshold_has_a_better_metric_by_scikit_learn(metric, seed):
    score = {
        "accuracy": metrics.accuracy_score, "balanced_accuracy": metrics.balanced_accuracy_score,
        "macro_f1": lambda y, p: metrics.f1_score(y, p, average="macro"), "mcc": metrics.matthews_corrcoef,
        "cohen_kappa": metrics.cohen_kappa_score,
    }[metric]  # fmt: skip
    positive, chances = unequal(seed=seed)
    threshold = choose_threshold(Aim("threshold", "defective", metric), positive, chances)
    others = [score(positive, chances >= each) for each in np.append(np.unique(chances), 2)]
    assert score(positive, chances >= threshold) == pytest.approx(max(others), abs=1e-12)


@pytest.mark.parametrize("cost", [0.1, 1.0, 10.0])
def test_no_threshold_costs_less(cost):
    positive, chances = unequal()
    threshold = choose_threshold(Aim("cost", "defective", value=cost), positive, chances)

    def costs(at):
        return cost * np.sum(positive & (chances < at)) + np.sum(~positive & (chances >= at))

    assert costs(threshold) == min(costs(each) for each in np.append(np.unique(chances), 2))


def test_of_thresholds_that_decide_alike_the_one_of_true_probabilities_is_taken():
    """By hand: no probability lies between 0.1 and 0.9; Elkan's threshold for a cost of 4 is 1 / 5."""
    positive, chances = np.array([False] * 9 + [True]), np.array([0.1] * 9 + [0.9])
    assert choose_threshold(Aim("cost", "b", value=4.0), positive, chances) == pytest.approx(0.2)
    assert choose_threshold(Aim("threshold", "b", "accuracy"), positive, chances) == 0.5
    for aim in (
        Aim("threshold", "b", "balanced_accuracy"),
        Aim("cost", "b", value=99.0),
    ):  # 0.1 and 0.01 alarm too often
        threshold = choose_threshold(aim, positive, chances)
        assert 0.1 < threshold < 0.12


def test_with_few_mistakes_a_threshold_for_a_cost_stays_near_that_of_true_probabilities():
    """By hand: one false alarm at 0.12 costs less than any miss, so all of (0.12, 0.8] are best: 1 / 11 is not, 0.46 is far off."""
    positive, chances = np.repeat([False, True], 20), np.repeat([0.01, 0.8], 20)
    chances[19] = 0.12
    assert 0.121 < choose_threshold(Aim("cost", "b", value=10.0), positive, chances) < 0.13
    chances[19] = 0.05
    assert choose_threshold(Aim("cost", "b", value=10.0), positive, chances) == pytest.approx(1 / 11)
    chances[20] = 0.04  # a miss at most: the only best thresholds are (0.01, 0.04], below 1 / 11
    assert 0.039 < choose_threshold(Aim("cost", "b", value=10.0), positive, chances) < 0.04


@pytest.mark.parametrize(
    ("way", "share", "k"), [("sensitivity", 0.9, 30), ("specificity", 0.9, 30), ("sensitivity", 0.5, 20)]
)
def test_a_share_asked_for_is_reached_on_new_rows_in_nine_of_ten_draws(way, share, k):
    """Uniform probabilities of 30 rows: the share of the distribution beyond the k-th is Beta(k, 31 - k).

    By hand: the k-th is beyond the share with the probability that fewer than k of 30 rows are. For 0.9 that is 0.958 for k = 30
    and 0.816 for 29; for 0.5, a fair coin's, 0.951 for 20 and 0.8998 for 19.
    """
    random, found = np.random.default_rng(0), []
    for _ in range(2000):
        positive, chances = np.repeat([True, False], 30), random.random(60)
        threshold = choose_threshold(Aim(way, "defective", value=share), positive, chances)
        found.append(1 - threshold if way == "sensitivity" else threshold)  # of uniform probabilities
    assert np.mean(found) == pytest.approx(k / 31, abs=0.005)  # a beta distribution's mean
    assert np.mean(np.array(found) >= share) >= 0.89


def test_too_few_rows_for_a_share_are_said(caplog):
    positive, chances = np.repeat([True, False], [5, 50]), np.linspace(0.9, 0.01, 55)
    with caplog.at_level(logging.WARNING, "cached_features"):
        threshold = choose_threshold(Aim("sensitivity", "defective", value=0.95), positive, chances)
    assert threshold == chances[4]
    assert "needs at least 45 images of its class in train and val; got 5" in caplog.text  # 0.95^44 is above a tenth
    assert "a confidence of only 0.23" in caplog.text  # 1 - 0.95^5


def test_with_groups_a_share_is_reached_for_new_groups_and_by_rows_it_falls_short():
    """Groups of 20 rows whose scores share a normal effect as large as the rows' own; the share beyond a threshold is exact."""
    random, aim, reached = (
        np.random.default_rng(0),
        Aim("sensitivity", "defective", value=0.8),
        {"groups": 0, "rows": 0},
    )
    groups = np.repeat(np.arange(40), 20)
    for _ in range(200):
        chances = stats.norm.cdf(random.normal(size=40)[groups] + random.normal(size=len(groups)))
        for name, units in (("groups", groups), ("rows", None)):
            threshold = choose_threshold(aim, np.ones(len(groups), bool), chances, units)
            reached[name] += stats.norm.sf(stats.norm.ppf(threshold) / math.sqrt(2)) >= 0.8
    assert 0.86 <= reached["groups"] / 200 <= 0.97 and reached["rows"] / 200 < 0.8, reached


def test_too_few_groups_for_a_share_are_said(caplog):
    positive, chances, units = np.repeat([True, False], [60, 50]), np.linspace(0.9, 0.01, 110), np.arange(110) // 20
    with caplog.at_level(logging.WARNING, "cached_features"):
        threshold = choose_threshold(Aim("sensitivity", "defective", value=0.95), positive, chances, units)
    assert threshold == chances[59]
    # Of 46 groups, 46 (1.281552 / t(0.9, 45) = 1.300649)^2 = 44.7 rows are one too few: 0.95^44.7 is above a tenth.
    assert "needs at least 47 groups of its class in train and val; got 3" in caplog.text


def test_aims_read_from_options():
    labels = np.array([0, 0, 0, 1])
    assert Aim.of({}, NAMES, labels) is None
    assert Aim.of({"threshold": "mcc"}, NAMES, labels) == Aim("threshold", "defective", "mcc")
    assert Aim.of({"threshold": "mcc"}, NAMES, 1 - labels).positive == "functional"
    assert Aim.of({"sensitivity": 0.9, "positive": "functional"}, NAMES, labels) == Aim(
        "sensitivity", "functional", None, 0.9
    )
    for text, miss in (("defective:functional=10", "defective"), ("functional:defective=10", "functional")):
        assert Aim.of({"cost": text}, NAMES, labels) == Aim("cost", miss, None, 10.0)
    assert Aim.of({"cost": "a:b=c:b=2"}, ("a:b=c", "b"), labels) == Aim("cost", "a:b=c", None, 2.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"positive": "defective"}, "positive must come with threshold or cost or sensitivity or specificity"),
        ({"threshold": "mcc", "sensitivity": 0.9}, "chosen for one thing; got threshold and sensitivity"),
        ({"threshold": "roc_auc"}, "threshold must be one of accuracy, balanced_accuracy"),
        ({"sensitivity": 1.0}, "sensitivity must be between 0 and 1; got 1.0"),
        ({"specificity": math.nan}, "specificity must be between 0 and 1; got nan"),
        ({"threshold": "mcc", "positive": "broken"}, "positive must be one of defective, functional; got 'broken'"),
        ({"cost": "defective:functional=10", "positive": "defective"}, "positive must be left out with cost"),
        *(({"cost": text}, "cost must be CLASS:OTHER=NUMBER above 0, .*For example cost=.functional:defective=10") for text in ("10", "defective:functional=-1",
          "defective:functional=inf", "defective:other=2", "defective:functional=ten")),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(options, said):
    with pytest.raises(RequestError, match=said):
        Aim.of(options, NAMES, np.array([0, 1]))


def test_more_than_two_classes_have_no_operating_point():
    with pytest.raises(RequestError, match="threshold must be left out unless there are two classes; got 3: a, b, c"):
        Aim.of({"threshold": "mcc"}, ("a", "b", "c"), np.arange(3))


def test_a_point_decides_is_measured_and_is_read_again():
    positive, chances = unequal()
    y, probabilities = 1 - positive.astype(int), np.column_stack([chances, 1 - chances])
    probabilities[:5] = np.nan  # of a fold that could not be fitted
    names = NAMES[::-1]
    point = OperatingPoint.choose(Aim("threshold", "defective", "balanced_accuracy"), y, probabilities, names)
    y, probabilities = y[5:], probabilities[5:]
    said = point.decide(probabilities, names)
    np.testing.assert_array_equal(said == 0, probabilities[:, 0] >= point.threshold)
    told = point.out_of_fold
    assert told["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(y, said))
    assert told["sensitivity"] == metrics.recall_score(y, said, pos_label=0)
    assert told["specificity"] == metrics.recall_score(y, said, pos_label=1)
    assert told["precision"] == metrics.precision_score(y, said, pos_label=0)
    measured = point.measured(y, probabilities, names)
    assert {**measured.test, "intervals": 0} == {**told, "intervals": 0}
    assert all(low <= measured.test[name] <= high for name, (low, high) in measured.test["intervals"].items())
    read = OperatingPoint.from_json(json.loads(json.dumps(measured.to_json())), names, "run.json")
    np.testing.assert_array_equal(read.decide(probabilities, names), said)
    for wrong in ({}, {**measured.to_json(), "positive": "x"}, {**measured.to_json(), "threshold": "0.5"}, [1]):
        with pytest.raises(UnsafeFile, match=r"run\.json must contain an operating point of its two classes"):
            OperatingPoint.from_json(wrong, names, "run.json")
    with pytest.raises(RequestError, match="of both classes; the folds gave those of one"):
        OperatingPoint.choose(Aim("cost", "defective", value=2.0), np.zeros(9, int), np.full((9, 2), 0.5), names)
