"""Summary of a head's results over all splits, and its comparison with the best head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from features.errors import UnsafeFile, command, counted
from features.runtime.log import log
from features.splits import SPLITS
from features.store.schema import Rows

from ..evaluation.decisions.by_class import pooled
from ..evaluation.held_out import HeldOut
from ..evaluation.intervals import interval_of_mean
from ..evaluation.metrics import METRICS, Metric
from ..evaluation.significance import NEEDS, compare_pair, holm, told_p
from ..evaluation.slices import find_slices
from ..heads.registry import find_head
from ..heads.settings import describe_settings
from ..options import METRIC, SELECT, CompareOptions, TrainHeadOptions, keep_options
from ..runs.predictions import Predictions
from .fits.results import Result
from .splitting import side_keys

FEW_GROUPS = 6  # in test: fewer give a p-value of at least 1/16


def tested_rows(rows: Rows, splits: Sequence[np.ndarray], group: str | None) -> list[HeldOut]:
    """Return the test rows of each split of images, in groups if a column names them."""
    keys = None if group is None else side_keys(rows, group)
    return [HeldOut.of(rows.labels, split, keys) for split in splits]


def warn_of_few_groups(tested: Sequence[HeldOut], group: str | None) -> None:
    """Warn if no test can tell heads apart: with five groups, all of which speak for one head, p is 1/16."""
    groups = min(each.n_units for each in tested)
    if group is not None and groups < FEW_GROUPS:
        log.warning(
            f"test has {counted(groups, 'group')} ({group}): fewer than {FEW_GROUPS} can hardly tell heads apart, whatever these predict, so "
            "'not distinguishable' says little, and intervals are wide. Add images of other groups"
        )


def summarise(results: list[Result], tested: Sequence[HeldOut]) -> dict[str, Any]:
    """Return a head's test metrics, averaged over splits, with their intervals.

    Parameters
    ----------
    results : list of Result
        One per split, with the probabilities of the test rows.
    tested : sequence of HeldOut
        The test rows of each split.
    """

    def mean(scores: list[float]) -> float | None:
        value = float(np.mean(scores))
        return None if math.isnan(value) else value

    first = results[0]
    known = [each for each in METRICS if each.name in first.test]  # runs of earlier versions have fewer metrics
    values = {each.name: [result.test[each.name] for result in results] for each in known}
    intervals = {
        each.name: _ends(
            interval_of_mean(
                each,
                values[each.name],
                [result.intervals[each.name] for result in results],
                tested,
                [result.probabilities for result in results],
            )
        )
        for each in known
        if each.name in first.intervals
    }
    return {
        "head": first.head,
        "layer": first.layer,
        "pool": first.pool,
        "views": first.views,
        "n_features": first.n_features,
        "group": first.group,
        "chosen": describe_settings([each.settings for each in results], first.tried),
        "accuracy_interval": intervals.get("accuracy"),
        "accuracies": values["accuracy"],
        "intervals": intervals,
        **{name: mean(scores) for name, scores in values.items()},
        "by_class": pooled([each.by_class for each in results]),
        "fit_seconds": mean([each.fit_seconds for each in results]),
        "predict_seconds": mean([each.predict_seconds for each in results]),
    }


def slices_of(
    name: str, results: Sequence[Result], rows: Rows, splits: Sequence[np.ndarray], metric: Metric
) -> dict[str, Any] | None:
    """Return the slices of a head's test images by each column of the store; None if it has none. See `find_slices`.

    Of several splits, each image counts once, by its mean probabilities over the splits that test it.
    """
    if not rows.columns:
        return None
    told, kept = {name: [each.told() for each in results]}, {name: [each.probabilities for each in results]}
    probabilities = Predictions(rows, np.stack(splits), told, kept).mean(name)
    ever = np.where(np.isfinite(probabilities[:, 0]), SPLITS["test"], SPLITS["train"])
    (tested,) = tested_rows(rows, [ever], results[0].group)
    test = np.flatnonzero(ever == SPLITS["test"])
    group = results[0].group
    columns = {column: [texts[row] for row in test] for column, texts in rows.columns.items() if column != group}
    found = find_slices(metric, tested, probabilities[test], columns).to_json()
    if group is not None:
        found["left_out"][group] = "its values are the groups"
    return {"head": name, "group": group, **found}


def rank(summary: dict[str, Any], metric: Metric) -> float:
    """Return a number by which heads are sorted, the best first; an undefined metric comes last."""
    value = summary.get(metric.name)
    return math.inf if value is None else -value if metric.greater_is_better else value


def best_first(summaries: list[dict[str, Any]], metric: Metric) -> list[dict[str, Any]]:
    """Return summaries, the best first, ties by fit time; the head that others were compared with comes before all."""
    return sorted(summaries, key=lambda each: (standing(each) != "best", rank(each, metric), each["fit_seconds"]))


def standing(summary: dict[str, Any]) -> str:
    """Return how a head compares with the best: ``best``, ``same`` (not distinguishable), ``behind`` or ``untested``."""
    p_value = summary["p_value"]
    if summary.get("is_best", p_value is None):  # in runs of earlier versions, only the best lacks a p-value
        return "best"
    return "untested" if p_value is None else "same" if p_value >= 0.05 else "behind"


def told_behind(summary: dict[str, Any], digits: int) -> str:
    """Return how far a row of a table is behind the best, with the p-value of the paired test, or with what that needs."""
    if standing(summary) == "best":
        return "best"
    if summary["behind"] is None:
        return "-"
    p_value = summary["p_value"]
    return f"{summary['behind']:.{digits}f} ({NEEDS if p_value is None else told_p(p_value)})"


def told_cost(summary: dict[str, Any], metric: Metric) -> str:
    """Return what a head that is not distinguishable from the best may cost, in words; empty in runs that do not tell."""
    ends = summary.get("behind_interval")
    if not ends:
        return ""
    return f"it may cost up to {told_loss(ends[1], metric)} (95 %: {_in_units(ends[0], metric)} to {_in_units(ends[1], metric)})"


def told_loss(loss: float, metric: Metric) -> str:
    """Return a loss in words: in points, or, of a metric that falls as heads get better, in its own unit."""
    points = f" {'point' if loss == 0.01 else 'points'}" if metric.greater_is_better else ""
    return f"{_in_units(loss, metric)}{points} of {metric.words}"


def _in_units(loss: float, metric: Metric) -> str:
    return f"{100 * loss:.1f}" if metric.greater_is_better else f"{loss:.{metric.digits}f}"


# Heads by how much there is to them; others come last.
_SIMPLE = (
    ("nearest-mean", "logistic", "ridge", "lda", "linear-svm"),
    ("knn", "rbf-svm"),
    ("dense", "mlp"),
    ("vote", "hist-gradient-boosting"),
)
BASELINE = "majority"


def recommended(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the head to take: of those not distinguishable from the best, the simplest kind, and of that kind the quickest.

    Not distinguishable is not equal: `told_cost` says what it may cost. The baseline is taken only where it is the best.

    Parameters
    ----------
    summaries : sequence of dict
        Heads of a comparison, best first.
    """
    if summaries[0]["head"] == BASELINE:
        return summaries[0]
    equal = [each for each in summaries if standing(each) in ("best", "same") and each["head"] != BASELINE]

    def effort(summary: dict[str, Any]) -> tuple[int, float]:
        kind = next((number for number, names in enumerate(_SIMPLE) if summary["head"] in names), len(_SIMPLE))
        return kind, summary["fit_seconds"]

    return min(equal, key=effort)


