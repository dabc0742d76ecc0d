"""Paired tests and intervals by any metric, with and without groups, against values from elsewhere and by simulation."""

import itertools

import numpy as np
import pytest
from bench.intervals import grouped_coverage, grouped_rejection, metric_coverage
from scipy import stats
from sklearn.metrics import roc_auc_score

from pipeline.evaluation.held_out import HeldOut
from pipeline.evaluation.intervals import interval_of_mean, intervals_of
from pipeline.evaluation.metrics import find_metric
from pipeline.evaluation.paired_tests import delong_test, flip_test, p_value_of_split, swap_test
from pipeline.evaluation.significance import compare_pair, correction, effective_rows

AUC, ACCURACY, LOSS, F1 = (find_metric(name) for name in ("roc_auc", "accuracy", "log_loss", "macro_f1"))


def delong_of_the_paper(positive, one, other):
    """Return the p-value as DeLong, DeLong and Clarke-Pearson write it: sums over all pairs of a positive and a negative row."""
    ups, downs, components = np.flatnonzero(positive), np.flatnonzero(~positive), []
    for scores in (one, other):
        kernel = np.array([[(scores[u] > scores[d]) + 0.5 * (scores[u] == scores[d]) for d in downs] for u in ups])
        components.append((kernel.mean(), kernel.mean(axis=1), kernel.mean(axis=0)))
    (first, v10, v01), (second, w10, w01) = components
    s10, s01 = np.cov(v10, w10) / len(ups), np.cov(v01, w01) / len(downs)
    variance = (s10 + s01)[0, 0] + (s10 + s01)[1, 1] - 2 * (s10 + s01)[0, 1]
    return 2 * stats.norm.sf(abs(first - second) / np.sqrt(variance))


@pytest.mark.parametrize("seed", range(8))
def test_delongs_test_is_that_of_the_paper(seed):
    random = np.random.default_rng(seed)
    positive = random.random(60) < 0.3
    one = random.normal(positive, 1).round(1)  # with ties
    other = (0.5 * one + random.normal(positive, 1)).round(1)
    expected = delong_of_the_paper(positive, one, other)
    assert delong_test(positive, one, other) == pytest.approx(expected, rel=1e-10, abs=1e-12)
    p = [np.column_stack([-s, s]) for s in (one, other)]
    tested = HeldOut(positive.astype(int), np.arange(60), 240)
    assert p_value_of_split(AUC, tested, *p) == ("DeLong's test", delong_test(positive, one, other))


def test_where_delong_knows_no_variance_predictions_are_swapped():
    """One positive row; and heads that are always right and always wrong, so that all components differ by one."""
    scores = np.linspace(0.1, 0.9, 9)
    p = [np.column_stack([1 - s, s]) for s in (scores, scores[::-1])]
    for y in (np.arange(9) == 8, np.arange(9) > 4):
        name, p_value = p_value_of_split(AUC, HeldOut(y.astype(int), np.arange(9), 9), *p)
        assert name == "a permutation test" and 0 < p_value <= 1


def test_sign_flips_are_counted_exactly():
    random = np.random.default_rng(0)
    for _ in range(20):
        apart = random.integers(-4, 5, 9)
        flips = [abs(np.dot(signs, apart)) for signs in itertools.product((-1, 1), repeat=9)]
        assert flip_test(apart) == pytest.approx(np.mean(np.array(flips) >= abs(apart.sum())), abs=1e-12)
    assert flip_test(np.repeat([1, -1], (12, 2))) == pytest.approx(stats.binomtest(2, 14).pvalue)
    assert flip_test(np.zeros(5, int)) == 1


def test_swaps_of_losses_are_scipys_sign_flips_of_their_differences():
    random = np.random.default_rng(1)
    y, groups = random.integers(0, 2, 60), np.arange(60) // 6
    one, other = (random.dirichlet((1, 1), 60) * 0.9 + 0.05 for _ in range(2))
    other = 0.7 * other + 0.3 * np.eye(2)[y]
    losses = np.subtract(*(-np.log(p[np.arange(60), y]) for p in (one, other)))
    for units in (np.arange(60), groups):
        by_unit = np.bincount(units, losses)
        expected = stats.permutation_test(
            (by_unit,), np.sum, permutation_type="samples", n_resamples=20_000, random_state=np.random.default_rng(0)
        ).pvalue
        found = swap_test(LOSS, HeldOut(y, units, 240, True), one, other)
        assert found == pytest.approx(expected, abs=0.02)


def test_ranks_decide_about_areas_however_confident_a_head_is():
    random = np.random.default_rng(0)
    y = np.arange(60) % 3
    one, other = random.dirichlet(np.ones(3), (2, 60))
    one = 0.9 * one + 0.1 * np.eye(3)[y]
    unsure = 1 / 3 + (one - 1 / 3) / 50  # ranks the same
    rows = HeldOut(y, np.arange(60), 240)
    assert swap_test(AUC, rows, unsure, other) == swap_test(AUC, rows, one, other) < 0.05


