"""Results in a report: the leaderboard, charts and confusion matrices, laid out for the templates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evaluation.metrics import METRICS, Metric
from ..evaluation.significance import NEEDS, told_p
from ..runs.plots import interval_of
from ..runs.predictions import Predictions
from ..training.summary import BASELINE, standing
from . import charts, curves


def _title(metric: Metric) -> str:
    """Return a metric's title, with its unit if it has one."""
    return f"{metric.title[0].upper()}{metric.title[1:]}{', nats' if metric.name == 'log_loss' else ''}"


# Columns of the leaderboard: key, title, digits, description, and whether greater is better.
COLUMNS = (
    *((m.name, _title(m), m.digits, m.help, m.greater_is_better) for m in METRICS),
    ("fit_seconds", "Fit, s", 2, "seconds to choose settings and fit", False),
    ("predict_seconds", "Predict, s", 3, "seconds to predict the test images", False),
)
MATRIX_CLASSES, PAIRS = 20, 15  # with more classes, the most frequent confusions are listed instead of a matrix
CLASS_CURVES = 300  # of single classes, over all heads
SLICES = 20  # rows of the table of slices
_BAR = (4.0, 136.0)  # horizontal range of intervals in a row of the leaderboard


def leaderboard(heads: Sequence[dict[str, Any]], metric: Metric) -> dict[str, Any]:
    """Return the rows of the leaderboard, with all intervals of the metric on a common axis; its column comes first."""
    axis = charts.Axis(*_range(heads, metric), *_BAR, metric.name)
    rows = []
    for rank, head in enumerate(heads, start=1):
        low, high = _ends(head, metric)
        place = {name: axis.at(value) for name, value in (("low", low), ("high", high), ("dot", _value(head, metric)))}
        told = {"interval": interval_of(head, metric.name), "p": _p(head), "bar": _cut(place)}
        rows.append({**head, **told, "rank": rank, "standing": standing(head)})
    layers = list(dict.fromkeys(head["layer"].replace("+", " + ") for head in heads))
    known = [each for each in COLUMNS if each[0] in heads[0]]  # runs of earlier versions have fewer metrics
    columns = sorted(known, key=lambda each: each[0] != metric.name)
    ends = (f"{axis.low:.2f}", f"{axis.high:.2f}")
    return {"columns": columns, "rows": rows, "layers": layers, "ends": ends}


def time_chart(heads: Sequence[dict[str, Any]], metric: Metric) -> dict[str, Any]:
    """Return the chart of the metric against fit time."""
    marks = [
        Mark(head["head"], max(head["fit_seconds"], 1e-3), f"fitted in {head['fit_seconds']:.2f} s") for head in heads
    ]
    return cost_chart(heads, marks, metric, "seconds to choose and fit")


@dataclass(frozen=True)
class Mark:
    """A point of a cost chart: its name, its cost, and what is said of that."""

    name: str
    cost: float
    told: str


def cost_chart(rows: Sequence[dict[str, Any]], marks: Sequence[Mark], metric: Metric, label: str) -> dict[str, Any]:
    """Return the chart of the metric of rows against a cost, on a logarithmic axis with this label."""
    low, high = _range(rows, metric)
    box = charts.frame(
        charts.decades([each.cost for each in marks]), (low, high), (label, f"test {metric.words}"), log=True
    )
    inside = [(row, mark) for row, mark in zip(rows, marks, strict=True) if _is_inside(row, metric, low, high)]
    points = [(box.x.at(mark.cost), box.y.at(min(high, max(low, _value(row, metric))))) for row, mark in inside]
    lines = [
        (x - 1, box.y.at(min(high, _ends(row, metric)[1])), x + 1, box.y.at(max(low, _ends(row, metric)[0])))
        for (row, _), (x, _) in zip(inside, points, strict=True)
    ]
    labels = charts.place_labels(points, [mark.name for _, mark in inside], lines, box)
    drawn = [
        {
            "x": x,
            "y": y,
            "low": line[3],
            "high": line[1],
            "name": mark.name,
            "standing": standing(row),
            "label": text,
            "title": f"{mark.name}: {row[metric.name]:.{metric.digits}f}, {mark.told}",
        }
        for (row, mark), (x, y), line, text in zip(inside, points, lines, labels, strict=True)
    ]
    outside = [
        (mark.name, row[metric.name])
        for row, mark in zip(rows, marks, strict=True)
        if not _is_inside(row, metric, low, high)
    ]
    return {"frame": box, "points": drawn, "outside": outside}


