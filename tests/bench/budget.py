"""Whether a label budget comes true: the test figure of all training images, told from at most half of them.

    python tests/bench/budget.py --store cache/elpv.h5 [--group module] [--splits 20] [--head logistic]

Of each of some drawn splits, nested subsets of half of train and val are fitted, as `budget` does, and the accuracy at all of train
and val is told from them; then a head is fitted to all, and tested on the same test images.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from features import FeatureStore
from features.runtime.progress import Progress
from features.splits import SPLITS, stratified_split
from pipeline.evaluation.metrics import find_metric
from pipeline.labelling.label_budget import DRAWS, _head, draw_subsets
from pipeline.labelling.power_law import PowerLaw
from pipeline.training.fits.fit_cache import Fits
from pipeline.training.request import Request
from pipeline.training.splitting import LEFT_OUT, draw_splits, side_keys, with_groups


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--group")
    parser.add_argument("--head", default="logistic")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--fits", default=tempfile.mkdtemp(), help="folder of fits that are kept")
    given = parser.parse_args()
    metric, found, started = find_metric("accuracy"), [], time.perf_counter()
    with FeatureStore(given.store) as store:
        asked = with_groups(store, Request(given.store, group=given.group), given.splits)
        rows = asked.rows(store)
        for number, split in enumerate(draw_splits(rows, given.splits, 0, asked.group)):
            learn = np.flatnonzero(split != SPLITS["test"])
            keys = side_keys(rows, asked.group)
            half = split.copy()
            chosen = stratified_split(rows.strata[learn], [keys[row] for row in learn], 0.5, 1000 + number)
            half[learn[~chosen]] = LEFT_OUT
            held = type(rows)(**{**vars(rows), "splits": half})
            steps, subsets = draw_subsets(held, given.draws, number, asked.group)
            fits = Fits(store, rows, [*subsets, split], Path(given.fits))
            *few, all_ = fits.of(given.head, asked, Progress(0, "fits"))
            counts = [int(np.isin(each, (SPLITS["train"], SPLITS["val"])).sum()) for each in subsets]
            told = _head(given.head, steps, counts, few, metric)
            law = PowerLaw(
                np.array([each["images"] for each in told["points"]]),
                tuple(1 - np.array(each["values"]) for each in told["points"]),
            )
            value, low, high = (1 - each for each in law.at(len(learn)))
            found.append((value, high, low, all_.test["accuracy"], few[0].test["accuracy"]))
            print(
                f"{number:3d}: {counts[0]} images {found[-1][4]:.4f}; {len(learn)} told {value:.4f} [{high:.4f}, {low:.4f}], "
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
