"""Whether a label budget comes true: the test figure of all training images, told from at most half of them.

    python tests/bench/budget.py --store cache/elpv.h5 [--group module] [--splits 20] [--repeats 1] [--head logistic]
    python tests/bench/budget.py --store cache/elpv.h5 --fixed [--kept elpv.npz]

Of each of some drawn splits, nested subsets of half of train and val are fitted, as `budget` does, and the accuracy at all of train
and val is told from them; then a head is fitted to all, and tested on the same test images. With more repeats, the mean over so many
splits is told, with the splits dealt out anew many times.

With --fixed, settings are chosen once, on the store's own split, so fits are quick: one fit is told from 5 and from 10 draws, and the
mean of five splits from 2 draws of each. The other half is fitted, too, to see how
alike the errors of fits are that share images: by half the mean squared difference of two fits, relative to two that share none.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from drawn_fits import DrawnFits

from features import FeatureStore
from features.runtime.progress import Progress
from features.splits import SPLITS, stratified_split
from pipeline.evaluation.metrics import find_metric
from pipeline.labelling.label_budget import DRAWS, DRAWS_OF_SPLIT, law_of
from pipeline.labelling.subsets import Subsets
from pipeline.training.fits.fit_cache import Fits
from pipeline.training.request import Request
from pipeline.training.splitting import LEFT_OUT, draw_splits, side_keys, with_groups

DEALS = 60  # of all splits to parts of several


def halves(rows, split, seed, group):
    """Return two splits, each with one half of train and val."""
    learn, keys = np.flatnonzero(split != SPLITS["test"]), side_keys(rows, group)
    chosen = stratified_split(rows.strata[learn], [keys[row] for row in learn], 0.5, seed)
    found = [split.copy(), split.copy()]
    for half, left in zip(found, (~chosen, chosen), strict=True):
        half[learn[left]] = LEFT_OUT
    return found


class Case:
    """Of one split, the subsets of a half, the accuracies of their fits, and that of a fit to all of train and val."""

    def __init__(self, rows, split, number, draws, group):
        self.split, (half, other) = split, halves(rows, split, 1000 + number, group)
        self.drawn = Subsets.of([replace(rows, splits=half)], draws, number * draws, group)
        self.other = Subsets.of([replace(rows, splits=other)], 1, number, group)
        self.images = int(np.sum(split != SPLITS["test"]))

    @property
    def fitted(self):
        """Splits to fit a head to: subsets, all of train and val, and subsets of the other half."""
        return [*self.drawn.splits, self.split, *self.other.splits]

    def take(self, values):
        """Take the accuracies of `fitted`, or without those of the other half."""
        values = np.array(values)
        n = len(self.drawn.splits)
        self.values, self.whole, self.others = values[:n], values[n], values[n + 1 :]

    def of(self, draws):
        """Return the places of the subsets of some draws."""
        number = np.cumsum(self.drawn.steps == 1) - 1
        return np.flatnonzero((self.drawn.steps == 0) | np.isin(number, draws))


def told(cases, draws):
    """Return (accuracy told, low, high, seen, half's own) of the mean over cases, from the given draws of each."""
    places = [case.of(each) for case, each in zip(cases, draws, strict=True)]
    steps, counts = (
        np.concatenate([getattr(case.drawn, name)[some] for case, some in zip(cases, places, strict=True)])
        for name in ("steps", "counts")
    )
    splits = [case.drawn.splits[each] for case, some in zip(cases, places, strict=True) for each in some]
    drawn = Subsets(splits, steps, counts, np.repeat(np.arange(len(cases)), [len(some) for some in places]))
    values = np.concatenate([case.values[some] for case, some in zip(cases, places, strict=True)])
    law = law_of(drawn, find_metric("accuracy"), values)
    value, low, high = (1 - each for each in law.at(round(np.mean([case.images for case in cases]))))
    return value, high, low, np.mean([case.whole for case in cases]), values[steps == 0].mean()


def tell(what, found, started):
    """Print how near to what was seen the told ones are."""
    value, low, high, seen, half = np.array(found).T
    print(
        f"{what}: of {len(found)} {np.mean(abs(value - seen) <= 0.01):.0%} within 1 point, mean distance "
        f"{100 * np.mean(abs(value - seen)):.2f} points (of half's own accuracy {100 * np.mean(abs(half - seen)):.2f}), "
        f"bias {100 * np.mean(value - seen):+.2f}; 90 % intervals hold {np.mean((low <= seen) & (seen <= high)):.0%}, "
        f"{100 * np.mean(high - low):.2f} points wide; {time.perf_counter() - started:.0f} s",
        flush=True,
    )


def tell_likeness(cases):
    """Print how much two fits to as many images of one split differ, that share none or a part of them."""
    for step in range(max(case.drawn.steps.max() for case in cases) + 1):
        apart, near, share = [], [], []
        for case in cases:
            own, other = (each.steps == step for each in (case.drawn, case.other))
            apart.append(np.mean((case.values[own][:, None] - case.others[other]) ** 2) / 2)
            near.append(case.values[own].var(ddof=1) if own.sum() > 1 else np.nan)
            share.append(case.drawn.counts[own].mean() / case.drawn.counts.max())
        print(
            f"  {np.mean(share):.2f} of the half: fits that share no image vary by {100 * np.sqrt(np.mean(apart)):.2f} points; "
            f"variance of those that share {np.mean(share):.2f} is {np.mean(near) / np.mean(apart):.2f} of that"
        )


def dealt(cases, size):
    """Yield cases in parts of a size, dealt anew `DEALS` times."""
    random = np.random.default_rng(0)
    for _ in range(DEALS):
        for some in random.permutation(len(cases))[: len(cases) // size * size].reshape(-1, size):
            yield [cases[number] for number in some]


def fixed(given, rows, cases):
    """Fit all cases with settings that are chosen once, or read what was kept, and tell of one fit and of the mean of five."""
    started, kept = time.perf_counter(), given.kept
    if kept is None or not kept.exists():
        fits, y = DrawnFits(given.store, given.head, given.group, given.splits), rows.labels
        values = [
            [
                np.mean(fits.fit(split, folds=False)[1].argmax(axis=1) == y[split == SPLITS["test"]])
                for split in case.fitted
            ]
            for case in cases
        ]
        print(f"{fits.settings}, {time.perf_counter() - started:.0f} s", flush=True)
        if kept is not None:
            np.savez(kept, **{str(number): each for number, each in enumerate(values)})
    else:
        values = list(np.load(kept).values())
    for case, each in zip(cases, values, strict=True):
        case.take(each)
    random = np.random.default_rng(0)
    for draws in (DRAWS, given.draws):
        tell(f"one fit, {draws} draws", [told([case], [range(draws)]) for case in cases], started)
    fives = [told(some, [random.permutation(given.draws)[:DRAWS_OF_SPLIT] for _ in some]) for some in dealt(cases, 5)]
    tell(f"mean of 5 splits, {DRAWS_OF_SPLIT} draws", fives, started)
    tell_likeness(cases)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--group")
    parser.add_argument("--head", default="logistic")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=1, help="splits whose mean is told")
    parser.add_argument("--draws", type=int)
    parser.add_argument("--fits", default=tempfile.mkdtemp(), help="folder of fits that are kept")
    parser.add_argument("--fixed", action="store_true", help="choose settings once")
    parser.add_argument("--kept", type=Path, help="file of accuracies with --fixed")
    given = parser.parse_args()
    started = time.perf_counter()
    given.draws = given.draws or (10 if given.fixed else DRAWS if given.repeats == 1 else DRAWS_OF_SPLIT)
    with FeatureStore(given.store) as store:
        asked = with_groups(store, Request(given.store, group=given.group), given.splits)
        rows = asked.rows(store)
        splits = draw_splits(rows, given.splits, 0, asked.group)
        cases = [Case(rows, split, number, given.draws, asked.group) for number, split in enumerate(splits)]
        if given.fixed:
            fixed(given, rows, cases)
            return
        for number, case in enumerate(cases):
            fits = Fits(store, rows, [*case.drawn.splits, case.split], Path(given.fits))
            case.take([each.test["accuracy"] for each in fits.of(given.head, asked, Progress(0, "fits"))])
            value, low, high, seen, half = told([case], [range(given.draws)])
            print(f"{number:3d}: {half:.4f}; told {value:.4f} [{low:.4f}, {high:.4f}], seen {seen:.4f}", flush=True)
    if given.repeats == 1:
        found = [told([case], [range(given.draws)]) for case in cases]
    else:
        found = [told(some, [range(given.draws)] * len(some)) for some in dealt(cases, given.repeats)]
    tell(given.store, found, started)


if __name__ == "__main__":
    main()
