"""How often intervals cover a metric's true value, and how often equal heads are told apart, by simulation.

Rows are right or wrong with a chance that is the accuracy, and splits are drawn from the same rows, a fifth to test. With
`steady` 1 a row is right in every split or in none; below, the share 1 - steady is drawn again for each split. Rows of a group
share a normal random effect on the log-odds, or on the score, of standard deviation `spread`; groups have six to 18 rows.

    python tests/bench/intervals.py [--times 1000] [shares groups pairs few_groups metrics slices]
"""

import argparse
import itertools

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import binom

from pipeline.evaluation.held_out import HeldOut
from pipeline.evaluation.intervals import interval_of_mean, intervals_of
from pipeline.evaluation.metrics import evaluate, find_metric
from pipeline.evaluation.significance import (
    accuracy_interval,
    agresti_coull,
    compare_pair,
    correction,
    effective_rows,
    share_interval,
)
from pipeline.evaluation.slices import find_slices

LEARN = 4  # rows to learn from, per test row
ACCURACY = find_metric("accuracy")
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(60)


def draw(random, of, n_test, repeats, steady):
    """Return the outcomes of the test rows of each split, (repeats, n_test); `of(shape)` draws outcomes of rows."""
    n = (1 + LEARN) * n_test
    always = of(n)
    tests = np.stack([random.permutation(n)[:n_test] for _ in range(repeats)])
    return np.where(random.random(tests.shape) < steady, always[tests], of(tests.shape))


def coverage(random, accuracy, n_test, repeats, steady=1.0, times=1000):
    """Return the share of comparisons whose interval holds the accuracy: of one split exactly, of several by simulation."""
    if repeats == 1:
        return float(exact_coverage([accuracy], n_test)[0])
    covered = 0
    for _ in range(times):
        right = draw(random, lambda shape: random.random(shape) < accuracy, n_test, repeats, steady)
        low, high = accuracy_interval(list(right.mean(axis=1)), LEARN * n_test, n_test)
        covered += low <= accuracy <= high
    return covered / times


def exact_coverage(accuracies, n_test):
    """Return the chance that the interval of one split holds each accuracy, by summing over all numbers of right rows."""
    right = np.arange(n_test + 1)
    low, high = np.transpose([accuracy_interval([share], LEARN * n_test, n_test) for share in right / n_test])
    return np.array([binom.pmf(right, n_test, each)[(low <= each) & (each <= high)].sum() for each in accuracies])


def rejection(random, discordant, n_test, repeats, steady=1.0, times=1000):
    """Return the share with p below 0.05 for equal heads, exactly one of which is right on the share `discordant`."""

    def of(shape):  # 0: both right; 1 and 2: the one, the other
        return np.where(random.random(shape) < discordant, random.integers(1, 3, shape), 0)

    tested = [HeldOut(np.zeros(n_test, int), np.arange(n_test), LEARN * n_test)] * repeats
    rejected = 0
    for _ in range(times):
        outcomes = draw(random, of, n_test, repeats, steady)
        rejected += compare_pair(ACCURACY, tested, of_right(outcomes != 2), of_right(outcomes != 1)).p_value < 0.05
    return rejected / times


def of_right(right):
    """Return probabilities of the classes of rows of class 0 that are right or wrong."""
    return np.stack([right, ~right], axis=-1).astype(float)


def groups_of(random, number):
    """Return the group of each row."""
    return np.repeat(np.arange(number), random.integers(6, 19, number))


