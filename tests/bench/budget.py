"""Whether a label budget comes true: the test figure of all training images, told from at most half of them.

    python tests/bench/budget.py --store cache/elpv.h5 [--group module] [--splits 20] [--repeats 1] [--head logistic]

Of each of some drawn splits, nested subsets of half of train and val are fitted, as `budget` does, and the accuracy at all of train
and val is told from them; then a head is fitted to all, and tested on the same test images. With more repeats, the mean over so many
splits is told each time.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from features import FeatureStore
from features.runtime.progress import Progress
from features.splits import SPLITS, stratified_split
from pipeline.evaluation.metrics import find_metric
from pipeline.labelling.label_budget import DRAWS, DRAWS_OF_SPLIT, law_of
from pipeline.labelling.subsets import Subsets
from pipeline.training.fits.fit_cache import Fits
from pipeline.training.request import Request
from pipeline.training.splitting import LEFT_OUT, draw_splits, side_keys, with_groups


def halved(rows, split, seed, group):
    """Return a split without half of train and val."""
    learn, keys, half = np.flatnonzero(split != SPLITS["test"]), side_keys(rows, group), split.copy()
    chosen = stratified_split(rows.strata[learn], [keys[row] for row in learn], 0.5, seed)
    half[learn[~chosen]] = LEFT_OUT
    return half


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--group")
    parser.add_argument("--head", default="logistic")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=1, help="splits whose mean is told")
    parser.add_argument("--draws", type=int)
    parser.add_argument("--fits", default=tempfile.mkdtemp(), help="folder of fits that are kept")
    given = parser.parse_args()
    metric, found, started = find_metric("accuracy"), [], time.perf_counter()
    draws = given.draws or (DRAWS if given.repeats == 1 else DRAWS_OF_SPLIT)
    with FeatureStore(given.store) as store:
        asked = with_groups(store, Request(given.store, group=given.group), given.splits)
        rows = asked.rows(store)
        splits = draw_splits(rows, given.splits, 0, asked.group)
        for number in range(0, given.splits - given.repeats + 1, given.repeats):
            some = splits[number : number + given.repeats]
            halves = [halved(rows, split, 1000 + number + place, asked.group) for place, split in enumerate(some)]
            drawn = Subsets.of([replace(rows, splits=half) for half in halves], draws, number, asked.group)
            fits = Fits(store, rows, [*drawn.splits, *some], Path(given.fits))
            results = fits.of(given.head, asked, Progress(0, "fits"))
            few, whole = results[: len(drawn.splits)], results[len(drawn.splits) :]
            law = law_of(drawn, metric, np.array([each.test["accuracy"] for each in few]))
            images = round(np.mean([np.sum(split != SPLITS["test"]) for split in some]))
            value, low, high = (1 - each for each in law.at(images))
            half = np.mean([few[place].test["accuracy"] for place in np.flatnonzero(drawn.steps == 0)])
            found.append((value, high, low, np.mean([each.test["accuracy"] for each in whole]), half))
            print(
                f"{number:3d}: {drawn.images} images {half:.4f}; {images} told {value:.4f} [{high:.4f}, {low:.4f}], "
                f"seen {found[-1][3]:.4f}",
                flush=True,
            )
    value, low, high, seen, half = np.array(found).T
    print(
        f"{given.store}: of {len(found)} draws {np.mean(abs(value - seen) <= 0.01):.0%} within 1 point, mean distance "
        f"{100 * np.mean(abs(value - seen)):.2f} points (of half's own accuracy {100 * np.mean(abs(half - seen)):.2f}), "
        f"bias {100 * np.mean(value - seen):+.2f}; 90 % intervals hold {np.mean((low <= seen) & (seen <= high)):.0%}, "
        f"{100 * np.mean(high - low):.2f} points wide; {time.perf_counter() - started:.0f} s"
    )


if __name__ == "__main__":
    main()
