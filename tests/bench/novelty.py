"""How well images of another kind, and drifted folders, are told, and how often images of the same kind are called unlike.

    python tests/bench/novelty.py --store photos.h5 [--other elpv.h5] [--changed changed.h5 ...] [--group module] [--splits 20]

Over drawn splits: the area under the ROC curve between test images and all images of the other store, and the share of each that is
beyond a threshold at 1 % (of training images among each other), for scores that are chosen from: the cosine distance to the nearest
training images (1, 5, 10), Mahalanobis' distance to the nearest class mean (Lee et al. 2018) and to the mean of all, with a shrunk
covariance (Ledoit & Wolf), and the largest probability. The store's own split, for changed copies of its test images (`changed.py`): the
share that is unlike, and of folders drawn from them the number that is called drifted; and the same of folders of test images that nothing
was done to, each of another split. With groups, also if each group has a folder of its own, and of one new group alone.
"""

import argparse

import numpy as np
from drawn_fits import DrawnFits
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

from features.splits import SPLITS
from pipeline.evaluation.decisions.drift import LEAST_FOLDER, P_VALUE
from pipeline.evaluation.decisions.novelty import Novelty
from pipeline.evaluation.held_out import unit_numbers
from pipeline.training.splitting import draw_splits, side_keys

SIZES = (20, 50, 100, 200)  # images of a folder


