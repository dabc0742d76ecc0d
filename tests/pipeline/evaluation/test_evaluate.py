"""Metrics and intervals against values from elsewhere."""

import csv
import itertools
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from bench.intervals import ACCURACY, coverage, of_right, rejection
from conftest import ROOT
from scipy import special, stats
from sklearn import metrics

import pipeline
from pipeline.evaluation.bootstrap import bootstrap_intervals
from pipeline.evaluation.held_out import HeldOut
from pipeline.evaluation.intervals import intervals_of
from pipeline.evaluation.metrics import METRICS, evaluate, figures_of
from pipeline.evaluation.significance import accuracy_interval, agresti_coull, compare_pair, holm
from pipeline.evaluation.weighted_rows import WeightedRows
from pipeline.heads.settings import best_of
from pipeline.reports.figures import leaderboard
from pipeline.training.summary import best_first, compare_with_best


def differ(one, other, n_train):
    """Return the difference in accuracy of two heads that are right on the given rows of each split, (n_splits, n_test)."""
    one, other = np.asarray(one, bool), np.asarray(other, bool)
    tested = [HeldOut(np.zeros(one.shape[1], int), np.arange(one.shape[1]), n_train)] * len(one)
    return compare_pair(ACCURACY, tested, of_right(one), of_right(other))


