"""How well planted label errors are found, beside cleanlab, and what correcting those that were found brings.

    python tests/bench/label_errors.py --store photos.h5 [--store elpv.h5] [--head logistic]     # needs cleanlab: pip install cleanlab

Of train and val, 5 and 10 % of the labels are changed to another class. Out-of-fold probabilities of a head that is fitted to these
labels rank them: as the page does, and as cleanlab does by self-confidence and by normalised margin. Precision at k: of the first k
labels, k being the number of changed ones, how many are changed; if fewer are doubted, the others count as wrong. Of the first k of the page, changed labels are put right, as somebody
would who judges them; the head is fitted again and compared on the same test images.
"""

import argparse
from dataclasses import replace

import numpy as np
from cleanlab.rank import get_label_quality_scores

from features import FeatureStore
from features.splits import SPLITS
from pipeline.evaluation.held_out import HeldOut
from pipeline.evaluation.metrics import find_metric
from pipeline.evaluation.significance import compare_pair
from pipeline.reports.analysis.label_issues import label_errors
from pipeline.training.fits.fitting import fit_head
from pipeline.training.loading import read_features
from pipeline.training.request import Request


def fit(head, features, rows):
    """Return the probabilities of the test images, and those of the others out of fold."""
    result, fitted = fit_head(head, features, rows, rows.splits)
    return result.probabilities[rows.splits == SPLITS["test"]], fitted.finished(len(rows.class_names)).out_of_fold


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", action="append", required=True)
    parser.add_argument("--head", default="logistic")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    for path in given.store:
        with FeatureStore(path) as store:
            asked = Request(path)
            rows, features = asked.rows(store), read_features(store, given.head, asked)
        learn = np.flatnonzero(rows.splits != SPLITS["test"])
        tested = HeldOut.of(rows.labels, rows.splits)
        for share in (0.05, 0.1):
            found, gains = [], []
            for seed in range(given.seeds):
                random = np.random.default_rng(seed)
                wrong = random.permutation(learn)[: round(share * len(learn))]
                y = rows.labels.copy()
                y[wrong] = (y[wrong] + random.integers(1, len(rows.class_names), len(wrong))) % len(rows.class_names)
                planted = np.isin(learn, wrong)

                before, chances = fit(given.head, features, replace(rows, labels=y, strata=y))
                doubted = [each.row for each in label_errors(y[learn], chances)]
                k = len(wrong)
                ranked = [
                    np.argsort(get_label_quality_scores(y[learn], chances, method=method), kind="stable")[:k]
                    for method in ("self_confidence", "normalized_margin")
                ]
                right = [np.sum(planted[doubted[:k]]) / k, *(np.mean(planted[each]) for each in ranked)]
                found.append([*right, len(doubted) / k])
                judged = y.copy()
                put_right = learn[doubted[:k]]
                judged[put_right] = rows.labels[put_right]
                after, _ = fit(given.head, features, replace(rows, labels=judged, strata=judged))
                pair = compare_pair(find_metric("accuracy"), [tested], [before], [after])
                gains.append((-pair.behind, pair.p_value))
            ours, own, margin, doubted_share = np.mean(found, axis=0)
            told = ", ".join(f"{100 * gain:+.1f} (p {p:.3f})" for gain, p in gains)
            print(
                f"{path}, {share:.0%} planted: precision at k {ours:.3f}, cleanlab {own:.3f} by self-confidence and {margin:.3f} by "
                f"margin; {doubted_share:.2f} k doubted; points of accuracy after correction, by seed: {told}",
                flush=True,
            )


if __name__ == "__main__":
    main()
