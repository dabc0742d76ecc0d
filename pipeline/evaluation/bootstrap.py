"""Bootstrap intervals: how far metrics move when the test rows are drawn anew."""

from __future__ import annotations

import numpy as np

_NUMBERS = 1 << 22  # weights that are held at once


def bootstrap_intervals(
    y: np.ndarray, probabilities: np.ndarray, seed: int = 0, draws: int | None = None
) -> dict[str, tuple[float, float]]:
    """Return 95 % percentile intervals (Efron and Tibshirani 1993, chapter 13) of metrics on some rows.

    Parameters
    ----------
    y : ndarray of shape (n_samples,), int
    probabilities : ndarray of shape (n_samples, n_classes)
    seed : int
        Same seed, same rows drawn.
    draws : int, optional
        1,000, or 200 for more than 5,000 rows, if left out.

    Returns
    -------
    intervals : dict
        Name → (low, high) of the metrics of `evaluate`, but ``calibration_error``, whose bootstrap is biased upwards.
        Draws that lack a class that `y` has count where a metric can be had of them.
    """
    random, n = np.random.default_rng(seed), len(y)
    draws = draws or (1000 if n <= 5000 else 200)
    step = max(1, _NUMBERS // max(n, 1))
    drawn: dict[str, list[np.ndarray]] = {}
    for first in range(0, draws, step):
        # How often each row is drawn, (draws, n_samples).
        weights = random.multinomial(n, np.full(n, 1 / n), min(step, draws - first)).astype(np.float64)
        for name, values in weighted_metrics(y, probabilities, weights).items():
            drawn.setdefault(name, []).append(values)
    found = {}
    for name, parts in drawn.items():
        values = np.concatenate(parts)
        values = values[np.isfinite(values)]
        low, high = np.quantile(values, (0.025, 0.975)) if len(values) else (np.nan, np.nan)
        found[name] = float(low), float(high)
    return found


def weighted_metrics(y: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return what `evaluate` gives, for many whole-numbered weights of the rows, (n_draws, n_samples), at once."""
    predicted, classes = probabilities.argmax(axis=1), np.unique(y)
    true, said = (labels[:, None] == classes for labels in (y, predicted))  # (n_samples, n_present)
    counts, calls, hits = (weights @ each for each in (true, said, true & said))  # (n_draws, n_present)
    tiny = np.finfo(probabilities.dtype).eps
    losses = -np.log(np.clip(probabilities[np.arange(len(y)), y], tiny, 1 - tiny))
    present, total = counts > 0, weights.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(present, hits / counts, np.nan)
        f1 = np.where(present, 2 * hits / (counts + calls), np.nan)
        if probabilities.shape[1] == 2:
            ranked = [_ranking(y == 1, probabilities[:, 1], weights)]
        else:
            ranked = [_ranking(y == label, probabilities[:, label], weights) for label in classes]
        areas, precisions = (np.stack(each, axis=1) for each in zip(*ranked, strict=True))
    return {
        "accuracy": weights @ (predicted == y) / total,
        "balanced_accuracy": np.nanmean(recall, axis=1),
        "macro_f1": np.nanmean(f1, axis=1),
        "roc_auc": _mean(areas),
        "average_precision": _mean(precisions),
        "log_loss": weights @ losses / total,
    }


def _ranking(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the area under the ROC curve and the average precision, (n_draws,); nan where a side is empty."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])  # rows of equal scores are one threshold
    ups = np.add.reduceat((weights * positive)[:, order], starts, axis=1)
    downs = np.add.reduceat((weights * ~positive)[:, order], starts, axis=1)
    above, below = ups.cumsum(axis=1), downs.cumsum(axis=1)
    n_ups, n_downs = above[:, -1], below[:, -1]
    area = (downs * (above - ups / 2)).sum(axis=1) / (n_ups * n_downs)
    precision = np.nansum(ups * above / (above + below), axis=1) / n_ups
    return area, np.where(n_downs > 0, precision, np.nan)


def _mean(values: np.ndarray) -> np.ndarray:
    """Return means over classes, (n_draws,), of those that have one."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis=1) / known.sum(axis=1)
