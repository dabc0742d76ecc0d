"""How often intervals over drawn splits cover the accuracy, and how often equal heads are told apart, by simulation.

Rows are right or wrong with a chance that is the accuracy, and splits are drawn from the same rows, a fifth to test. With
`steady` 1 a row is right in every split or in none; below, the share 1 - steady is drawn again for each split.

    python tests/bench/intervals.py [--times 1000]
"""

import argparse
import itertools

import numpy as np

from pipeline.evaluation.significance import accuracy_interval, paired_test

LEARN = 4  # rows to learn from, per test row


def draw(random, of, n_test, repeats, steady):
    """Return the outcomes of the test rows of each split, (repeats, n_test); `of(shape)` draws outcomes of rows."""
    n = (1 + LEARN) * n_test
    always = of(n)
    tests = np.stack([random.permutation(n)[:n_test] for _ in range(repeats)])
    return np.where(random.random(tests.shape) < steady, always[tests], of(tests.shape))


def coverage(random, accuracy, n_test, repeats, steady=1.0, times=1000):
    """Return the share of simulated comparisons whose interval holds the accuracy."""
    covered = 0
    for _ in range(times):
        right = draw(random, lambda shape: random.random(shape) < accuracy, n_test, repeats, steady)
        low, high = accuracy_interval(list(right.mean(axis=1)), LEARN * n_test, n_test)
        covered += low <= accuracy <= high
    return covered / times


def rejection(random, discordant, n_test, repeats, steady=1.0, times=1000):
    """Return the share with p below 0.05 for equal heads, exactly one of which is right on the share `discordant`."""

    def of(shape):  # 0: both right; 1 and 2: the one, the other
        return np.where(random.random(shape) < discordant, random.integers(1, 3, shape), 0)

    rejected = 0
    for _ in range(times):
        outcomes = draw(random, of, n_test, repeats, steady)
        rejected += paired_test(outcomes != 2, outcomes != 1, LEARN * n_test) < 0.05
    return rejected / times


def main(times):
    """Print a table of both."""
    random = np.random.default_rng(0)
    print("repeats  test rows  steady  accuracy: coverage                   discordant: rejected")
    for repeats, n_test, steady in itertools.product((3, 5, 10), (50, 200, 2000), (1.0, 0.5)):
        covered = {p: coverage(random, p, n_test, repeats, steady, times) for p in (0.5, 0.85, 0.95, 0.995)}
        rejected = {q: rejection(random, q, n_test, repeats, steady, times) for q in (0.02, 0.1, 0.4)}
        told = ["  ".join(f"{name}: {share:.3f}" for name, share in each.items()) for each in (covered, rejected)]
        print(f"{repeats:7}  {n_test:9}  {steady:6}  {told[0]}  {told[1]}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=1000)
    main(parser.parse_args().times)