def told_options(options: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return the options of a comparison as its results keep them: those by which its commands differ from the usual ones.

    Not where results go, nor which machines computed them.
    """
    once = ("out", "overwrite", "fresh", "cluster", "skip_unfit")
    return {name: value for name, value in {**options, **more}.items() if value and name not in once}


def options_of(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with which results were made; those of earlier versions keep a few, each under its own name."""
    usual = {"metric": METRIC, "select": SELECT, "seed": 0}
    earlier = {name: told[name] for name, value in usual.items() if told.get(name, value) != value}
    held = told.get("asked", earlier)
    if not isinstance(held, Mapping):
        raise UnsafeFile(f"results must name their options; got {held!r:.40}. Run the same command again.")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in held.items()}


def train_command(told: Mapping[str, Any], **options: Any) -> str:
    """Return the command that trains a head as in a run: that of ``run.json``, or the one to take of ``compare.json``."""
    taken = recommended(told["heads"])["head"] if told.get("heads") else told["head"]
    kept = {**keep_options(options_of(told), TrainHeadOptions), **options}
    if "settings" in kept:  # settings of other heads would be refused
        kept["settings"] = {name: tried for name, tried in kept["settings"].items() if name in find_head(taken).grid}
    return command("train-head", store=told["store"], head=taken, **kept)


def compare_command(told: Mapping[str, Any], **options: Any) -> str:
    """Return the command that compares the same heads as a comparison did, with other options."""
    asked = options_of(told)
    heads = {"heads": asked["heads"]} if "heads" in asked else {}
    return command("compare", store=told["store"], **heads, **{**keep_options(asked, CompareOptions), **options})


def compare_with_best(
    summaries: list[dict[str, Any]], results: list[list[Result]], tested: Sequence[HeldOut], metric: Metric
) -> None:
    """Add to each summary how far the head is behind the best by a metric, and whether the difference is significant.

    ``is_best`` marks the best. ``behind`` is the mean difference in the metric, positive if the head is worse,
    ``behind_interval`` its 95 % interval, ``p_value`` the p-value of the paired test, adjusted by Holm's method,
    and ``test`` that test's name. The last three are None for the best head, and where they are undefined; intervals and
    p-values are None for all heads if there are fewer splits than they need.
    """
    best = min(range(len(summaries)), key=lambda number: rank(summaries[number], metric))
    of_best = [each.probabilities for each in results[best]]
    found = {
        number: compare_pair(metric, tested, of_best, [each.probabilities for each in those])
        for number, those in enumerate(results)
        if number != best
    }
    known = {number: each.p_value for number, each in found.items() if each.p_value is not None}
    adjusted = dict(zip(known, holm(list(known.values())), strict=True))
    for number, summary in enumerate(summaries):
        pair = found.get(number)
        summary["is_best"] = number == best
        summary["behind"] = 0.0 if pair is None else None if math.isnan(pair.behind) else pair.behind
        summary["behind_interval"] = pair and _ends(pair.interval)
        summary["p_value"] = adjusted.get(number)
        summary["test"] = pair and pair.test


def names_of_tests(summaries: Sequence[dict[str, Any]]) -> str:
    """Return the names of the tests between heads."""
    return " or ".join(dict.fromkeys(each["test"] for each in summaries if each["test"]))


def _ends(interval: tuple[float, float] | None) -> list[float] | None:
    """Return an interval in JSON-serialisable form."""
    return interval and list(interval)
