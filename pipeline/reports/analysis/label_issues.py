"""Rows worth a second look: labels that are likely wrong, and images on two sides of a split."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from features.store.schema import Rows


class Suspect(NamedTuple):
    """A row whose label is doubted: the class that is likelier, and both probabilities."""

    row: int
    suggested: int
    given: float
    likelier: float


def label_errors(y: np.ndarray, probabilities: np.ndarray) -> list[Suspect]:
    """Return rows whose label is likely wrong, the surest first.

    Confident learning (Northcutt, Jiang & Chuang 2021, "Confident learning: estimating uncertainty in dataset labels"):
    a class is credible for a row if its probability reaches the mean that the class has on rows labelled so; rows are
    doubted where the likeliest credible class is another than the given one.

    Parameters
    ----------
    y : ndarray of shape (n_rows,), int
    probabilities : ndarray of shape (n_rows, n_classes)
        By heads that were not fitted on the row; rows of nan are left out.
    """
    known = ~np.isnan(probabilities).any(axis=1)
    thresholds = np.array(
        [
            probabilities[known & (y == label), label].mean() if (known & (y == label)).any() else np.inf
            for label in range(probabilities.shape[1])
        ]
    )
    credible = np.where(probabilities >= thresholds, probabilities, -1.0)  # nan is never credible
    suggested = credible.argmax(axis=1)
    doubted = np.flatnonzero(known & (credible.max(axis=1) > 0) & (suggested != y))
    given, likelier = probabilities[doubted, y[doubted]], probabilities[doubted, suggested[doubted]]
    order = np.argsort(given - likelier, kind="stable")
    return [Suspect(int(doubted[i]), int(suggested[doubted[i]]), float(given[i]), float(likelier[i])) for i in order]


def copies(rows: Rows, splits: np.ndarray) -> list[list[int]]:
    """Return groups of rows with the same bytes that stand in more than one split or under more than one label."""
    groups: dict[bytes, list[int]] = {}
    for row, key in enumerate(rows.sha256):
        groups.setdefault(key.tobytes(), []).append(row)
    return [
        group for group in groups.values() if len(set(splits[group])) > 1 or len(set(rows.labels[group].tolist())) > 1
    ]


def closest(X: np.ndarray, keys: np.ndarray, test: np.ndarray) -> list[tuple[float, int, int]]:
    """Return for each test row (cosine, test row, nearest other row) the nearest row that is learnt from, closest first.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features), float32
    keys : ndarray of shape (n_rows, 32), uint8
        SHA-256 of each row's file: equal ones are copies, and left out.
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