def layer_chart(layers: Sequence[dict[str, Any]], metric: Metric) -> dict[str, Any]:
    """Return the chart of a metric per layer."""
    layers = [layer for layer in layers if layer[metric.name] is not None]
    low, high = _range(layers, metric)
    height = 60 + 34 * len(layers)
    box = charts.frame((low, high), (0, 1), (f"test {metric.words}", ""), height=height)
    rows = []
    for number, layer in enumerate(layers):
        ends = _ends(layer, metric)
        rows.append(
            {
                "y": 34 + 34 * number,
                "low": box.x.at(ends[0]),
                "high": box.x.at(ends[1]),
                "x": box.x.at(_value(layer, metric)),
                "name": layer["layer"].replace("+", " + "),
                "text": f"{_value(layer, metric):.{metric.digits}f}",
                "standing": standing(layer),
            }
        )
    return {"frame": box, "rows": rows, "metric": metric.words}


def slice_rows(told: dict[str, Any], metric: Metric) -> dict[str, Any]:
    """Return the slices of a run's head to take, with bars on a common axis; those that stand out come first."""
    shown = [
        {**each, metric.name: each["metric"], "intervals": {metric.name: each["interval"]}} for each in told["slices"]
    ]
    axis = charts.Axis(*_range([{**each, "accuracy_interval": None} for each in shown], metric), *_BAR, metric.name)
    rows = []
    for each in shown[:SLICES]:
        low, high = each["interval"] or (_value(each, metric),) * 2
        place = {name: axis.at(value) for name, value in (("low", low), ("high", high), ("dot", _value(each, metric)))}
        stands_out = each["p_value"] is not None and each["p_value"] < 0.05
        p = "–" if each["p_value"] is None else told_p(each["p_value"])
        rows.append(
            {**each, "bar": _cut(place), "standing": "best" if stands_out else "same", "p": p, "out": stands_out}
        )
    return {
        "rows": rows,
        "all": len(shown),
        "out": sum(row["p_value"] is not None and row["p_value"] < 0.05 for row in shown),
        "head": told["head"],
        "tests": told["tests"],
        "left_out": told["left_out"],
        "grouped": told["group"] is not None,
    }