def unit(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def neighbours(k):
    """Return the mean cosine distance to the k nearest, and of training images among each other."""

    def score(train, y, *others):
        own = unit(train)
        cosines = own @ own.T
        np.fill_diagonal(cosines, -1)
        found = (cosines, *(unit(other) @ own.T for other in others))
        return [1 - np.partition(each, each.shape[1] - k, axis=1)[:, -k:].mean(axis=1) for each in found]

    return score


def mahalanobis(by_class):
    """Return the distance to the nearest class mean; of training images, from five folds."""

    def fit(train, y):
        means = (
            np.array([train[y == label].mean(axis=0) for label in np.unique(y)])
            if by_class
            else train.mean(axis=0)[None]
        )
        places = np.searchsorted(np.unique(y), y) if by_class else np.zeros(len(y), int)
        spread = LedoitWolf(store_precision=False, assume_centered=True).fit(train - means[places])
        precision = np.linalg.inv(spread.covariance_)  # of full rank by its shrinkage

        def score(X):
            return np.min([np.sum((X - mean) @ precision * (X - mean), axis=1) for mean in means], axis=0)

        return score

    def score(train, y, *others):
        folds, own = np.arange(len(y)) % 5, np.empty(len(y))
        for fold in range(5):
            own[folds == fold] = fit(train[folds != fold], y[folds != fold])(train[folds == fold])
        whole = fit(train, y)
        return [own, *map(whole, others)]

    return score


SCORES = {
    "nearest": neighbours(1), "5 nearest": neighbours(5), "10 nearest": neighbours(10),
    "Mahalanobis by class": mahalanobis(True), "Mahalanobis": mahalanobis(False),
}  # fmt: skip


def across_stores(given):
    fits = DrawnFits(given.store)
    rows, features, other = fits.rows, fits.features, DrawnFits(given.other).features
    found = {}
    for split in draw_splits(rows, given.splits, 0):
        learn, test = split != SPLITS["test"], split == SPLITS["test"]
        train, y = features.of(learn), rows.labels[learn]
        for name, score in SCORES.items():
            own, of_test, of_other = score(train, y, features.of(test), other.matrix)
            threshold = np.quantile(own, 0.99)
            area = roc_auc_score(np.repeat([0, 1], [len(of_test), len(of_other)]), np.concatenate([of_test, of_other]))
            found.setdefault(name, []).append((area, np.mean(of_test > threshold), np.mean(of_other > threshold)))
        estimator, _, chances = fits.fit(split)
        sure = [estimator.predict_proba(each).max(axis=1) for each in (features.of(test), other.matrix)]
        area = roc_auc_score(np.repeat([0, 1], [len(each) for each in sure]), -np.concatenate(sure))
        found.setdefault("largest probability", []).append((area, np.nan, np.nan))
        known = Novelty.calibrate([train], unit_numbers(side_keys(rows, None))[learn], chances.argmax(axis=1))
        alarms, told = (np.mean(known.of(each) > 1) for each in (features.of(test), other.matrix))
        found.setdefault("as built", []).append((np.nan, alarms, told))
    print(f"{given.store} against {given.other}, {given.splits} splits")
    for name, each in found.items():
        area, alarms, told = np.mean(each, axis=0)
        low, high = np.min(each, axis=0)[1], np.max(each, axis=0)[1]
        print(f"  {name:22s} AUROC {area:.4f}, false alarms {alarms:.2%} [{low:.2%}, {high:.2%}], told {told:.1%}")


def folders(given):
    fits = DrawnFits(given.store, group=given.group)
    rows, features = fits.rows, fits.features
    units = unit_numbers(side_keys(rows, fits.group))

    def known_by(split):
        learn = split != SPLITS["test"]
        estimator, _, chances = fits.fit(split)
        return estimator, Novelty.calibrate([features.of(learn)], units[learn], chances.argmax(axis=1))

    def drift(estimator, known, X, units=None):
        predicted = estimator.predict_proba(X).argmax(axis=1)
        return known.drift.p_value(known.drift.of(known.unit_of(X), predicted), predicted, units)

    def say(words, p):
        p = np.array(p)
        print(
            f"    {words}: {np.sum(p < P_VALUE)} of {len(p)} folders drifted, median p {np.median(p):.3f}", flush=True
        )

    estimator, known = known_by(rows.splits)
    for path in given.changed:
        others = DrawnFits(path)
        changed, held = others.rows, others.features
        names = np.array([name.split("/")[0] for name in changed.paths])
        of = units[[int(name.split("/")[1].split(".")[0]) for name in changed.paths]]  # files are named by the row
        for kind in np.unique(names):
            X, groups = held.matrix[names == kind], of[names == kind]
            right = np.mean(estimator.predict_proba(X).argmax(axis=1) == changed.labels[names == kind])
            print(f"  {kind}: {np.mean(known.of(X) > 1):.1%} unlike, accuracy {right:.3f}")
            for n in sorted({*SIZES, len(X)}):
                say(f"{n} of {len(X)} images", [drift(estimator, known, X[some]) for some in picks(len(X), n)])
                if fits.group:
                    p = [drift(estimator, known, X[some], groups[some]) for some in picks(len(X), n)]
                    say(f"{n} of {len(X)} images, a folder for each of the {len(np.unique(groups))} groups", p)
    p, grouped, alone = {n: [] for n in SIZES}, {n: [] for n in SIZES}, []
    for number, split in enumerate(draw_splits(rows, given.splits, 100, fits.group)):
        estimator, known = known_by(split)
        X, groups = features.of(split == SPLITS["test"]), units[split == SPLITS["test"]]
        order = np.random.default_rng(number).permutation(len(X))
        for n in SIZES:
            p[n].append(drift(estimator, known, X[order[:n]]))
            grouped[n].append(drift(estimator, known, X[order[:n]], groups[order[:n]]))
        sizes = np.bincount(groups)
        alone += [drift(estimator, known, X[groups == each]) for each in np.flatnonzero(sizes >= LEAST_FOLDER)]
    print("  untouched test images, each folder of another split")
    for n in SIZES:
        say(f"{n} images", p[n])
        if fits.group:
            say(f"{n} images, a folder for each group", grouped[n])
    if fits.group:
        say("one group alone", alone)


def picks(n, size):
    random = np.random.default_rng(0)
    return [random.permutation(n)[:size] for _ in range(1 if size == n else 20)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--other")
    parser.add_argument("--changed", action="append", default=[])
    parser.add_argument("--group")
    parser.add_argument("--splits", type=int, default=20)
    given = parser.parse_args()
    if given.other:
        across_stores(given)
    folders(given)


if __name__ == "__main__":
    main()
