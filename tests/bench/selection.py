"""Accuracy and log loss on test rows by how settings are chosen out of fold: by accuracy, where log loss decides between equals;
by log loss among those down to one standard error below the best accuracy, as `best_of` does; and by log loss alone.

    python tests/bench/selection.py --store cache/elpv.h5 [--rows 60,200,1000] [--draws 16]
"""

import argparse

import numpy as np

from features import FeatureStore
from features.splits import stratified_folds
from pipeline.data.training_data import Sample
from pipeline.evaluation.metrics import evaluate
from pipeline.heads.registry import find_head
from pipeline.heads.settings import least_accuracy
from pipeline.training.loading import read_features
from pipeline.training.request import Request

LEAST = {"accuracy": lambda best, rows: best, "one error": least_accuracy, "log loss": lambda best, rows: 0.0}
HEADS, FOLDS, TESTED = ("logistic", "linear-svm", "rbf-svm", "ridge"), 5, 600


def pick(tried, rows, least):
    """Return the settings whose log loss is the lowest among those about as accurate as the best."""
    found = [each for each in tried if each["accuracy"] is not None and each["log_loss"] is not None]
    enough = least(max(each["accuracy"] for each in found), rows) - 1e-12
    return min((each for each in found if each["accuracy"] >= enough), key=lambda each: each["log_loss"])


def measure(name, features, labels, rows, draw):
    """Return accuracy and log loss by each rule on one draw."""
    order = np.random.default_rng(draw).permutation(len(labels))
    learn, test = np.sort(order[:rows]), order[rows : rows + TESTED]
    strata = labels[learn]
    folds = stratified_folds(strata, [str(row) for row in learn], FOLDS, draw)
    sample = Sample(features.only(np.isin(np.arange(len(labels)), learn)), labels[learn], folds == 0, folds, draw)
    head = find_head(name)
    grid = {key: [v for v in values if key != "scale" or v != "all"] for key, values in head.grid.items()}
    search = head.search(sample, grid)
    tried = search.choose(sample.pairs("cv"), "accuracy").tried
    found = []
    for least in LEAST.values():
        settings = {key: value for key, value in pick(tried, rows, least).items() if key in grid}
        estimator = search.fit(settings, sample.everything)
        shares = np.zeros((len(test), labels.max() + 1))
        shares[:, estimator.classes_] = estimator.predict_proba(features.X[test])
        figures = evaluate(labels[test], shares)
        found.append((figures["accuracy"], figures["log_loss"]))
    return found


def main():
    """Print a table: means over draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--rows", default="60,200,1000")
    parser.add_argument("--draws", type=int, default=16)
    options = parser.parse_args()
    print("head        rows  " + "  ".join(f"{each:>14}" for each in LEAST))
    with FeatureStore(options.store) as store:
        labels = store.rows.images().labels
        for name in HEADS:
            features = read_features(store, name, Request(options.store)).averaged()
            for rows in map(int, options.rows.split(",")):
                draws = np.array([measure(name, features, labels, rows, draw) for draw in range(options.draws)])
                told = "  ".join(f"{accuracy:.4f} {loss:.4f}" for accuracy, loss in draws.mean(axis=0))
                print(f"{name:11} {rows:4}  {told}", flush=True)


if __name__ == "__main__":
    main()
