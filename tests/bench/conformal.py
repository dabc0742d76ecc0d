"""How often sets of classes hold the true one, over drawn splits of stores.

    python tests/bench/conformal.py --store A.h5 --store B.h5 [--group module] [--splits 20] [--head logistic]

The share of test images whose set holds the true class, for all and for the class with the least, at three levels. The bounds are
those within which the mean over splits lies with probability 0.95 if every split covers as asked: binomial, of the images that are
tested at least once, since splits share images; sets are set by about as many images as the class has in train and val, which adds
as much again in proportion.
"""

import argparse

import numpy as np
from drawn_fits import DrawnFits

from features.splits import SPLITS
from pipeline.evaluation.decisions.class_sets import ClassSets
from pipeline.training.splitting import draw_splits, units_among

LEVELS = (0.8, 0.9, 0.95)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", action="append", required=True)
    parser.add_argument("--group")
    parser.add_argument("--head", default="logistic")
    parser.add_argument("--splits", type=int, default=20)
    given = parser.parse_args()
    for path in given.store:
        found = {level: [] for level in LEVELS}
        fits = DrawnFits(path, given.head, given.group, given.splits)
        rows = fits.rows
        for split in draw_splits(rows, given.splits, 0, fits.group):
            test = split == SPLITS["test"]
            _, p, chances = fits.fit(split)
            y, units = rows.labels[test], units_among(rows, ~test, fits.group)
            for level in LEVELS:
                sets = ClassSets.calibrate(level, rows.labels[~test], chances, rows.class_names, units)
                held = sets.hold(p)
                covered = held[np.arange(len(y)), y]
                of_class = [covered[y == label].mean() for label in range(len(rows.class_names))]
                found[level].append(
                    (covered.mean(), held.sum(axis=1).mean(), (held.sum(axis=1) == 0).mean(), *of_class)
                )
        n_test, n_learn = test.sum(), (~test).sum()
        print(f"{path}, {given.head}, {given.splits} splits of {n_learn} and {n_test} images, group {fits.group}")
        for level, each in found.items():
            covered, size, empty, *of_class = np.mean(each, axis=0)
            half = 1.96 * np.sqrt(level * (1 - level) * (1 / min(len(rows), given.splits * n_test) + 1 / n_learn))
            inside = abs(covered - level) <= half
            print(
                f"  {level}: covered {covered:.4f} ({'within' if inside else 'outside'} {level - half:.4f} to {level + half:.4f}), "
                f"by class {min(of_class):.3f} to {max(of_class):.3f}, {size:.2f} classes, {empty:.1%} empty"
            )


if __name__ == "__main__":
    main()
