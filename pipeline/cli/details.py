"""A head's confusion matrix and figures of each class, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from features.splits import SPLITS

from ..evaluation.significance import with_interval
from ..runs.predictions import Predictions, load_predictions

_MOST = 20  # classes of a matrix


def format_details(folder: str | Path, head: str, by_class: Sequence[Mapping[str, Any]]) -> str:
    """Return the tables of one head of a run, on all its test images."""
    predictions = load_predictions(Path(folder))
    return "\n".join([*_matrix(predictions, head), "", *_classes(head, by_class)])


def _matrix(predictions: Predictions, head: str) -> Iterator[str]:
    names = predictions.rows.class_names
    if len(names) > _MOST:
        yield f"{head}: {len(names)} classes are too many for a confusion matrix here; the report lists the most frequent confusions"
        return
    counts = np.zeros((len(names), len(names)), int)
    tests = predictions.splits == SPLITS["test"]
    for test, probabilities in zip(tests, predictions.probabilities[head], strict=True):
        np.add.at(counts, (predictions.rows.labels[test], probabilities.argmax(axis=1)), 1)
    widths = [max(len(name), len(str(counts[:, place].max()))) for place, name in enumerate(names)]
    first = max(map(len, ("true \\ predicted", *names)))
    yield f"{head}: test images by true class (rows) and predicted class" + (
        f", of {len(tests)} splits" if len(tests) > 1 else ""
    )
    yield "  ".join(["true \\ predicted".ljust(first), *(name.rjust(w) for name, w in zip(names, widths, strict=True))])
    for name, row in zip(names, counts.tolist(), strict=True):
        yield "  ".join([name.ljust(first), *(str(each).rjust(w) for each, w in zip(row, widths, strict=True))])


def _classes(head: str, by_class: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    first = max(map(len, ("class", *(row["name"] for row in by_class))))
    yield f"{head}: figures of each class on test images, with 95 % intervals"
    yield f"{'class'.ljust(first)}  images  {'precision':<22}  {'recall':<22}  F1"
    for row in by_class:
        ends = [with_interval(row[name], row[f"{name}_interval"]).ljust(22) for name in ("precision", "recall")]
        yield f"{row['name'].ljust(first)}  {row['support']:>6}  {'  '.join(ends)}  {with_interval(row['f1'], None)}"
