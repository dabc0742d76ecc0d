"""Log loss on test rows without and with a recalibration that is fitted to out-of-fold probabilities of the chosen settings.

A temperature (Guo et al. 2017), and isotonic regression of each class against the others (Zadrozny & Elkan 2002).

python tests/bench/recalibration.py --store cache/photos.h5 [--group module] [--head logistic] [--rows 60,200,0] [--draws 6]
"""

import argparse

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.isotonic import IsotonicRegression

from features import FeatureStore
from features.splits import SPLITS
from pipeline.evaluation.metrics import evaluate
from pipeline.training.fits.fitting import fit_head
from pipeline.training.fits.folds import out_of_fold
from pipeline.training.loading import read_features
from pipeline.training.request import Fitting, Request
from pipeline.training.splitting import LEFT_OUT, draw_splits

LEAST, MOST = np.log(1 / 8), np.log(50)


def fit_temperature(probabilities, y):
    """Return the temperature with the lowest log loss."""
    known = np.isfinite(probabilities).all(axis=1)
    logits, y = np.log(np.maximum(probabilities[known], 1e-300)), y[known]

    def loss(t):
        return -log_softmax(logits / np.exp(t), axis=1)[np.arange(len(y)), y].mean()

    return float(np.exp(minimize_scalar(loss, bounds=(LEAST, MOST), method="bounded").x))


def isotonic(held, y, probabilities):
    """Return probabilities, each class mapped by isotonic regression, at most as sure as one row in the number of rows allows."""
    known = np.isfinite(held).all(axis=1)
    held, y, least = held[known], y[known], 0.5 / (known.sum() + 1)
    columns = range(held.shape[1])
    maps = [
        IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip").fit(held[:, c], y == c) for c in columns
    ]
    mapped = np.column_stack([each.predict(probabilities[:, c]) for c, each in zip(columns, maps, strict=True)])
    return mapped / mapped.sum(axis=1, keepdims=True)


def measure(head, features, rows, split, group):
    """Return the temperature, and log loss and calibration error on test: without, with it, and with isotonic regression."""
    result, fitted = fit_head(head, features, rows, split, Fitting(group=group))
    held = out_of_fold(fitted.search, fitted.choice.settings, len(rows.class_names))
    test, learn = split == SPLITS["test"], (split != SPLITS["test"]) & (split != LEFT_OUT)
    temperature, y = fit_temperature(held, rows.labels[learn]), rows.labels[test]
    plain = result.probabilities[test]
    by_temperature = softmax(np.log(np.maximum(plain, 1e-300)) / temperature, axis=1)
    figures = [evaluate(y, each) for each in (plain, by_temperature, isotonic(held, rows.labels[learn], plain))]
    return [temperature, *(each[name] for name in ("log_loss", "calibration_error") for each in figures)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--group")
    parser.add_argument("--head", default="logistic")
    parser.add_argument("--rows", default="60,200,0", help="learning rows, 0 for all")
    parser.add_argument("--draws", type=int, default=6)
    options = parser.parse_args()
    with FeatureStore(options.store) as store:
        asked = Request(store.path, group=options.group)
        rows, features = asked.rows(store), read_features(store, options.head, asked)
    print("rows  temperatures  log loss without, by temperature, isotonic  calibration error of the same")
    for number in map(int, options.rows.split(",")):
        found = []
        for draw, split in enumerate(draw_splits(rows, options.draws, 0, options.group)):
            learn = np.random.default_rng(draw).permutation(np.flatnonzero(split != SPLITS["test"]))
            if number:
                split[learn[number:]] = LEFT_OUT
            found.append(measure(options.head, features, rows, split, options.group))
        values = np.array(found)
        told = ", ".join(f"{each:.2f}" for each in sorted(values[:, 0]))
        means = values.mean(axis=0)
        losses, errors = (", ".join(f"{each:.4f}" for each in some) for some in (means[1:4], means[4:]))
        print(f"{number or len(learn):4}  {told}  {losses}  {errors}", flush=True)
