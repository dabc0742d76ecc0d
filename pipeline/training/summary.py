"""Summary of a head's results over all splits, and its comparison with the best head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from features.splits import SPLITS

from ..evaluation.metrics import METRICS
from ..evaluation.significance import NEEDS, accuracy_interval, difference_interval, holm, paired_test
from ..heads.settings import describe_settings
from .fit import Result

_OTHERS = tuple(each.name for each in METRICS[1:])  # all but accuracy


def summarise(results: list[Result], split: np.ndarray) -> dict[str, Any]:
    """Return a head's test metrics, averaged over splits; all splits have the sizes of `split`."""

    def mean(scores: list[float]) -> float | None:
        value = float(np.mean(scores))
        return None if math.isnan(value) else value

    accuracies = [each.test["accuracy"] for each in results]
    n_test = int(np.sum(split == SPLITS["test"]))
    first = results[0]
    interval = accuracy_interval(accuracies, len(split) - n_test, n_test)
    if first.group is not None and len(results) == 1:
        interval = first.intervals["accuracy"]  # it resamples whole groups
    return {
        "head": first.head,
        "layer": first.layer,
        "pool": first.pool,
        "views": first.views,
        "n_features": first.n_features,
        "group": first.group,
        "chosen": describe_settings([each.settings for each in results], first.tried),
        "accuracy": float(np.mean(accuracies)),
        "accuracy_interval": _ends(interval),
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
    """Return summaries by descending accuracy, ties by fit time; the head that others were compared with comes first."""
    return sorted(summaries, key=lambda each: (standing(each) != "best", -each["accuracy"], each["fit_seconds"]))


def standing(summary: dict[str, Any]) -> str:
    """Return how a head compares with the best: ``best``, ``same`` (not distinguishable), ``behind`` or ``untested``."""
    p_value = summary["p_value"]
    if summary.get("is_best", p_value is None):  # in runs of earlier versions, only the best lacks a p-value
        return "best"
    return "untested" if p_value is None else "same" if p_value >= 0.05 else "behind"


def with_interval(value: float, interval: Sequence[float] | None) -> str:
    """Return a value for a table with its interval, or with what an interval would need."""
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else f"{value:.3f} ({NEEDS})"


def compare_with_best(
    summaries: list[dict[str, Any]], results: list[list[Result]], labels: np.ndarray, splits: Sequence[np.ndarray]
) -> None:
    """Add to each summary how far the head is behind the most accurate, and whether the difference is significant.

    ``is_best`` marks the most accurate. ``behind`` is the mean difference in accuracy, ``behind_interval`` its interval over
    several splits, and ``p_value`` the p-value of the paired test, adjusted by Holm's method. The last two are None for the
    best head, and for all heads if there are fewer splits than they need.
    """
    tests = [split == SPLITS["test"] for split in splits]
    correct = [
        [each.probabilities.argmax(axis=1) == labels[test] for each, test in zip(those, tests, strict=True)]
        for those in results
    ]
    best = max(range(len(summaries)), key=lambda number: summaries[number]["accuracy"])
    n_train = len(labels) - int(tests[0].sum())
    others = [number for number in range(len(summaries)) if number != best]
    tested = {number: paired_test(correct[best], correct[number], n_train) for number in others}
    known = {number: p_value for number, p_value in tested.items() if p_value is not None}
    adjusted = dict(zip(known, holm(list(known.values())), strict=True))
    for number, summary in enumerate(summaries):
        behind = None if number == best else difference_interval(correct[best], correct[number], n_train)
        summary["is_best"] = number == best
        summary["behind"] = float(np.mean(np.subtract(summaries[best]["accuracies"], summary["accuracies"])))
        summary["behind_interval"] = _ends(behind)
        summary["p_value"] = adjusted.get(number)


def _ends(interval: tuple[float, float] | None) -> list[float] | None:
    """Return an interval in JSON-serialisable form."""
    return interval and list(interval)
