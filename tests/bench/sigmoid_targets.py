"""Log loss on test rows by how much the targets of the sigmoids are smoothed: a of (p + a) / (p + 2 a) for p positive images.

Platt's is 1, Jeffreys' 1/2, next to none 0.02. The last column is a sigmoid fitted to the test rows themselves: the best there is.
Of more than two classes, one after the other is told from all others.

    python tests/bench/sigmoid_targets.py --store cache/elpv.h5 [--rows 24,100,300,900] [--draws 8]
"""

import argparse
from dataclasses import replace

import numpy as np
from scipy.special import expit, xlogy
from sklearn.linear_model import LogisticRegression

from features import FeatureStore
from pipeline.data.training_data import Sample
from pipeline.heads.calibration import Calibrator
from pipeline.heads.registry import find_head
from pipeline.training.loading import read_features
from pipeline.training.request import Request

SMOOTHING = (1.0, 0.5, 0.25, 0.1, 0.02)
HEADS = {
    "linear-svm": {"scale": "layer", "C": 10.0},
    "rbf-svm": {"scale": "layer", "gamma": 1.0, "C": 10.0},
    "ridge": {"scale": "layer", "alpha": 1.0},
}
FOLDS, TESTED, FEWEST = 5, 600, 5


def fit_sigmoid(scores, positive, a):
    """Return slope, at least 0, and offset with the lowest log loss on smoothed targets."""
    p, n, spread = positive.sum(), (~positive).sum(), scores.std()
    targets, scaled = np.where(positive, (p + a) / (p + 2 * a), a / (n + 2 * a)), (scores - scores.mean()) / spread
    fitted = LogisticRegression(C=1e12, solver="newton-cholesky", tol=1e-10).fit(
        np.tile(scaled, 2)[:, None],
        np.repeat([True, False], len(scores)),
        np.concatenate([targets, 1 - targets]),
    )
    slope = max(0.0, fitted.coef_[0, 0]) / spread
    return slope, fitted.intercept_[0] - slope * scores.mean()


def log_loss(scores, positive, sigmoid):
    """Return the mean log loss of scores under a sigmoid."""
    chances = np.clip(expit(sigmoid[0] * scores + sigmoid[1]), 2e-16, 1 - 2e-16)
    return -np.mean(xlogy(positive, chances) + xlogy(~positive, 1 - chances))


def measure(name, features, y, rows, draw):
    """Return the log loss of each smoothing, and the best, of a head on one draw; None if a class has too few rows."""
    order = np.random.default_rng(draw).permutation(len(y))
    learn, test = np.sort(order[:rows]), order[rows : rows + TESTED]
    counts = np.bincount(y[learn], minlength=2)
    if counts.min() < FEWEST or rows > 0.8 * len(y):
        return None
    folds = np.empty(rows, int)
    for name_of_class in (0, 1):
        those = np.random.default_rng(draw).permutation(np.flatnonzero(y[learn] == name_of_class))
        folds[those] = np.arange(len(those)) % FOLDS
    sample = Sample(features.only(np.isin(np.arange(len(y)), learn)), y[learn], np.zeros(rows, bool), folds)
    search, calibrator = find_head(name).search(sample), Calibrator(sample, sample.everything)

    def score(fit, X):
        return search.fit(HEADS[name], fit).decision_function(X).astype(np.float64)

    held = np.concatenate([score(fit, sample.features.X[look]) for fit, look in calibrator.pairs])
    labels = np.concatenate([sample.y[look] for _, look in calibrator.pairs]) == 1
    scores, positive = score(sample.everything, features.X[test]), y[test] == 1
    sigmoids = [fit_sigmoid(held, labels, a) for a in SMOOTHING] + [fit_sigmoid(scores, positive, 1e-3)]
    return [log_loss(scores, positive, each) for each in sigmoids]


def main():
    """Print a table: the mean over draws by head and number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--rows", default="24,100,300,900")
    parser.add_argument("--draws", type=int, default=8)
    options = parser.parse_args()
    print("head        rows  " + "  ".join(f"{a:6}" for a in SMOOTHING) + "    best  draws")
    with FeatureStore(options.store) as store:
        labels = store.rows.images().labels
        for name in HEADS:
            features = read_features(store, name, Request(options.store))
            features = replace(features.averaged(), views=1)
            for rows in map(int, options.rows.split(",")):
                y = [labels if labels.max() == 1 else (labels == draw).astype(int) for draw in range(options.draws)]
                found = [measure(name, features, y[draw], rows, draw) for draw in range(options.draws)]
                found = [each for each in found if each is not None]
                if found:
                    print(
                        f"{name:11} {rows:4}  " + "  ".join(f"{v:.4f}" for v in np.mean(found, axis=0)),
                        f" {len(found)}",
                    )


if __name__ == "__main__":
    main()
