"""Rows to check: likely wrong labels, and images that occur in several splits."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from features.runtime.atomic import written_whole
from features.safefiles.csv_cells import path_cell, text_cell
from features.safefiles.regular_files import read_first
from features.splits import SPLITS
from features.store.schema import Rows

_COLUMNS = ("path", "split", "label", "suggested", "p(label)", "p(suggested)")
_HEADER = ",".join(_COLUMNS).encode()


class Suspect(NamedTuple):
    """A row whose label is doubted: the suggested class, and the probabilities of the given and the suggested class."""

    row: int
    suggested: int
    given: float
    likelier: float


def label_errors(y: np.ndarray, probabilities: np.ndarray) -> list[Suspect]:
    """Return rows for which another class is likelier than the label, by descending difference in probability.

    That difference is the normalised margin by which Northcutt, Jiang & Chuang 2021, "Confident learning: estimating uncertainty in
    dataset labels", rank rows. All rows are ranked, and not those alone that are confident of another class: a head that was fitted
    to wrong labels, too, is confident of few of them. How many are to be expected: `expected_errors`.

    Parameters
    ----------
    y : ndarray of shape (n_rows,), int
        Given labels.
    probabilities : ndarray of shape (n_rows, n_classes)
        Out-of-sample; rows of nan are ignored.
    """
    each = np.arange(len(y))
    others = np.where(np.isnan(probabilities), -1.0, probabilities)
    others[each, y] = -1.0
    suggested = others.argmax(axis=1)
    given, likelier = probabilities[each, y], others[each, suggested]
    order = np.argsort(given - likelier, kind="stable")  # nan is last
    return [
        Suspect(row, int(suggested[row]), float(given[row]), float(likelier[row]))
        for row in order.tolist()
        if given[row] < likelier[row]
    ]


def expected_errors(y: np.ndarray, probabilities: np.ndarray) -> float:
    """Return how many labels are wrong, by the calibrated confident joint of confident learning.

    A class is credible for a row if its probability is at least its mean over the rows labelled with that class. The rows of a label
    that are confident of some class, each counted for the most probable of its credible classes, tell which share of all rows of
    the label belongs to which class.

    Parameters
    ----------
    y, probabilities
        See `label_errors`.
    """
    known = ~np.isnan(probabilities).any(axis=1)
    y, probabilities = y[known], probabilities[known]
    present = np.unique(y)
    thresholds = np.full(probabilities.shape[1], np.inf)
    thresholds[present] = [probabilities[y == label, label].mean() for label in present]
    credible = np.where(probabilities >= thresholds, probabilities, -1.0)
    confident, believed = credible.max(axis=1) >= 0, credible.argmax(axis=1)
    expected = 0.0
    for label in present:
        own = (y == label) & confident
        right, wrong = max(1, int(np.sum(own & (believed == label)))), int(np.sum(own & (believed != label)))
        expected += float(np.sum(y == label)) * wrong / (right + wrong)
    return expected


def write_suspects(path: Path, rows: Rows, splits: np.ndarray, suspects: Sequence[Suspect]) -> None:
    """Write a CSV table of all rows whose label is doubted, in the given order."""
    names, codes = rows.class_names, {code: split for split, code in SPLITS.items()}
    with written_whole(path) as new, open(new, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(_COLUMNS)
        for each in suspects:
            label, split = text_cell(names[rows.labels[each.row]]), codes[int(splits[each.row])]
            chances = f"{each.given:.6f}", f"{each.likelier:.6f}"
            table.writerow([path_cell(rows.paths[each.row]), split, label, text_cell(names[each.suggested]), *chances])


def is_suspects(path: Path) -> bool:
    """Return whether a file was written by `write_suspects`."""
    return path.is_file() and read_first(path, len(_HEADER)) == _HEADER


def copies(rows: Rows, splits: np.ndarray) -> list[list[int]]:
    """Return groups of byte-identical rows that occur in more than one split or under more than one label."""
    groups: dict[bytes, list[int]] = {}
    for row, key in enumerate(rows.sha256):
        groups.setdefault(key.tobytes(), []).append(row)
    return [
        group for group in groups.values() if len(set(splits[group])) > 1 or len(set(rows.labels[group].tolist())) > 1
    ]


def closest(X: np.ndarray, keys: np.ndarray, test: np.ndarray) -> list[tuple[float, int, int]]:
    """Return (cosine, test row, nearest row outside the test split) for each test row, most similar first.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features), float32
    keys : ndarray of shape (n_rows, 32), uint8
        SHA-256 of each row's file; copies of a test row are ignored.
    test : ndarray of shape (n_rows,), bool
    """
    unit = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)
    content = np.unique(keys, axis=0, return_inverse=True)[1].ravel()
    looked, others = np.flatnonzero(test), np.flatnonzero(~test)
    found = []
    for start in range(0, len(looked), 512):
        some = looked[start : start + 512]
        cosines = unit[some] @ unit[others].T
        cosines[content[some][:, None] == content[others]] = -np.inf
        nearest = cosines.argmax(axis=1)
        best = cosines[np.arange(len(some)), nearest]
        found += [(float(c), int(a), int(others[b])) for c, a, b in zip(best, some, nearest, strict=True)]
    return sorted((each for each in found if np.isfinite(each[0])), reverse=True)
