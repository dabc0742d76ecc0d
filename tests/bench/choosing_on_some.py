"""What it costs to choose an SVM's settings on some of the images it is fitted to: accuracy and log loss on test rows, by that share.

    python tests/bench/choosing_on_some.py --store cache/cifar10.h5 [--head rbf-svm] [--rows 1200] [--shares 1,0.5,0.25] [--draws 3]

The head itself is fitted to all of the rows, as that of a run is.
"""

import argparse
import time
from unittest import mock

import numpy as np

from features import FeatureStore
from features.splits import stratified_folds
from pipeline.data.training_data import Sample
from pipeline.evaluation.metrics import evaluate
from pipeline.heads.registry import find_head
from pipeline.training.loading import read_features
from pipeline.training.request import Request

FOLDS = 5


def measure(head, features, labels, rows, share, draw):
    """Return accuracy, log loss and seconds of the processor for choosing, on one draw of the rows."""
    order = np.random.default_rng(draw).permutation(len(labels))
    learn, test = np.sort(order[:rows]), order[rows:]
    folds = stratified_folds(labels[learn], [str(row) for row in learn], FOLDS, draw)
    sample = Sample(features.only(np.isin(np.arange(len(labels)), learn)), labels[learn], folds == 0, folds, draw)
    grid = {name: [v for v in values if (name, v) != ("scale", "all")] for name, values in find_head(head).grid.items()}
    search = find_head(head).search(sample, grid)
    start = time.process_time()
    with mock.patch.multiple(
        "pipeline.heads.svm.search", _MANY=rows - 1 if share < 1 else rows, _SOME=int(share * rows)
    ):
        chosen = search.choose(sample.pairs("cv"), "accuracy").settings
    seconds = time.process_time() - start
    shares = np.zeros((len(test), labels.max() + 1))
    estimator = search.fit(chosen, sample.everything)
    shares[:, estimator.classes_] = estimator.predict_proba(features.X[test])
    figures = evaluate(labels[test], shares)
    told = ", ".join(f"{name} {value}" for name, value in chosen.items() if len(grid[name]) > 1)
    return figures["accuracy"], figures["log_loss"], seconds, told


def main():
    """Print a Markdown table of each draw, and means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--head", default="rbf-svm", choices=("rbf-svm", "linear-svm"))
    parser.add_argument("--rows", type=int, default=1200, help="to learn from; the others are test")
    parser.add_argument("--shares", default="1,0.5,0.25", help="of the rows that settings are chosen on")
    parser.add_argument("--draws", type=int, default=3)
    options = parser.parse_args()
    shares = [float(each) for each in options.shares.split(",")]
    with FeatureStore(options.store) as store:
        asked = Request.of(options.store, {})
        features, labels = read_features(store, options.head, asked).averaged(), asked.rows(store).labels
    print(
        "| chosen on | draw | accuracy | log loss | choosing, processor s | settings |\n|---|---|---|---|---|---|",
        flush=True,
    )
    found = {share: [] for share in shares}
    for draw in range(options.draws):
        for share in shares:
            *figures, told = measure(options.head, features, labels, options.rows, share, draw)
            found[share].append(figures)
            accuracy, loss, seconds = figures
            print(
                f"| {share * options.rows:.0f} | {draw} | {accuracy:.4f} | {loss:.4f} | {seconds:.1f} | {told} |",
                flush=True,
            )
    for share, figures in found.items():
        accuracy, loss, seconds = np.mean(figures, axis=0)
        print(f"| {share * options.rows:.0f} | mean | {accuracy:.4f} | {loss:.4f} | {seconds:.1f} | |")


if __name__ == "__main__":
    main()
