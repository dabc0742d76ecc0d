"""The table of a comparison: as Markdown, sorted by any figure, and as rows of ``compare.csv``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from features.errors import called, must_be_one_of

from ..evaluation.metrics import METRICS, find_metric
from ..evaluation.significance import with_interval
from ..runs.plots import interval_of
from .summary import standing, told_behind

COLUMNS = (
    "head", "layer", "pool", "n_features", "chosen", "metric", "behind", "p_value",
    *(f"{each.name}{end}" for each in METRICS for end in (("", "_low", "_high") if each.interval else ("",))),
    "fit_seconds", "predict_seconds", "bytes_per_image", "not_fitted",
)  # fmt: skip
SORTS = ("head", *(each.name for each in METRICS), "fit_seconds", "predict_seconds")  # what a table can be sorted by


def format_table(comparison: dict[str, Any], sort: str | None = None) -> str:
    """Return a comparison as a Markdown table; the metric by which heads are ranked comes first.

    Parameters
    ----------
    comparison : dict
        The content of ``compare.json``.
    sort : str, optional
        Order heads by this member of ``SORTS``, the best or quickest first, instead of by their rank.
    """
    metric, repeats = find_metric(comparison["metric"]), comparison["repeats"]
    others = [each for each in METRICS if each.in_table and each != metric]
    titles = ["head", "features", "chosen", f"{metric.title} [95 %]", "behind the best (p)"]
    titles += [*(each.title for each in others), "fit s", "predict s"]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for head in _sorted(comparison["heads"], sort):
        scores = " | ".join(with_interval(head[each.name], None, 1, each.digits) for each in others)
        value = with_interval(head[metric.name], interval_of(head, metric.name), repeats, metric.digits)
        lines.append(
            f"| {head['head']} | {head['layer']} {head['pool']}, {head['n_features']} | {head['chosen'] or '-'} "
            f"| {value} | {told_behind(head, metric.digits)} | {scores} "
            f"| {head['fit_seconds']:.2f} | {head['predict_seconds']:.3f} |"
        )
    lines += [not_fitted_line([name], why, len(titles)) for name, why in comparison["not_fitted"].items()]
    same = [head["head"] for head in comparison["heads"] if standing(head) == "same"]
    if same:
        best, test = comparison["heads"][0]["head"], comparison["test"]
        lines += [
            "",
            f"Not distinguishable from {best} in {metric.name} ({test}, Holm, 5 %): {', '.join(same)}.",
        ]
    return "\n".join(lines)


def not_fitted_line(names: Sequence[str], why: str, columns: int) -> str:
    """Return the line of a table of so many columns for what was not fitted: its names, and why."""
    told = " ".join(why.split()).replace("|", r"\|")
    return f"| {' | '.join(names)} | not fitted: {told} |{' |' * (columns - len(names) - 1)}"


def _sorted(heads: Sequence[dict[str, Any]], by: str | None) -> Sequence[dict[str, Any]]:
    if by is None:
        return heads
    if by not in SORTS:
        raise must_be_one_of(called("sort"), SORTS, by)
    sign = -1 if by in [each.name for each in METRICS if each.greater_is_better] else 1
    if by == "head":
        return sorted(heads, key=lambda head: str(head["head"]))
    return sorted(heads, key=lambda head: math.inf if head[by] is None else sign * head[by])


def table_rows(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of ``compare.csv``: the heads, best first, then those that were not fitted."""
    rows = []
    for head in comparison["heads"]:
        ends = {name: interval or (None, None) for name, interval in head["intervals"].items()}
        lows = {f"{name}_low": low for name, (low, _) in ends.items()}
        highs = {f"{name}_high": high for name, (_, high) in ends.items()}
        rows.append({**head, **lows, **highs, "metric": comparison["metric"]})
    return rows + [{"head": name, "not_fitted": why} for name, why in comparison["not_fitted"].items()]