def test_swaps_of_ranks_are_all_swaps_widened_by_a_degree_of_freedom():
    """All swaps of six groups, counted one by one with scikit-learn's area; ranks of a head have one mean whatever its groups are."""
    random = np.random.default_rng(4)
    groups = np.repeat(np.arange(6), 10)
    y = (random.random(60) < 0.4).astype(int)
    one, other = (random.normal(1.5 * y, 1) + random.normal(size=6)[groups] for _ in range(2))
    ranks = [stats.rankdata(each) for each in (one, other)]
    apart = []
    for kept in itertools.product((False, True), repeat=6):
        first, second = (np.where(np.array(kept)[groups], *pair) for pair in (ranks, ranks[::-1]))
        apart.append(roc_auc_score(y, first) - roc_auc_score(y, second))
    found = abs(roc_auc_score(y, one) - roc_auc_score(y, other))
    expected = np.mean(np.sqrt(6 / 5) * np.abs(apart) >= found - 1e-12)
    p = [np.column_stack([-each, each]) for each in (one, other)]
    assert 0.05 < expected < 0.95 and np.mean(np.abs(apart) >= found - 1e-12) < expected
    assert swap_test(AUC, HeldOut(y, groups, 24, True), *p) == pytest.approx(expected, abs=0.03)


