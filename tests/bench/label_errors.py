"""How well planted label errors are found, beside cleanlab, and what correcting those that were found brings.

    python tests/bench/label_errors.py --store photos.h5 [--store elpv.h5] [--head logistic]     # needs cleanlab: pip install cleanlab

Over drawn splits: 5 and 10 % of the labels of train and val are changed to another class. Out-of-fold probabilities of a head that is
fitted to these labels rank them, as the page does, and as cleanlab does by self-confidence and by normalised margin. Precision at k: of
the first k labels, k being the number of changed ones, how many are changed; if fewer are doubted, the others count as wrong. Then as
many of the page's first labels as confident learning expects to be wrong are judged by the truth: changed ones are put right. The head
is fitted again, and compared on the same test images by a paired test over all splits.
"""

import argparse
import sys
import time
from dataclasses import replace

import numpy as np

from features import FeatureStore
from features.splits import SPLITS
from pipeline.evaluation.held_out import HeldOut
from pipeline.evaluation.metrics import find_metric
from pipeline.evaluation.significance import compare_pair
from pipeline.reports.analysis.label_issues import expected_errors, label_errors
from pipeline.training.fits.fitting import fit_head
from pipeline.training.loading import read_features
from pipeline.training.request import Request
from pipeline.training.splitting import draw_splits

METRICS = ("accuracy", "log_loss")
METHODS = ("self_confidence", "normalized_margin")


def fit(head, features, rows, labels):
    """Return the probabilities of the test images, and those of the others out of fold."""
    judged = replace(rows, labels=labels, strata=labels)
    result, fitted = fit_head(head, features, judged, rows.splits)
    return result.probabilities[rows.splits == SPLITS["test"]], fitted.finished(len(rows.class_names)).out_of_fold


def plant(rows, learn, share, seed):
    """Return labels with errors, and which of `learn` are wrong."""
    random = np.random.default_rng(seed)
    wrong = random.permutation(learn)[: round(share * len(learn))]
    y = rows.labels.copy()
    y[wrong] = (y[wrong] + random.integers(1, len(rows.class_names), len(wrong))) % len(rows.class_names)
    return y, np.isin(learn, wrong)


def words_of(pair):
    if pair.interval is None or pair.p_value is None:
        return "needs 3 splits"
    return f"95 % {pair.interval[0]:.4f} to {pair.interval[1]:.4f}, p {pair.p_value:.3f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", action="append", required=True)
    parser.add_argument("--head", default="logistic")
    parser.add_argument("--splits", type=int, default=10)
    given = parser.parse_args()
    try:
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        sys.exit("cleanlab must be installed for the comparison. Install it: pip install cleanlab")
    for path in given.store:
        with FeatureStore(path) as store:
            asked = Request(path)
            rows, features = asked.rows(store), read_features(store, given.head, asked)
        without = {}
        for share in (0.05, 0.1):
            found, tested, heads, started = [], [], [], time.perf_counter()
            for seed, split in enumerate(draw_splits(rows, given.splits, 0)):
                drawn, learn = replace(rows, splits=split), np.flatnonzero(split != SPLITS["test"])
                y, wrong = plant(rows, learn, share, seed)
                k = int(wrong.sum())
                before, chances = fit(given.head, features, drawn, y)
                page = np.array([each.row for each in label_errors(y[learn], chances)])
                ranked = [np.argsort(get_label_quality_scores(y[learn], chances, method=each)) for each in METHODS]
                expected = round(expected_errors(y[learn], chances))
                precisions = [np.sum(wrong[each[:k]]) / k for each in (page, *ranked)]
                found.append([*precisions, len(page) / k, expected / k])

                judged, looked = y.copy(), learn[page[:expected]]
                judged[looked] = rows.labels[looked]
                after, _ = fit(given.head, features, drawn, judged)
                if seed not in without:
                    without[seed], _ = fit(given.head, features, drawn, rows.labels)
                tested.append(HeldOut.of(rows.labels, split))
                heads.append((before, after, without[seed]))
            ours, own, margin, listed, expected = np.mean(found, axis=0)
            print(
                f"{path}, {given.head}, {share:.0%} planted, {given.splits} splits: precision at k {ours:.3f}, cleanlab {own:.3f} by "
                f"self-confidence and {margin:.3f} by margin; {listed:.2f} k listed, {expected:.2f} k expected; "
                f"{time.perf_counter() - started:.0f} s"
            )
            before, after, clean = zip(*heads, strict=True)
            for name in METRICS:
                metric = find_metric(name)
                for words, better in (("corrected", after), ("without errors", clean)):
                    pair = compare_pair(metric, tested, better, before)
                    print(f"  {name}: {words} better by {pair.behind:.4f} ({words_of(pair)})", flush=True)


if __name__ == "__main__":
    main()
