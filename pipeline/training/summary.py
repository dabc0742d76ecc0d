"""Summary of a head's results over all splits, and its comparison with the best head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from features.splits import SPLITS

from ..evaluation.metrics import METRICS
from ..evaluation.significance import accuracy_interval, difference_interval, holm, paired_test
from ..heads.settings import describe_settings
from .fit import Result

_OTHERS = tuple(each.name for each in METRICS[1:])  # all but accuracy


def summarise(results: list[Result], split: np.ndarray) -> dict[str, Any]:
    """Return a head's test metrics, averaged over splits; `split` gives the sizes of all of them."""

    def mean(scores: list[float]) -> float | None:
        value = float(np.mean(scores))
        return None if math.isnan(value) else value

    accuracies = [each.test["accuracy"] for each in results]
    n_test = int(np.sum(split == SPLITS["test"]))
    first = results[0]
    return {
        "head": first.head,
        "layer": first.layer,
        "pool": first.pool,
        "views": first.views,
        "n_features": first.n_features,
        "group": first.group,
        "chosen": describe_settings([each.settings for each in results], first.tried),
        "accuracy": float(np.mean(accuracies)),
        "accuracy_interval": list(accuracy_interval(accuracies, len(split) - n_test, n_test)),
        "accuracies": accuracies,
        "intervals": {
            name: None if len(results) > 1 or math.isnan(ends[0]) else ends for name, ends in first.intervals.items()
        },
        # Runs of earlier versions have fewer metrics.
        **{name: mean([each.test[name] for each in results]) for name in _OTHERS if name in first.test},
        "fit_seconds": mean([each.fit_seconds for each in results]),
        "predict_seconds": mean([each.predict_seconds for each in results]),
    }


def best_first(summaries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return summaries by descending accuracy: first the head that others were compared with; ties by fit time."""
    return sorted(summaries, key=lambda each: (each["p_value"] is not None, -each["accuracy"], each["fit_seconds"]))


def compare_with_best(
    summaries: list[dict[str, Any]], results: list[list[Result]], labels: np.ndarray, splits: Sequence[np.ndarray]
) -> None:
    """Add to each summary how far the head is behind the most accurate, and whether the difference is significant.

    ``behind`` is the mean difference in accuracy, ``behind_interval`` its interval if there are several splits, and
    ``p_value`` the p-value of the paired test, adjusted by Holm's method; None for the best head.
    """
    tests = [split == SPLITS["test"] for split in splits]
    correct = [
        [each.probabilities.argmax(axis=1) == labels[test] for each, test in zip(those, tests, strict=True)]
        for those in results
    ]
    best = max(range(len(summaries)), key=lambda number: summaries[number]["accuracy"])
    n_test = int(tests[0].sum())
    n_train = len(labels) - n_test
    others = [number for number in range(len(summaries)) if number != best]
    adjusted = holm([paired_test(correct[best], correct[number], n_train) for number in others])
    for number, summary in enumerate(summaries):
        differences = np.subtract(summaries[best]["accuracies"], summary["accuracies"])
        summary["behind"] = float(differences.mean())
        summary["behind_interval"] = (
            list(difference_interval(differences, n_train, n_test)) if len(splits) > 1 and number != best else None
        )
        summary["p_value"] = None if number == best else adjusted[others.index(number)]
