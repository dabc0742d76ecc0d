"""Test images that have a near-copy in training, and a head's figures with and without them."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from features.safefiles.csv_cells import path_cell, text_cell
from features.splits import NEAR_COPIES, SPLITS
from features.store.schema import Rows

from ..data.near_copies import NearCopies
from ..evaluation.intervals import intervals_of
from ..evaluation.metrics import METRICS, evaluate

_SPLITS = {code: name for name, code in SPLITS.items()}


def several(found: NearCopies) -> list[np.ndarray]:
    """Return the images of each cluster that has more than one, the largest cluster first."""
    order = np.argsort(found.clusters, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(found.clusters[order])) + 1)
    return sorted((part for part in parts if len(part) > 1), key=lambda part: -len(part))


def count_clusters(found: NearCopies, rows: Rows, split: np.ndarray) -> dict[str, int]:
    """Return how many clusters there are, and how many have images in several splits, under several labels, or copies."""
    clusters, test = several(found), split == SPLITS["test"]
    contents = np.unique(rows.sha256, axis=0, return_inverse=True)[1].ravel()
    return {
        "images": len(rows),
        "clusters": len(clusters),
        "images_in_clusters": sum(map(len, clusters)),
        "largest": max(map(len, clusters), default=1),
        "with_byte_copies": sum(len(set(contents[each])) < len(each) for each in clusters),
        "across_splits": sum(len(set(split[each])) > 1 for each in clusters),
        "across_labels": sum(len(set(rows.labels[each])) > 1 for each in clusters),
        "test_images": int(test.sum()),
        "test_images_exposed": int(found.exposed(test).sum()),
    }


def with_and_without(
    labels: np.ndarray,
    splits: Sequence[np.ndarray],
    probabilities: Sequence[np.ndarray],
    found: NearCopies,
    units: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return a head's test metrics on all test images, on those without a near-copy in training, and on the others.

    Parameters
    ----------
    labels : ndarray of shape (n_images,), int
    splits : sequence of ndarray of shape (n_images,)
    probabilities : sequence of ndarray of shape (n_test, n_classes)
        Of the test images of each split.
    found : NearCopies
    units : ndarray of shape (n_images,), int, optional
        The group of each image, which intervals count; by default, they count images.

    Returns
    -------
    figures : dict
        ``all``, ``without`` and ``exposed``: each the number of ``images``, the metrics, each the mean over splits that have such
        images, None where undefined, and their 95 % ``intervals`` if there is one split. None if no split has such images.
    """
    parts: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {"all": [], "without": [], "exposed": []}
    units = np.arange(len(labels)) if units is None else units
    for split, given in zip(splits, probabilities, strict=True):
        test = split == SPLITS["test"]
        exposed = found.exposed(test)[test]
        for name, some in (("all", np.ones(len(exposed), bool)), ("without", ~exposed), ("exposed", exposed)):
            if some.any():
                among = np.unique(units[test][some], return_inverse=True)[1]
                parts[name].append((labels[test][some], given[some], among))
    return {name: _figures(held) for name, held in parts.items()}


def _figures(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, Any] | None:
    if not parts:
        return None
    scores = [evaluate(y, given) for y, given, _ in parts]
    intervals = intervals_of(*parts[0]) if len(parts) == 1 else {}
    means = {each.name: float(np.mean([score[each.name] for score in scores])) for each in METRICS}
    return {
        "images": sum(len(y) for y, *_ in parts),
        **{name: None if math.isnan(value) else value for name, value in means.items()},
        "intervals": {name: list(ends) for name, ends in intervals.items() if not math.isnan(ends[0])},
    }


def write_clusters(folder: Path, rows: Rows, found: NearCopies) -> None:
    """Write ``clusters.csv``, ``pairs.csv`` and ``groups.csv``.

    ``clusters.csv`` has a line per image of a cluster of several, with the most alike of the others; ``pairs.csv`` a line per
    test image that has a near-copy in train or val, with the most alike of these; ``groups.csv`` a line per image, as a source.
    """
    names, split = rows.class_names, rows.splits

    def told(row: int) -> list[Any]:
        return [path_cell(rows.paths[row]), _SPLITS[int(split[row])], text_cell(names[rows.labels[row]])]

    clusters = several(found)
    with open(folder / "clusters.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["cluster", "path", "split", "label", "nearest", "likeness"])
        for number, images in enumerate(clusters, start=1):
            for row, other, alike in zip(images.tolist(), *found.nearest(images, images), strict=True):
                table.writerow([number, *told(row), path_cell(rows.paths[other]), f"{alike:.3f}"])
    exposed = np.flatnonzero(found.exposed(split == SPLITS["test"]))
    nearest, likeness = found.nearest(exposed, np.flatnonzero(split != SPLITS["test"]))
    with open(folder / "pairs.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "split", "label", "nearest", "nearest_split", "nearest_label", "likeness"])
        for place in np.argsort(-likeness, kind="stable"):
            table.writerow([*told(int(exposed[place])), *told(int(nearest[place])), f"{likeness[place]:.3f}"])
    columns = {name: texts for name, texts in rows.columns.items() if name != NEAR_COPIES}
    with open(folder / "groups.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", *columns, NEAR_COPIES])
        for row, path in enumerate(rows.paths):
            held = (text_cell(texts[row]) for texts in columns.values())
            table.writerow(
                [path_cell(path), text_cell(names[rows.labels[row]]), *held, path_cell(rows.paths[found.clusters[row]])]
            )