def splits_of_groups(random, number, repeats):
    """Return masks of the groups that test: a fifth of them, or all for one split, whose training rows are others."""
    if repeats == 1:
        return [np.ones(number, bool)]
    return [random.permutation(number) < number // (1 + LEARN) for _ in range(repeats)]


def grouped_coverage(random, accuracy, number, spread, repeats=1, times=1000):
    """Return the shares of intervals that hold the accuracy: by groups, and by rows alone.

    One split tests `number` groups; several each test a fifth of five times as many.
    """
    centre = brentq(lambda mu: _WEIGHTS @ expit(mu + spread * _NODES) / _WEIGHTS.sum() - accuracy, -20, 30)
    total = number if repeats == 1 else (1 + LEARN) * number
    covered = np.zeros(2)
    for _ in range(times):
        groups = groups_of(random, total)
        right = random.random(len(groups)) < expit(centre + spread * random.normal(size=total))[groups]
        tests = [chosen[groups] for chosen in splits_of_groups(random, total, repeats)]
        shares = [float(right[test].mean()) for test in tests]
        if repeats == 1:
            found = [agresti_coull(shares[0], rows) for rows in (effective_rows(right, groups), len(right))]
        else:
            keys = [str(group) for group in groups]
            split = [np.where(test, 2, 0) for test in tests]
            by = [[HeldOut.of(right, each, given) for each in split] for given in (keys, None)]
            rows = [np.mean([effective_rows(t.y, t.units) for t in those]) for those in by]
            found = [share_interval(shares, n, correction(those)) for n, those in zip(rows, by, strict=True)]
        covered += [low <= accuracy <= high for low, high in found]
    return covered / times


def scores(random, y, groups, spread, alike, common):
    """Return probabilities of a head: its scores share `common` with another head's, and groups have effects on them."""
    own = spread * random.normal(size=groups.max() + 1)[groups] + random.normal(size=len(y))
    score = 2 * y - 1 + np.sqrt(alike) * common + np.sqrt(1 - alike) * own
    chances = expit(1.4 * score + np.log(y.mean() / (1 - y.mean())))
    return np.column_stack([1 - chances, chances])


def grouped_rejection(random, metric, number, spread, share=0.3, alike=0.8, repeats=1, times=1000):
    """Return the shares with p below 0.05 for equally good heads: by groups, and by rows alone."""
    total = number if repeats == 1 else (1 + LEARN) * number
    rejected = np.zeros(2)
    for _ in range(times):
        groups = groups_of(random, total)
        y = (random.random(len(groups)) < share).astype(int)
        common = spread * random.normal(size=total)[groups] + random.normal(size=len(y))
        heads = [scores(random, y, groups, spread, alike, common) for _ in range(2)]
        split = [np.where(chosen[groups], 2, 0) for chosen in splits_of_groups(random, total, repeats)]
        pairs = [[head[each == 2] for each in split] for head in heads]
        for place, keys in enumerate(([str(group) for group in groups], None)):
            tested = [HeldOut.of(y, each, keys) for each in split]
            rejected[place] += compare_pair(metric, tested, *pairs).p_value < 0.05
    return rejected / times


def metric_coverage(random, names, n_test, repeats, share=0.3, number=None, spread=0.0, times=1000):
    """Return name → share of intervals that hold the metric's value in the population; `number` groups, or single rows.

    The rows of all splits are fixed, as are their scores.
    """

    def population(groups):
        y = (random.random(len(groups)) < share).astype(int)
        common = spread * random.normal(size=groups.max() + 1)[groups] + random.normal(size=len(y))
        return y, scores(random, y, groups, 0.0, 1.0, common)

    truth = np.mean(
        [[evaluate(*population(groups_of(random, 20_000)))[name] for name in names] for _ in range(5)], axis=0
    )
    covered = np.zeros(len(names))
    for _ in range(times):
        total = (number or n_test) * (1 if repeats == 1 else 1 + LEARN)
        groups = groups_of(random, total) if number else np.arange(total)
        y, p = population(groups)
        split = [np.where(chosen[groups], 2, 0) for chosen in splits_of_groups(random, total, repeats)]
        keys = [str(group) for group in groups] if number else None
        tested = [HeldOut.of(y, each, keys) for each in split]
        pairs = [(y[each == 2], p[each == 2]) for each in split]
        own = [intervals_of(*pair, each.units) for pair, each in zip(pairs, tested, strict=True)]
        for place, name in enumerate(names):
            ends = interval_of_mean(
                find_metric(name),
                [evaluate(*pair)[name] for pair in pairs],
                [each[name] for each in own],
                tested,
                [probabilities for _, probabilities in pairs],
            )
            covered[place] += ends is not None and ends[0] <= truth[place] <= ends[1]
    return dict(zip(names, covered / times, strict=True))


def slice_rejection(random, names, number, spread, reach, share=0.3, times=1000):
    """Return name → share with p below 0.05 of slices that are like the rest; they have rows of the share `reach` of the groups."""
    rejected, defined = np.zeros(len(names)), np.zeros(len(names))
    for _ in range(times):
        groups = groups_of(random, number)
        y = (random.random(len(groups)) < share).astype(int)
        common = spread * random.normal(size=number)[groups] + random.normal(size=len(y))
        p = scores(random, y, groups, spread, 1.0, common)
        chances = random.beta(1, 2, number) if reach == 1 else np.where(np.arange(number) < reach * number, 0.5, 0.0)
        inside = random.random(len(groups)) < chances[groups]
        tested = HeldOut(y, groups, LEARN * number, True)
        for place, name in enumerate(names):
            found = find_slices(find_metric(name), tested, p, {"side": np.where(inside, "in", "out").tolist()}).slices
            values = [each.p_value for each in found if each.p_value is not None]
            defined[place] += bool(values)
            rejected[place] += bool(values) and values[0] < 0.05
    return dict(zip(names, rejected / np.maximum(defined, 1), strict=True))


def shares(random, times):
    """Print coverage of accuracies and rejection of equal heads, without groups."""
    print("repeats  test rows  steady  accuracy: coverage                   discordant: rejected")
    for repeats, n_test, steady in itertools.product((1, 3, 5, 10), (50, 200, 2000), (1.0, 0.5)):
        covered = {p: coverage(random, p, n_test, repeats, steady, times) for p in (0.5, 0.85, 0.95, 0.995)}
        rejected = {q: rejection(random, q, n_test, repeats, steady, times) for q in (0.02, 0.1, 0.4)}
        told = ["  ".join(f"{name}: {share:.3f}" for name, share in each.items()) for each in (covered, rejected)]
        print(f"{repeats:7}  {n_test:9}  {steady:6}  {told[0]}  {told[1]}", flush=True)
    for n_test in (50, 100, 200, 500, 2000):
        found = exact_coverage(fine := np.linspace(0.5, 0.995, 1000), n_test)
        told = f"{found.min():.3f} at {fine[found.argmin()]:.4f}, below 0.92 at {np.mean(found < 0.92):.3f} of them"
        print(f"one split of {n_test} rows, 1,000 accuracies from 0.5 to 0.995: at least {told}", flush=True)


def groups(random, times):
    """Print coverage of accuracies of rows in groups."""
    print("repeats  test groups  spread  accuracy: coverage by groups, by rows")
    for repeats, number, spread in itertools.product((1, 3, 5, 10), (5, 10, 20, 50, 100), (0.5, 1.0, 2.0)):
        found = {
            p: grouped_coverage(random, p, number, spread, repeats, times if repeats == 1 else times // 4)
            for p in (0.5, 0.85, 0.95, 0.995)
        }
        told = "  ".join(f"{p}: {by[0]:.3f}, {by[1]:.3f}" for p, by in found.items())
        print(f"{repeats:7}  {number:11}  {spread:6}  {told}", flush=True)


def pairs(random, times):
    """Print rejection of equal heads on rows in groups."""
    print("repeats  test groups  spread  alike  metric: rejected by groups, by rows")
    names = ("accuracy", "macro_f1", "mcc", "roc_auc", "average_precision", "log_loss")
    for repeats, number, (spread, alike) in itertools.product((1, 5), (6, 12, 40), ((1.0, 0.8), (0.5, 0.97))):
        found = {
            name: grouped_rejection(
                random, find_metric(name), number, spread, alike=alike, repeats=repeats, times=times // 4
            )
            for name in names
        }
        told = "  ".join(f"{name}: {by[0]:.3f}, {by[1]:.3f}" for name, by in found.items())
        print(f"{repeats:7}  {number:11}  {spread:6}  {alike:5}  {told}", flush=True)


def few_groups(random, times):
    """Print rejection of equal heads by metrics of the rows' order on few groups, whose effects are as large as the rows' own."""
    print("test groups  metric: rejected by groups, by rows")
    for number, name in itertools.product((6, 12), ("roc_auc", "average_precision")):
        found = grouped_rejection(random, find_metric(name), number, 1.0, times=times)
        print(f"{number:11}  {name}: {found[0]:.4f}, {found[1]:.4f}", flush=True)


def metrics(random, times):
    """Print coverage of every metric that has an interval."""
    print("repeats  test rows or groups  metric: coverage")
    names = ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "average_precision", "mcc", "log_loss")
    sizes = (100, None), (400, None), (0, 5), (0, 8), (0, 12), (0, 20), (0, 40)
    for repeats, (n_test, number) in itertools.product((1, 3, 5), sizes):
        found = metric_coverage(
            random, names, n_test, repeats, number=number, spread=1.0 if number else 0.0, times=times // 4
        )
        told = "  ".join(f"{name}: {share:.3f}" for name, share in found.items())
        print(f"{repeats:7}  {f'{number} groups' if number else f'{n_test} rows':19}  {told}", flush=True)


def slices(random, times):
    """Print how often slices that are like the rest are told apart, where groups have rows on both sides."""
    print("test groups  of them in the slice  metric: rejected")
    for number, reach in ((6, 1), (12, 1), (12, 0.3), (20, 0.2)):
        found = slice_rejection(random, ("accuracy", "macro_f1", "log_loss"), number, 1.0, reach, times=times // 4)
        told = "  ".join(f"{name}: {rate:.3f}" for name, rate in found.items())
        print(f"{number:11}  {reach:20}  {told}", flush=True)


PARTS = {each.__name__: each for each in (shares, groups, pairs, few_groups, metrics, slices)}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=1000)
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    options = parser.parse_args()
    for part in options.parts:
        PARTS[part](np.random.default_rng(0), options.times)