def test_metrics_of_a_small_table_computed_by_hand():
    y = np.array([0, 0, 0, 1])
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    scores = evaluate(y, probabilities)
    assert scores["accuracy"] == 0.75 and scores["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)  # F1: 2*2/(2*2+1+0), 2*1/(2*1+1+0)
    assert scores["roc_auc"] == 1.0
    assert scores["log_loss"] == pytest.approx(-np.mean(np.log([0.9, 0.8, 0.4, 0.7])))


@pytest.mark.parametrize("said", [0, 1])
def test_agreement_of_rows_that_are_predicted_as_one_class(said):
    """As scikit-learn has it; where both are one class, its kappa is undefined."""
    y, probabilities = np.array([0, 0, 0, 1]), np.tile(np.eye(2)[said], (4, 1))
    scores, told = evaluate(y, probabilities), np.full(4, said)
    assert scores["mcc"] == metrics.matthews_corrcoef(y, told) == 0
    assert scores["cohen_kappa"] == pytest.approx(metrics.cohen_kappa_score(y, told), abs=1e-12)
    assert np.isnan(evaluate(y[:3], np.tile([0.9, 0.1], (3, 1)))["cohen_kappa"])


def test_one_class_only_has_no_auc():
    assert np.isnan(evaluate(np.zeros(3, int), np.full((3, 2), 0.5))["roc_auc"])


@pytest.mark.parametrize(
    ("right", "rows", "low", "high"),
    [
        (81, 263, 0.2552207, 0.3662774),
        (199, 200, 0.9693573, 1),
        (200, 200, 0.9773146, 1),
        (164, 200, 0.7605502, 0.8673888),
    ],
)
def test_intervals_of_shares_are_statsmodels(right, rows, low, high):
    # statsmodels 0.15.0: proportion_confint(right, rows, method="agresti_coull")
    assert accuracy_interval([right / rows], 1000, rows) == pytest.approx((low, high), abs=1e-7)


@pytest.mark.parametrize("rows", [50, 51, 75, 100, 200, 500, 2000])
def test_intervals_hold_any_accuracy_often_enough(rows):
    """Exactly, by the chance of each number of right rows."""
    right = np.arange(rows + 1)
    low, high = np.transpose([accuracy_interval([each / rows], 1000, rows) for each in right])
    for accuracy in np.linspace(0.5, 0.995, 500):
        assert stats.binom.pmf(right, rows, accuracy)[(low <= accuracy) & (accuracy <= high)].sum() > 0.93


def test_corrected_interval_by_hand():
    # t(0.975, 4) = 2.776445; s = 0.0158114 of the five; sqrt(1/5 + 1/3) = 0.7302967
    # The five differ by no less than shares of so many rows would: s^2 is above 0.85 * 0.15 / 10,000.
    low, high = accuracy_interval([0.84, 0.86, 0.85, 0.83, 0.87], 30_000, 10_000)
    assert (high - low) / 2 == pytest.approx(2.776445 * 0.0158114 * 0.7302967, rel=1e-5)
    assert (high + low) / 2 == pytest.approx(0.85)


def test_an_interval_over_repeats_is_never_narrower_than_its_rows_allow():
    # Of 100 test rows and 5 splits, c = 1/5 + 1/3: the interval of a share of 187.5 rows.
    for share in (0.5, 1.0):
        assert accuracy_interval([share] * 5, 300, 100) == pytest.approx(agresti_coull(share, 187.5), abs=1e-9)


def test_two_repeats_give_neither_an_interval_nor_a_test():
    one, other = np.ones((2, 9), bool), np.zeros((2, 9), bool)
    assert accuracy_interval([0.85, 0.85], 300, 100) is None
    assert differ(one, other, 30).p_value is None and differ(one, other, 30).interval is None


def test_repeats_that_differ_by_rounding_alone_are_no_proof():
    one = np.arange(300).reshape(3, 100) % 100 < 85
    other = np.where(np.arange(100) == 0, False, one)  # wrong on one row more in every split
    assert differ(one, other, 400).p_value > 0.1
    low, high = differ(one, other, 400).interval
    assert low < 0 < 0.01 < high
    low, high = differ(one, one, 400).interval
    assert low < 0 < high and differ(one, one, 400).p_value == 1


def test_average_precision_is_of_the_rarer_of_two_classes_wherever_its_name_stands():
    """That of the common one is near 1 whatever a head does; the area under the ROC curve is of both."""
    random = np.random.default_rng(0)
    rare = random.random(500) < 0.05
    p = 1 / (1 + np.exp(-random.normal(rare * 2 - 4, 1)))
    for name, y, chances in (("last", rare, [1 - p, p]), ("first", ~rare, [p, 1 - p])):
        found = evaluate(y.astype(int), np.column_stack(chances))
        assert found["average_precision"] == pytest.approx(metrics.average_precision_score(rare, p)), name
        assert found["roc_auc"] == pytest.approx(metrics.roc_auc_score(rare, p)), name


def test_average_precision_and_calibration_by_hand():
    y = np.array([0, 1, 0, 1])
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.35, 0.65], [0.2, 0.8]])
    # Ranked by the second class: right, wrong, right, wrong; precision 1 at recall 1/2 and 2/3 at recall 1.
    assert evaluate(y, probabilities)["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    # Each row has a bin of its own, of 15: 0.9 right, 0.6 wrong, 0.65 wrong, 0.8 right; 0.6 and 0.65 share one.
    assert evaluate(y, probabilities)["calibration_error"] == pytest.approx((0.1 + 1.25 + 0.2) / 4)


def test_mcnemar_exact_of_r():
    # R: binom.test(2, 12)$p.value = 0.03857422, which is McNemar's exact test on 2 and 10 discordant rows.
    one, other = np.zeros(20, bool), np.zeros(20, bool)
    one[:2], other[2:12] = True, True
    assert differ([one], [other], 100).p_value == pytest.approx(0.03857422, abs=1e-8)
    assert differ([one], [one], 100).p_value == 1
    assert differ([one], [other], 100).test == "McNemar's exact test"


def test_the_best_of_equally_accurate_heads_stands_first_and_is_not_compared_with_itself():
    labels = np.array([0, 1, 0, 1])
    right, tested = np.eye(2)[labels], [HeldOut(labels, np.arange(4), 16)]
    fitted = [[SimpleNamespace(probabilities=right)] for _ in range(3)]
    summaries = [
        {"head": name, "accuracy": 1.0, "accuracies": [1.0], "fit_seconds": seconds}
        for name, seconds in zip("abc", (9, 5, 1), strict=True)
    ]
    compare_with_best(summaries, fitted, tested, ACCURACY)
    assert [summary["p_value"] for summary in summaries] == [None, 1.0, 1.0]
    assert [summary["head"] for summary in best_first(summaries, ACCURACY)] == ["a", "c", "b"]


def test_of_equally_accurate_settings_the_middle_one_is_taken():
    settings = [{"C": C} for C in (1, 2, 3, 4, 5)]
    ratings = [{"accuracy": each, "log_loss": 0.3} for each in (0.5, 0.9, 0.9, 0.9, 0.6)]
    assert best_of(settings, ratings, "accuracy", 1000).settings == {"C": 3}


def test_holm_of_his_paper_by_hand():
    # p.adjust(c(0.01, 0.02, 0.03, 0.04), "holm") of R: 0.04 0.06 0.06 0.06
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([]) == []


def test_intervals_cover_and_equal_heads_are_rarely_told_apart():
    """Classifiers of known accuracy, simulated: one split, 300 test rows, right on each with chance 0.85."""
    random = np.random.default_rng(0)
    n_test, times, truth = 300, 4000, 0.85
    seen = random.binomial(n_test, truth, times) / n_test
    intervals = {value: accuracy_interval([value], 1000, n_test) for value in np.unique(seen)}
    covered = np.mean([intervals[value][0] <= truth <= intervals[value][1] for value in seen])
    assert 0.93 <= covered <= 0.97
    shared = random.random((times, n_test)) < 0.8  # rows that both get right; on the others each is right by chance
    pairs = [(alike | (random.random(n_test) < 0.25), alike | (random.random(n_test) < 0.25)) for alike in shared]
    assert np.mean([differ([one], [other], 1000).p_value < 0.05 for one, other in pairs]) <= 0.06


@pytest.mark.parametrize("repeats", [3, 5, 10])
def test_on_several_splits_intervals_cover_and_equal_heads_are_rarely_told_apart(repeats):
    """The simulation of tests/bench/intervals.py, less often; by the plain t, 0.995 of 50 rows is covered by 43 %."""
    random = np.random.default_rng(repeats)
    for accuracy, n_test in ((0.5, 50), (0.85, 200), (0.995, 50), (0.995, 200)):
        assert coverage(random, accuracy, n_test, repeats, times=200) >= 0.92, (accuracy, n_test)
    for discordant, n_test in ((0.02, 50), (0.1, 200), (0.4, 50)):
        assert rejection(random, discordant, n_test, repeats, times=200) <= 0.06, (discordant, n_test)


def by_class(score):
    """Return the mean of a score of two classes: of each class that is present against the rest."""

    def mean(y, probabilities):
        labels = [1] if probabilities.shape[1] == 2 else np.unique(y)
        return np.mean([score(y == label, probabilities[:, label]) for label in labels])

    return mean


def by_bins(y, probabilities):
    """Return the calibration error, bin by bin."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == y
    edges = np.append(np.arange(15) / 15, np.inf)  # of the last one 1 is a part
    bins = [(confidence >= low) & (confidence < high) for low, high in itertools.pairwise(edges)]
    return sum(abs(right[each].sum() - confidence[each].sum()) for each in bins) / len(y)


def of_predicted(score, **options):
    """Return a score of predicted classes, of those present."""
    return lambda y, p: score(y, p.argmax(axis=1), labels=np.unique(y), average="macro", zero_division=0, **options)


ELSEWHERE = {
    "accuracy": lambda y, p: metrics.accuracy_score(y, p.argmax(axis=1)),
    "balanced_accuracy": of_predicted(metrics.recall_score),
    "macro_f1": of_predicted(metrics.f1_score),
    "roc_auc": by_class(metrics.roc_auc_score),
    "average_precision": by_class(metrics.average_precision_score),
    "mcc": lambda y, p: metrics.matthews_corrcoef(y, p.argmax(axis=1)),
    "cohen_kappa": lambda y, p: metrics.cohen_kappa_score(y, p.argmax(axis=1)),
    "log_loss": lambda y, p: metrics.log_loss(y, p, labels=np.arange(p.shape[1])),
    "calibration_error": by_bins,
}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
@pytest.mark.parametrize("n_classes", [2, 4])
def test_metrics_under_weights_are_scikit_learns_of_the_rows_as_often(n_classes, metric):
    random = np.random.default_rng(0)
    y = random.permutation(np.repeat(np.arange(n_classes), [60, 20] if n_classes == 2 else 20))
    probabilities = random.dirichlet(np.ones(n_classes), 80).round(1) + 1e-3  # with ties
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    probabilities[0] = np.eye(n_classes)[1 - y[0]]  # sure, and wrong
    weights = random.multinomial(80, np.full(80, 1 / 80), 20)
    weights[3, y == n_classes - 1] = 0
    found = figures_of([metric], WeightedRows(y, probabilities, weights.astype(float)))[metric.name]
    for draw, counts in enumerate(weights):
        rows = np.repeat(np.arange(80), counts)
        present, expected = np.unique(y[rows]), np.nan
        if len(present) > 1 or metric.name not in ("roc_auc", "average_precision"):
            expected = ELSEWHERE[metric.name](y[rows], probabilities[rows])
        assert found[draw] == pytest.approx(expected, abs=1e-9, nan_ok=True), draw
        assert evaluate(y[rows], probabilities[rows])[metric.name] == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_every_metric_is_in_what_compare_writes_on_the_page_and_in_a_readme(hostile_run):
    names = [metric.name for metric in METRICS]
    heads = json.loads((hostile_run / "compare.json").read_text(encoding="utf-8"))["heads"]
    with open(hostile_run / "compare.csv", newline="", encoding="utf-8") as file:
        header = next(csv.reader(file))
    assert all(set(names) < set(head) for head in heads) and set(names) < set(header)
    assert set(heads[0]["intervals"]) == {metric.name for metric in METRICS if metric.interval}
    table = (hostile_run / "compare.md").read_text(encoding="utf-8").splitlines()[0]
    assert all(metric.title in table for metric in METRICS if metric.in_table)
    assert [column[0] for column in leaderboard(heads, ACCURACY)["columns"]][: len(names)] == names
    pages = [ROOT / name for name in ("README.md", "pipeline/README.md")]
    text = "".join(page.read_text(encoding="utf-8") for page in pages if page.exists())
    assert [name for name in names if name not in text] == []
    listed = re.findall(r"^\| `(\w+)` \|.*\| (higher|lower) \|$", text, re.M)  # where there is a list of them
    assert listed in ([], [(metric.name, "higher" if metric.greater_is_better else "lower") for metric in METRICS])


def test_a_leaderboard_of_an_earlier_run_shows_the_metrics_of_its_time(hostile_run):
    heads = json.loads((hostile_run / "compare.json").read_text(encoding="utf-8"))["heads"]
    earlier = [{name: value for name, value in head.items() if name != "macro_f1"} for head in heads]
    shown = [column[0] for column in leaderboard(earlier, ACCURACY)["columns"]]
    assert "macro_f1" not in shown and {"roc_auc", "log_loss"} < set(shown)


def test_intervals_cover():
    """Of 300 simulated test sets of a classifier whose accuracy and area are known."""
    random, inside = np.random.default_rng(1), {"accuracy": 0, "roc_auc": 0}
    known = {"accuracy": stats.norm.cdf(1), "roc_auc": stats.norm.cdf(np.sqrt(2))}
    for _ in range(300):
        y = random.integers(0, 2, 200)
        p = stats.norm.cdf(random.normal(2 * y - 1.0, 1))  # right where the score is on its side of zero
        found = intervals_of(y, np.column_stack([1 - p, p]))
        for name, (low, high) in ((name, found[name]) for name in inside):
            inside[name] += low <= known[name] <= high
    assert all(0.9 <= count / 300 <= 0.98 for count in inside.values()), inside


def test_intervals_of_a_head_without_mistakes():
    y = np.tile([0, 1], 50)
    found = intervals_of(y, np.eye(2)[y] * 0.8 + 0.1)
    assert found.pop("accuracy") == pytest.approx((0.9555879, 1), abs=1e-7)  # of 100 of 100, by statsmodels 0.15.0
    assert len(found) > 3 and np.isnan(list(found.values())).all()  # no draw of rows tells how much they vary


def test_without_mistakes_a_grouped_interval_is_of_as_many_rows_as_there_are_groups():
    y, groups = np.tile([0, 1], 50), np.arange(100) // 10
    low, high = intervals_of(y, np.eye(2)[y] * 0.8 + 0.1, groups)["accuracy"]
    rows = 10 * (1.959964 / 2.262157) ** 2  # t(0.975, 9) = 2.262157 in place of the normal distribution's quantile
    assert (low, high) == pytest.approx(agresti_coull(1.0, rows), abs=1e-6)


def test_intervals_of_one_class_are_nan_where_two_are_needed():
    found = intervals_of(np.ones(9, int), np.tile([0.2, 0.8], (9, 1)))
    assert found["accuracy"][0] < found["accuracy"][1] == 1 and np.isnan(found["roc_auc"]).all()


def test_a_head_has_the_same_interval_of_accuracy_in_train_head_and_compare(tiny_store, tmp_path):
    run = pipeline.train_head(tiny_store, "majority", out=tmp_path / "r")
    (head,) = pipeline.compare(tiny_store, ["majority"], out=tmp_path / "c").heads
    assert list(run.intervals["accuracy"]) == head["accuracy_interval"] == list(head["intervals"]["accuracy"])


def test_bootstrap_of_groups_covers_where_rows_of_a_group_are_alike():
    """Of 300 simulated test sets: 40 groups of five rows, all of which are right, or all wrong."""
    random, inside = np.random.default_rng(1), {"groups": 0, "rows": 0}
    groups = np.arange(200) // 5
    for _ in range(300):
        y, right = random.integers(0, 2, 200), np.repeat(random.random(40) < 0.8, 5)
        probabilities = np.eye(2)[np.where(right, y, 1 - y)]
        for name, given in (("groups", groups), ("rows", None)):
            low, high = bootstrap_intervals(y, probabilities, draws=300, units=given)["accuracy"]
            inside[name] += low <= 0.8 <= high
    assert 0.88 <= inside["groups"] / 300 <= 0.98 and inside["rows"] / 300 < 0.7, inside


def test_an_interval_of_two_groups_is_students_on_the_logit_scale():
    """By hand: half of the draws hold both groups, a quarter each one of them twice."""
    y, groups = np.tile([0, 1], 20), np.arange(40) // 20
    wrong = np.isin(np.arange(40), [0, 1, 20, 21, 22, 23, 24, 25])  # one of ten of each class, and three of ten
    p = np.where(wrong, 0.4, 0.8)  # of the true class
    found = intervals_of(y, np.where(np.eye(2)[y] == 1, p[:, None], 1 - p[:, None]), groups)
    t = 12.706205  # Student's t(0.975) of one degree of freedom
    of_group = np.array([0.9, 0.7])
    half = t * np.ptp(of_group) / 2 / (0.8 * 0.2)
    assert special.logit(found["balanced_accuracy"]) == pytest.approx(
        special.logit(0.8) + np.array([-half, half]), rel=0.1
    )
    losses = -of_group * np.log(0.8) - (1 - of_group) * np.log(0.4)
    loss, chance = losses.mean(), np.exp(-losses.mean())
    half = t * np.ptp(losses) / 2 / (1 - chance)
    assert special.logit(np.exp(-np.array(found["log_loss"]))) == pytest.approx(
        special.logit(chance) + np.array([half, -half]), rel=0.1
    )
    assert found["log_loss"][0] < loss < found["log_loss"][1]


def test_the_interval_of_a_ranking_is_less_the_bias_of_draws_that_hold_a_group_twice():
    """By hand: each group is ranked without a mistake, so the draws of one group twice, half of all, have the value 1."""
    y, groups = np.tile([0, 1], 20), np.arange(40) // 20
    p = 0.1 + 0.5 * (groups == 1) + 0.2 * y  # the second group is above the first, whatever the class
    low, high = intervals_of(y, np.column_stack([1 - p, p]), groups)["roc_auc"]
    value, drawn = 0.75, 1.0
    centre = value - ((value + drawn) / 2 - value)
    half = 12.706205 * np.sqrt(2) * (drawn - value) / 2 / (centre * (1 - centre))
    assert special.logit(low) == pytest.approx(special.logit(centre) - half, rel=0.1) and high == 1


@pytest.mark.parametrize(("n_classes", "rows"), [(2, 30), (5, 12), (40, 4)])
def test_many_classes_are_counted_and_ranked_as_few_are(monkeypatch, n_classes, rows):
    """Sums by class and by positive rows, against sorting; some scores are equal, and draws leave classes out."""
    random = np.random.default_rng(1)
    y = random.permutation(np.tile(np.arange(n_classes), rows))
    chances = np.round(random.dirichlet(np.ones(n_classes), len(y)), 2) + 0.3 * np.eye(n_classes)[y]
    weights = random.multinomial(len(y), np.full(len(y), 1 / len(y)), 200).astype(np.float64)
    found = []
    for few in (0, 10**6):
        monkeypatch.setattr("pipeline.evaluation.weighted_rows._FEW", few)
        found.append(figures_of(METRICS, WeightedRows(y, chances / chances.sum(axis=1, keepdims=True), weights)))
    for name, values in found[0].items():
        np.testing.assert_allclose(values, found[1][name], rtol=1e-12, err_msg=name)
