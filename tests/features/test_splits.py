"""Splits and folds of whole units: stratified, the same every time, and without units those of earlier versions."""

import hashlib
import warnings

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from features.splits import join_keys, stratified_folds, stratified_split

FRACTIONS = (0, 0.01, 0.2, 0.25, 0.5, 0.8, 0.97, 1)


def grouped(seed):
    """Return classes and groups of a made-up source: groups of many sizes, most of them mainly of one class."""
    random = np.random.default_rng(seed)
    classes, number = random.integers(2, 5), random.integers(15, 80)
    shares = random.dirichlet(np.full(classes, random.choice([0.3, 1, 5])), number)
    groups = np.repeat(np.arange(number), random.geometric(1 / random.integers(3, 30), number))
    return np.array([random.choice(classes, p=shares[group]) for group in groups]), groups


def by_rank(strata, keys, seed):
    """Yield the rows of each stratum in the order of the SHA-256 of seed and key."""
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum).tolist()
        yield sorted(rows, key=lambda row: hashlib.sha256(f"{seed}:{keys[row]}".encode()).hexdigest())


@pytest.mark.parametrize("seed", range(40))
def test_single_rows_are_split_and_dealt_as_in_version_0_1(seed):
    random = np.random.default_rng(seed)
    strata = random.integers(0, random.integers(1, 8), random.integers(1, 200))
    keys = [f"{number}.png" for number in range(len(strata))]
    for fraction in FRACTIONS:
        chosen = np.zeros(len(strata), bool)
        for rows in by_rank(strata, keys, seed):
            chosen[rows[: min(max(1, round(fraction * len(rows))), len(rows) - 1)]] = True
        np.testing.assert_array_equal(stratified_split(strata, keys, fraction, seed), chosen)
    for times in (2, 5):
        folds = np.empty(len(strata), int)
        in_order = [row for rows in by_rank(strata, keys, seed) for row in rows]
        folds[in_order] = np.arange(len(strata)) % times
        np.testing.assert_array_equal(stratified_folds(strata, keys, times, seed), folds)


@pytest.mark.parametrize("seed", range(40))
def test_units_stay_whole_and_every_class_is_on_every_side(seed):
    strata, groups = grouped(seed)
    keys = list(map(str, groups))
    folds, test = stratified_folds(strata, keys, 5, seed), stratified_split(strata, keys, 0.25, seed)
    rest = np.flatnonzero(~test)
    sides = np.where(test, 2, 0)
    sides[rest[stratified_split(strata[rest], [keys[row] for row in rest], 0.2, seed)]] = 1
    for group in np.unique(groups):
        assert len(set(folds[groups == group])) == len(set(sides[groups == group])) == 1
    for stratum in np.unique(strata):
        own = strata == stratum
        numbers = len(set(groups[own]))
        assert set(sides[own]) == {0, 1, 2} or numbers < 3
        assert len(set(folds[own])) > 1 or numbers < 2
    np.testing.assert_array_equal(folds, stratified_folds(strata, keys, 5, seed))
    np.testing.assert_array_equal(test, stratified_split(strata, keys, 0.25, seed))
    shuffled = np.random.default_rng(seed).permutation(len(keys))
    again = stratified_split(strata[shuffled], [keys[row] for row in shuffled], 0.25, seed)
    np.testing.assert_array_equal(again, test[shuffled])
    assert (stratified_split(strata, keys, 0.25, seed + 1) != test).any()


def worst(strata, sides, number):
    """Return the largest distance of a class's share on a side from what all sides should have."""
    counts = np.array([np.bincount(sides[strata == stratum], minlength=number) for stratum in np.unique(strata)])
    return np.abs(counts / counts.sum(axis=1, keepdims=True) - 1 / number).max()


@pytest.mark.parametrize("seed", range(40))
def test_folds_of_groups_are_as_balanced_as_those_of_scikit_learn(seed):
    strata, groups = grouped(seed)
    theirs = np.empty(len(strata), int)
    with warnings.catch_warnings(action="ignore"):  # a class of fewer rows than folds
        for fold, (_, look) in enumerate(StratifiedGroupKFold(5).split(strata, strata, groups)):
            theirs[look] = fold
    ours = stratified_folds(strata, list(map(str, groups)), 5, seed)
    assert worst(strata, ours, 5) <= 1.5 * worst(strata, theirs, 5)


def test_test_rows_of_groups_are_as_balanced_as_a_fold_of_scikit_learn():
    """Of four; on average, since a single fold of theirs may fit by chance."""
    ours, theirs = [], []
    for seed in range(40):
        strata, groups = grouped(seed)
        with warnings.catch_warnings(action="ignore"):
            _, look = next(StratifiedGroupKFold(4).split(strata, strata, groups))
        theirs.append(share_apart(strata, np.isin(np.arange(len(strata)), look)))
        ours.append(share_apart(strata, stratified_split(strata, list(map(str, groups)), 0.25, seed)))
    assert np.mean(ours) <= np.mean(theirs)


def share_apart(strata, chosen):
    """Return the largest distance of a class's chosen share from a quarter."""
    return max(abs(chosen[strata == stratum].mean() - 0.25) for stratum in np.unique(strata))


def test_copies_in_two_strata_stay_together():
    strata, keys = np.tile([0, 1], 40), [str(row // 2) for row in range(80)]
    folds, chosen = stratified_folds(strata, keys, 5, seed=3), stratified_split(strata, keys, 0.25, seed=3)
    assert (folds[::2] == folds[1::2]).all() and (chosen[::2] == chosen[1::2]).all()
    assert np.bincount(folds).tolist() == [16] * 5 and chosen.sum() == 20


def test_a_class_of_three_groups_is_on_three_sides_whatever_their_sizes():
    strata, keys = np.zeros(100, int), ["large"] * 80 + ["a"] * 10 + ["b"] * 10
    for seed in range(10):
        test = stratified_split(strata, keys, 0.25, seed)
        rest = np.flatnonzero(~test)
        val = stratified_split(strata[rest], [keys[row] for row in rest], 0.2, seed)
        assert test.any() and val.any() and not val.all()


def test_rows_that_share_any_key_directly_or_not_have_one_key():
    groups = ["b", "b", "c", "a", "d", "e"]
    contents = [b"1", b"2", b"2", b"3", b"4", b"3"]
    assert join_keys(groups, contents) == ["b", "b", "b", "a", "d", "a"]
    assert join_keys(groups) == groups and join_keys(contents, groups)[:3] == [b"1"] * 3
    assert join_keys([], []) == []
