"""How well planted label errors are found, beside cleanlab, and what correcting those that were found brings.

    python tests/bench/label_errors.py --store photos.h5 [--store elpv.h5] [--head logistic]     # needs cleanlab: pip install cleanlab

Cross-validation in ten folds, image by image, so each image is tested once, by its true label: 5 and 10 % of the labels of the other
folds are changed to another class. Out-of-fold probabilities of a head that is fitted to these labels rank them, as the page does, and as
cleanlab does by self-confidence and by normalised margin. Precision at k: of the first k labels, k being the number of changed ones, how
many are changed; if fewer are doubted, the others count as wrong. Then as many of the page's first labels as confident learning expects
to be wrong are judged by the truth: changed ones are put right. The head is fitted again, and compared on all images by a paired test
(of accuracy, McNemar's), for several draws of errors and folds; so is a head that saw no error. Settings are chosen once for each of the three
heads, on the first fold, with its labels.
"""

import argparse
import sys
import time

import numpy as np
from drawn_fits import DrawnFits

from features.splits import SPLITS, stratified_folds
from pipeline.evaluation.held_out import HeldOut
from pipeline.evaluation.metrics import find_metric
from pipeline.evaluation.significance import compare_pair
from pipeline.reports.analysis.label_issues import expected_errors, label_errors
from pipeline.training.splitting import side_keys

FOLDS = 10
METRICS = ("accuracy", "log_loss")
METHODS = ("self_confidence", "normalized_margin")


def plant(rows, learn, share, random):
    """Return labels with errors, and which of `learn` are wrong."""
    wrong = random.permutation(learn)[: round(share * len(learn))]
    y = rows.labels.copy()
    y[wrong] = (y[wrong] + random.integers(1, len(rows.class_names), len(wrong))) % len(rows.class_names)
    return y, np.isin(learn, wrong)


def draw(heads, share, seed, ranks):
    """Return what is found in each fold, and of the three heads the probabilities of all images."""
    rows, random = heads["before"].rows, np.random.default_rng([seed, round(100 * share)])
    folds, found = stratified_folds(rows.strata, side_keys(rows, None), FOLDS, seed), []
    p = {name: np.empty((len(rows), len(rows.class_names))) for name in heads}
    for fold in range(FOLDS):
        test = folds == fold
        split, learn = np.where(test, SPLITS["test"], SPLITS["train"]).astype(np.uint8), np.flatnonzero(~test)
        y, wrong = plant(rows, learn, share, random)
        k = int(wrong.sum())
        _, p["before"][test], chances = heads["before"].fit(split, y)
        page = np.array([each.row for each in label_errors(y[learn], chances)])
        ranked = [np.argsort(ranks(y[learn], chances, method=each)) for each in METHODS]
        expected = round(expected_errors(y[learn], chances))
        found.append([*(np.sum(wrong[each[:k]]) / k for each in (page, *ranked)), len(page) / k, expected / k])
        looked = learn[page[:expected]]
        y[looked] = rows.labels[looked]
        found[-1].append(np.mean(y[learn] == rows.labels[learn]))
        _, p["corrected"][test], _ = heads["corrected"].fit(split, y, folds=False)
        _, p["without errors"][test], _ = heads["without errors"].fit(split, rows.labels, folds=False)
    return np.mean(found, axis=0), p


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", action="append", required=True)
    parser.add_argument("--head", default="logistic")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument(
        "--share", type=float, action="append", help="of labels that are changed (default 0.05 and 0.1)"
    )
    given = parser.parse_args()
    try:
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        sys.exit("cleanlab must be installed for the comparison. Install it: pip install cleanlab")
    for path in given.store:
        for share in given.share or (0.05, 0.1):
            heads, started = {}, time.perf_counter()
            for name in ("before", "corrected", "without errors"):
                heads[name] = DrawnFits(path, given.head)
                heads[name].group = None  # image by image, though the store has groups
            found, draws = zip(
                *(draw(heads, share, seed, get_label_quality_scores) for seed in range(given.draws)), strict=True
            )
            ours, own, margin, listed, expected, right = np.mean(found, axis=0)
            labels = heads["before"].rows.labels
            tested = [HeldOut(labels, np.arange(len(labels)), round(len(labels) * (1 - 1 / FOLDS)))]
            print(
                f"{path}, {given.head}, {share:.0%} planted, {given.draws} draws: precision at k {ours:.3f}, cleanlab {own:.3f} by "
                f"self-confidence and {margin:.3f} by margin; {listed:.2f} k listed, {expected:.2f} k expected; {1 - right:.1%} "
                f"left wrong; {time.perf_counter() - started:.0f} s"
            )
            for name in METRICS:
                for words in ("corrected", "without errors"):
                    pairs = [compare_pair(find_metric(name), tested, [p[words]], [p["before"]]) for p in draws]
                    rise, told = (
                        np.mean([each.behind for each in pairs]),
                        ", ".join(f"{each.p_value:.4f}" for each in pairs),
                    )
                    print(f"  {name}: {words} better by {rise:.4f}; by {pairs[0].test} p {told}", flush=True)


if __name__ == "__main__":
    main()