def test_effective_rows_by_hand():
    """Four groups of two rows, all right or all wrong: without one, the share changes by a third of its distance from the mean."""
    right, groups, p = np.repeat([1, 1, 1, 0], 2).astype(bool), np.repeat(np.arange(4), 2), 0.75
    rows = p * (1 - p) / (3 / 4 * (3 * (1 - p) ** 2 + p**2) / 3**2)
    assert rows == pytest.approx(3)
    assert effective_rows(right, groups) == pytest.approx(rows * (1.959964 / 3.182446) ** 2, rel=1e-6)  # t(0.975, 3)
    assert effective_rows(right, np.arange(8)) == 8
    even = np.tile([1, 1, 1, 0, 1, 1, 0, 0], 4).astype(bool)  # of four rows of a group, three or two are right
    assert effective_rows(even, np.arange(32) // 4) == 32  # they differ less than rows do


def test_of_groups_the_correction_counts_groups():
    labels, split = np.zeros(50, int), np.repeat([0, 1, 2], (30, 10, 10))
    keys = [f"p{row // 2}" if row < 40 else f"t{row // 5}" for row in range(50)]
    assert HeldOut.of(labels, split, keys).n_units == 2 and HeldOut.of(labels, split, keys).n_learn == 20
    assert correction([HeldOut.of(labels, split, keys)] * 4) == pytest.approx(1 / 4 + 2 / 20)
    assert correction([HeldOut.of(labels, split)] * 4) == pytest.approx(1 / 4 + 10 / 40)


def test_on_one_split_a_difference_has_an_interval():
    """Agresti and Min's of matched pairs: half a row more in each cell. Of losses, that of a paired t; of two groups, t(0.975, 1)."""
    random, n, z = np.random.default_rng(0), 300, 1.959964
    y, one, other = random.integers(0, 2, (3, n))
    one[:240], other[:225], units = y[:240], y[:225], np.arange(n)
    b, c = np.sum((one == y) & (other != y)) + 0.5, np.sum((one != y) & (other == y)) + 0.5
    middle, half = (b - c) / (n + 2), z * np.sqrt(b + c - (b - c) ** 2 / (n + 2)) / (n + 2)
    found = compare_pair(ACCURACY, [HeldOut(y, units, n)], [np.eye(2)[one]], [np.eye(2)[other]])
    assert found.interval == pytest.approx((middle - half, middle + half), abs=0.003)
    chances = [np.where(np.eye(2)[y] > 0, p, 1 - p) for p in random.uniform(0.4, 0.9, (2, n, 1))]
    apart = -np.log(chances[1][units, y]) + np.log(chances[0][units, y])
    half = z * apart.std(ddof=1) / np.sqrt(n)
    found = compare_pair(LOSS, [HeldOut(y, units, n)], *([each] for each in chances))
    assert found.interval == pytest.approx((apart.mean() - half, apart.mean() + half), abs=0.15 * half)
    wide = compare_pair(ACCURACY, [HeldOut(y, units // 150, 9, True)], [np.eye(2)[one]], [np.eye(2)[other]])
    q = np.mean([np.sum(((one == y) * 1 - (other == y))[k : k + 150]) ** 2 for k in (0, 150)]) / 150**2
    assert wide.interval[1] - wide.behind == pytest.approx(12.7062 * np.sqrt((2 * q + 1) / 4 / 2), rel=1e-4)
    assert compare_pair(LOSS, [HeldOut(y, units, n)], [chances[0]], [chances[0]]).interval is None
    lone = HeldOut(y, np.zeros(n, int), 9, True)
    assert compare_pair(ACCURACY, [lone], [np.eye(2)[one]], [np.eye(2)[other]]).interval is None


@pytest.mark.parametrize("chances", [(0.05, 0.0), (0.05, 0.05), (0.2, 0.05)])
def test_an_interval_of_a_difference_on_one_split_covers(chances):
    """Two heads of which only the first, or only the second, is right on a row with these chances, 150 rows."""
    random, held, n = np.random.default_rng(0), 0, 150
    for _ in range(400):
        side = random.choice(3, n, p=[*chances, 1 - sum(chances)])
        heads = [[np.eye(2)[(side == other).astype(int)]] for other in (1, 0)]
        low, high = compare_pair(ACCURACY, [HeldOut(np.zeros(n, int), np.arange(n), n)], *heads).interval
        held += low <= chances[0] - chances[1] <= high
    assert held / 400 >= 0.93


def test_over_repeats_a_lower_loss_is_better_and_the_corrected_t_is_of_the_metric():
    """t(0.975, 2) = 4.302653; losses differ by 0.5 or so, of thousands of rows, so that no floor matters."""
    random, n = np.random.default_rng(0), 4000
    y = random.integers(0, 2, n)
    tested = [HeldOut(y, np.arange(n), 4 * n)] * 3
    chances = [[np.where(np.eye(2)[y] > 0, p, 1 - p) for p in each] for each in ((0.9, 0.8, 0.85), (0.5, 0.5, 0.55))]
    losses = -np.log([[0.9, 0.8, 0.85], [0.5, 0.5, 0.55]])
    found = compare_pair(LOSS, tested, *chances)
    behind = losses[1] - losses[0]
    assert found.behind == pytest.approx(behind.mean()) and found.behind > 0
    half = 4.302653 * behind.std(ddof=1) * np.sqrt(1 / 3 + 1 / 4)
    assert found.interval == pytest.approx((behind.mean() - half, behind.mean() + half), rel=1e-6)
    assert found.test == "the corrected resampled t-test" and found.p_value < 0.05
    ends = interval_of_mean(LOSS, losses[0], [(v - 1e-3, v + 1e-3) for v in losses[0]], tested, chances[0])
    half = 4.302653 * losses[0].std(ddof=1) * np.sqrt(1 / 3 + 1 / 4)
    assert ends == pytest.approx((losses[0].mean() - half, losses[0].mean() + half), rel=1e-6)


def test_an_interval_over_repeats_holds_the_shrunk_intervals_of_its_splits():
    y = np.arange(40) % 2
    tested, p = [HeldOut(y, np.arange(40), 160)] * 5, [np.eye(2)[y]] * 5
    ends = interval_of_mean(F1, [0.8] * 5, [(0.7, 0.86)] * 5, tested, p)
    assert ends == pytest.approx((0.8 - 0.1 * np.sqrt(0.45), 0.8 + 0.06 * np.sqrt(0.45)))
    assert interval_of_mean(F1, [1.0] * 5, [(np.nan, np.nan)] * 5, tested, p) is None
    assert interval_of_mean(F1, [0.8] * 2, [(0.7, 0.86)] * 2, tested[:2], p[:2]) is None


def test_a_single_group_says_nothing():
    y, same = np.arange(6) % 2, np.zeros(6, int)
    found = intervals_of(y, np.tile([0.4, 0.6], (6, 1)), same)
    assert found.pop("accuracy") == pytest.approx((0, 1), abs=1e-9) and np.isnan(list(found.values())).all()


def test_intervals_of_groups_cover_and_those_of_rows_fall_short():
    """The simulation of tests/bench/intervals.py, less often."""
    for seed, number in enumerate((5, 10, 40)):
        by_groups, by_rows = grouped_coverage(np.random.default_rng(seed), 0.85, number, 1.0, times=400)
        assert by_groups >= 0.92 and by_rows < 0.88, number
    by_groups, _ = grouped_coverage(np.random.default_rng(0), 0.85, 20, 1.0, repeats=5, times=100)
    assert by_groups >= 0.92


@pytest.mark.parametrize("metric", [ACCURACY, AUC, LOSS, F1], ids=lambda metric: metric.name)
def test_equal_heads_are_rarely_told_apart_by_groups(metric):
    found, _ = grouped_rejection(np.random.default_rng(2), metric, 12, 1.0, times=60 if metric is not ACCURACY else 300)
    assert found <= 0.08 if metric is not ACCURACY else found <= 0.06


def test_intervals_of_few_groups_cover():
    """Draws of two groups are no further away than the groups; by their quantiles alone, a third to a half is covered."""
    names = ("balanced_accuracy", "roc_auc", "log_loss")
    found = metric_coverage(np.random.default_rng(1), names, 0, 1, number=2, spread=1.0, times=60)
    assert all(share >= 0.85 for share in found.values()), found


def test_intervals_of_all_metrics_cover_over_repeats():
    found = metric_coverage(np.random.default_rng(0), ("roc_auc", "macro_f1", "log_loss"), 60, 3, times=25)
    assert all(share >= 0.92 for share in found.values()), found