def head_charts(predictions: Predictions, heads: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return ROC, precision-recall and reliability curves of each head, with one frame per kind."""
    pairs = [predictions.pairs(head["head"]) for head in heads]
    n_classes = len(predictions.rows.class_names)
    unit, chance = (0.0, 1.0), 1 / n_classes
    rocs, precisions = [curves.roc(each) for each in pairs], [curves.precision_recall(each) for each in pairs]
    least = 0.0 if n_classes > 2 else min((float(curve[1].min()) for curve in precisions if curve), default=0.0)
    frames = {
        "roc": charts.frame(unit, unit, ("false positive rate", "true positive rate")),
        "pr": charts.frame(unit, (min(0.9, math.floor(10 * least) / 10), 1.0), ("recall", "precision")),
        "reliability": charts.frame((chance, 1.0), unit, ("confidence", "accuracy")),
    }
    lines = {
        "roc": [curve and frames["roc"].path(*curves.thin(curve)) for curve in rocs],
        "pr": [curve and frames["pr"].path(*curves.thin(curve)) for curve in precisions],
        "reliability": [_reliability(each, frames["reliability"]) for each in pairs],
    }
    return {
        "frames": frames,
        "lines": lines,
        "of_classes": [curves.class_calibration(each) for each in pairs],
        "by_class": _class_curves(pairs, n_classes, frames) if n_classes > 2 else {},
    }


def _class_curves(
    pairs: Sequence[Sequence[curves.Pair]], n_classes: int, frames: dict[str, charts.Frame]
) -> dict[str, list[list[str | None]]]:
    """Return each class's curves against the rest, by kind, head and class, of as many heads as a page should hold."""
    found: dict[str, list[list[str | None]]] = {}
    for kind, draw in (("roc", curves.roc), ("pr", curves.precision_recall)):
        found[kind] = []
        for each in pairs[: max(1, CLASS_CURVES // n_classes)]:
            drawn = (draw(each, label) for label in range(n_classes))
            found[kind].append([curve and frames[kind].path(*curves.thin(curve)) for curve in drawn])
    return found


def _reliability(pairs: Sequence[curves.Pair], box: charts.Frame) -> list[dict[str, Any]]:
    confidence, accuracy, counts = curves.reliability(pairs)
    return [
        {
            "x": box.x.at(max(box.x.low, float(c))),
            "y": box.y.at(float(a)),
            "ideal": box.y.at(float(c)),
            "r": round(2.5 + 7 * float(np.sqrt(n / counts.sum())), 1),
            "title": f"{n} predictions of mean confidence {c:.3f}: accuracy {a:.3f}",
        }
        for c, a, n in zip(confidence, accuracy, counts.tolist(), strict=True)
    ]


def confusion(predictions: Predictions, head: str, most: int = MATRIX_CLASSES) -> dict[str, Any]:
    """Return a head's confusion matrix, or its most frequent confusions if there are more than `most` classes."""
    counts, names = curves.confusion(predictions.pairs(head)), predictions.rows.class_names
    totals = counts.sum(axis=1)
    wrong = counts * (1 - np.eye(len(names), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    pairs = [
        {
            "true": names[t],
            "predicted": names[p],
            "t": int(t),
            "p": int(p),
            "count": int(wrong[t, p]),
            "share": float(wrong[t, p] / totals[t]),
        }
        for t, p in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[t, p]
    ]
    if len(names) > most:
        return {"rows": [], "names": names, "pairs": pairs}
    rows = []
    for t, name in enumerate(names):
        shares = counts[t] / max(1, totals[t])
        cells = [
            {"count": int(count), "share": float(share), "level": round(10 * float(share)), "right": t == p, "p": p}
            for p, (count, share) in enumerate(zip(counts[t], shares, strict=True))
        ]
        rows.append({"name": name, "cells": cells, "t": t})
    return {"rows": rows, "names": names, "pairs": pairs}


def operating_point(told: dict[str, Any]) -> dict[str, Any] | None:
    """Return a run's operating point with its figures on test beside those of the likeliest class; None if it has none."""
    point = told.get("operating_point")  # runs of earlier versions have none
    if point is None:
        return None
    of = {each["name"]: each for each in told["by_class"]}
    positive, other, metrics = of[point["positive"]], of[point["other"]], told["test"]
    usual = {"sensitivity": positive["recall"], "specificity": other["recall"], "precision": positive["precision"]}
    rows = [
        {
            "name": name.replace("_", " "),
            "value": point["test"][name],
            "interval": interval,
            "usual": usual.get(name, metrics.get(name)),
            "out_of_fold": point["out_of_fold"][name],
        }
        for name, interval in point["test"]["intervals"].items()
    ]
    return {**point, "chosen_for": point["chosen_for"].replace("_", " "), "rows": rows}


def history_charts(history: dict[str, list[float]], kept: int) -> list[dict[str, Any]]:
    """Return charts of loss and accuracy by epoch, with the chosen epoch marked."""
    drawn = []
    for name in ("loss", "accuracy"):
        lines = [(kind, history[key]) for kind, key in (("train", name), ("val", f"val_{name}")) if key in history]
        if not lines:
            continue
        epochs = len(lines[0][1])
        values = [value for _, line in lines for value in line]
        span = charts.widened(values, within=(0.0, 1.0 if name == "accuracy" else math.inf))
        box = charts.frame((1, max(2, epochs)), span, ("epoch", name), height=240)
        drawn.append(
            {
                "name": name,
                "frame": box,
                "kept": box.x.at(min(max(kept, 1), epochs)),
                "epoch": kept,
                "lines": [
                    {"kind": kind, "d": box.path(range(1, epochs + 1), line), "last": line[kept - 1]}
                    for kind, line in lines
                ],
            }
        )
    return drawn


def _range(heads: Sequence[dict[str, Any]], metric: Metric) -> tuple[float, float]:
    """Return the range of a metric, ignoring the baseline, which may be far off."""
    shown = [head for head in heads if head.get("head") != BASELINE] or heads
    ends = [end for head in shown for end in _ends(head, metric) if not math.isnan(end)] or [0.0, 1.0]
    return charts.widened(ends, within=(-1.0, 1.0) if metric.greater_is_better else (0.0, math.inf))


def _value(head: dict[str, Any], metric: Metric) -> float:
    """Return a head's metric, nan if it is undefined."""
    value = head[metric.name]
    return math.nan if value is None else value


def _ends(head: dict[str, Any], metric: Metric) -> tuple[float, float]:
    """Return the ends of a head's bar: its interval, or where there is none the metric itself."""
    low, high = interval_of(head, metric.name) or (_value(head, metric),) * 2
    return low, high


def _is_inside(head: dict[str, Any], metric: Metric, low: float, high: float) -> bool:
    """Return whether a part of a head's bar is within a range; never for an undefined metric."""
    ends = _ends(head, metric)
    return ends[1] > low and ends[0] < high


def _cut(place: dict[str, float]) -> dict[str, Any]:
    """Return a bar clipped to its column; ``off`` says on which side all of it is outside, if it is."""
    if math.isnan(place["dot"]):
        return {"off": "none", "cut": True}
    inside = {name: min(max(value, _BAR[0]), _BAR[1]) for name, value in place.items()}
    off = "below" if place["high"] <= _BAR[0] else "above" if place["low"] >= _BAR[1] else ""
    return {**inside, "off": off, "cut": not _BAR[0] <= place["dot"] <= _BAR[1]}


def _p(head: dict[str, Any]) -> str:
    return NEEDS if head["p_value"] is None else told_p(head["p_value"])
