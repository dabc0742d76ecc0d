"""What a threshold chosen out of fold is worth where one class is rare, and whether a sensitivity asked for is reached.

The rare class of the learning side is thinned to one in `--ratio`; the test side keeps all its rows, which are weighted to the same
ratio for accuracy and average precision. With `--sensitivity` it is thinned, too, to half as many rare rows. Of more than two classes, one after the other is told from all others.

    python tests/bench/unequal_classes.py --store cache/elpv.h5 [--draws 8] [--head logistic] [--metric accuracy]
    python tests/bench/unequal_classes.py --store cache/elpv.h5 --sensitivity 0.9 --draws 200 --rows 500 --ratio 5
"""

import argparse

import numpy as np

from features import FeatureStore
from features.splits import SPLITS
from features.store.schema import Rows
from pipeline.evaluation.decisions.aim import Aim
from pipeline.evaluation.decisions.operating_point import OperatingPoint
from pipeline.evaluation.metrics import figures_of, find_metric
from pipeline.evaluation.weighted_rows import WeightedRows
from pipeline.training.fits.fitting import fit_head
from pipeline.training.loading import read_features
from pipeline.training.request import Fitting, Request

SHOWN = ("balanced_accuracy", "accuracy", "average_precision")
QUICK = {"scale": ("layer",), "C": (10.0, 100.0), "alpha": (0.1, 1.0), "gamma": (1.0,)}


def thin(labels, draw, ratio, most):
    """Return two classes of all rows, and a split whose learning side has one row of class 1 for `ratio` of class 0.

    Rows that are left out are in no split. A third of the rows of each class is the test side.
    """
    n_classes, random = int(labels.max()) + 1, np.random.default_rng(draw)
    y = labels if n_classes == 2 else (labels == draw % n_classes).astype(np.int32)
    if n_classes == 2 and (y == 1).sum() > (y == 0).sum():
        y = 1 - y  # the second class is the rarer one
    splits = np.full(len(y), 255, np.uint8)
    for name in (0, 1):
        rows = random.permutation(np.flatnonzero(y == name))
        splits[rows[: len(rows) // 3]] = SPLITS["test"]
        learn = rows[len(rows) // 3 :][: most if name == 0 else None]
        learn = learn if name == 0 else learn[: max(2, round(min(most, (splits < 2).sum()) / ratio))]
        splits[learn] = np.where(np.arange(len(learn)) % 4 == 0, SPLITS["val"], SPLITS["train"])
    return y, splits


def pick(rows, y, splits):
    """Return the rows that are in a split, with two classes and no strata but those."""
    kept = np.flatnonzero(splits != 255)
    zero = np.zeros(len(kept), np.uint8)
    paths = tuple(rows.paths[row] for row in kept)
    return kept, Rows(("common", "rare"), paths, y[kept], splits[kept], y[kept], zero, rows.sha256[kept])


def figures(y, probabilities, ratio):
    """Return the metrics of the table, as if class 1 had one row for `ratio` of class 0, and its recall."""
    weights = np.where(y == 1, (y == 0).sum() / (y == 1).sum() / ratio, 1.0)[None]
    found = figures_of([find_metric(name) for name in SHOWN], WeightedRows(y, probabilities, weights))
    return [float(found[name][0]) for name in SHOWN] + [float(np.mean(probabilities[y == 1].argmax(axis=1)))]


def run(options):
    """Yield of each draw the point, the test labels and the probabilities."""
    with FeatureStore(options.store) as store:
        rows = store.rows.images()
        features = read_features(store, options.head, Request(options.store, layer=",".join(store.layers)))
        for draw in range(options.draws):
            y, splits = thin(rows.labels, draw, options.ratio, options.rows or len(rows))
            kept, some = pick(rows, y, splits)
            mask = np.isin(np.arange(len(rows)), kept)
            settings = QUICK if options.sensitivity else {}
            how = Fitting(draw, settings=settings, metric=options.metric)
            result, fitted = fit_head(options.head, features.only(mask), some, some.splits, how)
            chances = fitted.finished(2).out_of_fold
            aim = Aim("threshold", "rare", "balanced_accuracy")
            if options.sensitivity:
                aim = Aim("sensitivity", "rare", value=options.sensitivity)
            test = some.splits == SPLITS["test"]
            if options.sensitivity:
                rare = np.flatnonzero(test & (some.labels == 1))
                test[rare[np.sum(~test & (some.labels == 1)) // 2 :]] = False
            point = OperatingPoint.choose(aim, some.labels[some.splits != SPLITS["test"]], chances, some.class_names)
            yield (
                point.measured(some.labels[test], result.probabilities[test], some.class_names),
                some.labels[test],
                result.probabilities[test],
            )


def main():
    """Print one line per draw and the means, or the share of draws that reach the sensitivity."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--head", default="logistic")
    parser.add_argument("--metric", default="accuracy")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--ratio", type=float, default=50)
    parser.add_argument("--rows", type=int, help="of the common class to learn from (default: all but the test side)")
    parser.add_argument("--sensitivity", type=float)
    options = parser.parse_args()
    told = []
    for point, y, chances in run(options):
        if options.sensitivity:
            low, high = point.test["intervals"]["sensitivity"]
            told.append((point.test["sensitivity"], low <= options.sensitivity <= high, high >= options.sensitivity))
            continue
        usual = figures(y, chances, options.ratio)
        decided = figures(y, np.eye(2)[point.decide(chances, ("common", "rare"))], options.ratio)
        told.append([*usual, *decided[:2], decided[3], decided[0] - usual[0]])
        print(f"threshold {point.threshold:.4f}  " + "  ".join(f"{each:.3f}" for each in told[-1]), flush=True)
    if options.sensitivity:
        mean, inside, reached = np.mean(told, axis=0)
        print(
            f"asked {options.sensitivity}: mean {mean:.3f}; inside the interval of test in {inside:.3f} of {len(told)} draws, "
            f"not below it in {reached:.3f}"
        )
        return
    names = [*SHOWN, "recall", *SHOWN[:2], "recall", "gain in balanced accuracy"]
    for name, values in zip(names, np.transpose(told), strict=True):
        print(f"{name:28} {np.mean(values):.3f} [{np.min(values):.3f}, {np.max(values):.3f}]")


if __name__ == "__main__":
    main()
