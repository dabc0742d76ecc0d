"""L2-penalised logistic regression, solved exactly where it is small: in the singular basis of the rows.

An L2-penalised linear model is unchanged by rotating and shifting the features, and only their row space matters
(Hastie & Tibshirani 2004, "Efficient quadratic regularization for expression arrays"). One rotation, of all rows that a
head may learn from, serves every value of C and every fold: they are columns of the same matrix products, and Newton's
method on all of them at once finds the optimum that scikit-learn finds one by one on n x d.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import blas, eigh
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin

from .choice import Choice, Grid, best_of, combinations
from .sample import Pair, Sample
from .scaling import measure_scale

_BLOCK = 2048  # columns that are taken to float64 at once
_NEWTON_STEPS, _CG_STEPS = 50, 100
_NUMBERS = 1 << 20  # scores that are held at once: problems beyond it are solved after the others
_DECREMENT = 1e-8  # of the objective: so much a Newton step still promises when a problem counts as solved


@dataclass(frozen=True)
class Rotation:
    """Rows in their singular basis.

    Attributes
    ----------
    rows : ndarray of shape (n_samples, rank), float64
        Centred and scaled rows, rotated; columns are orthogonal.
    lengths : ndarray of shape (rank,)
        Singular values: the norms of the columns of `rows`.
    mean : ndarray of shape (n_features,), float64
    scale : ndarray of shape (n_features,), float32
        What features are divided by.
    """

    rows: np.ndarray
    lengths: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    _X: np.ndarray
    _basis: np.ndarray

    def back(self, weights: np.ndarray) -> np.ndarray:
        """Return coefficients for features as they are, (n_features, k), from those for `rows`, (rank, k)."""
        if len(self._basis) == len(self.mean):
            coefficients = self._basis @ weights
        else:  # the basis belongs to the rows: features' coefficients are sums of centred rows
            sums = self._basis @ (weights / self.lengths[:, None])
            coefficients = np.empty((len(self.mean), weights.shape[1]))
            for part in _blocks(len(self.mean)):
                block = self._X[:, part].astype(np.float64) / self.scale[part]
                coefficients[part] = (block - self.mean[part] / self.scale[part]).T @ sums
        return coefficients / self.scale[:, None]


def rotate(X: np.ndarray, scale: np.ndarray) -> Rotation:
    """Rotate rows into their singular basis, with sums in float64.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
    scale : ndarray of shape (n_features,)
    """
    n, d = X.shape
    mean = X.mean(axis=0, dtype=np.float64)
    if n < d:
        gram = np.zeros((n, n), order="F")
        for part in _blocks(d):
            block = (X[:, part] - mean[part]) / scale[part]
            gram = blas.dsyrk(1.0, block, 1.0, gram, overwrite_c=True)
        values, basis = eigh(gram, lower=False, overwrite_a=True, driver="evd")
    else:
        centred = (X - mean) / scale
        values, basis = eigh(centred.T @ centred, overwrite_a=True, driver="evd")
    kept = values > max(n, d) * np.finfo(np.float64).eps * max(values[-1], 1e-300)
    lengths, basis = np.sqrt(values[kept]), basis[:, kept]
    rows = basis * lengths if n < d else centred @ basis
    return Rotation(np.ascontiguousarray(rows), lengths, mean, scale, X, basis)


class Logistic(ClassifierMixin, BaseEstimator):
    """Logistic regression, softmax for more than two classes, with an L2 penalty on all but the intercept.

    Minimises ``C * sum(log loss) + |w|^2 / 2`` over features divided by `scale_`, which is scikit-learn's objective.

    Parameters
    ----------
    C : float
    scale : {'all', 'layer', 'feature'}
        See `measure_scale`.
    widths : tuple of int, optional
        Number of features of each layer; one layer if left out.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    coef_ : ndarray of shape (n_features, k), float32
        For features as they are; k is 1 for two classes.
    intercept_ : ndarray of shape (k,)
    scale_ : ndarray of shape (n_features,)
    """

    def __init__(self, C: float = 1.0, scale: str = "layer", widths: tuple[int, ...] | None = None):
        self.C, self.scale, self.widths = C, scale, widths

    def fit(self, X: np.ndarray, y: np.ndarray) -> Logistic:
        """Fit to X, (n_samples, n_features), and y."""
        rotation = rotate(X, measure_scale(X, self.scale, self.widths or (X.shape[1],)))
        return self._take(rotation, y, np.ones(len(y), bool))

    def _take(self, rotation: Rotation, y: np.ndarray, rows: np.ndarray) -> Logistic:
        """Fit to some of a rotation's rows, given by a mask."""
        self.classes_ = np.unique(y[rows])
        targets = np.searchsorted(self.classes_, np.where(rows, y, self.classes_[0]))
        weights = solve(rotation, targets, len(self.classes_), np.array([self.C]), rows[:, None])[:, 0]
        coefficients = rotation.back(weights[:-1])
        self.scale_ = rotation.scale
        self.intercept_ = weights[-1] - rotation.mean @ coefficients
        self.coef_ = coefficients.astype(np.float32)
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return scores: (n_samples,) for two classes, else (n_samples, n_classes)."""
        scores = X @ self.coef_ + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities, (n_samples, n_classes)."""
        scores = self.decision_function(X).astype(np.float64)
        return np.column_stack([expit(-scores), expit(scores)]) if scores.ndim == 1 else softmax(scores, axis=1)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class of each row of X."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


class LogisticSearch:
    """Logistic regressions on one sample: for all settings and folds on one rotation a scale.

    Parameters
    ----------
    sample : Sample
    grid : dict of str to tuple
        Values of ``scale`` and ``C``.
    """

    def __init__(self, sample: Sample, grid: Grid):
        self.sample, self.grid = sample, grid
        self._rotations: dict[str, Rotation] = {}

    def choose(self, pairs: Sequence[Pair]) -> Choice:
        """Return the most accurate settings on the images that each pair looks at."""
        sample, values = self.sample, self.grid["C"]
        masks = np.column_stack([np.repeat(fit, sample.features.views) for fit, _ in pairs])
        looks = np.column_stack([look for _, look in pairs])[:, None]  # (n_images, 1, n_pairs)
        accuracies: list[float] = []
        for scale in self.grid["scale"]:
            rotation = self._rotated(scale)
            weights = solve(
                rotation,
                self._targets,
                len(self._classes),
                np.repeat(values, len(pairs)),
                np.tile(masks, len(values)),
            )
            correct = self._correct(_up(rotation, weights)).reshape(len(sample.y), len(values), len(pairs))
            accuracies += list((correct & looks).sum(axis=(0, 2)) / looks.sum())
        return best_of(combinations(self.grid), accuracies)

    def _correct(self, scores: np.ndarray) -> np.ndarray:
        """Return whether each image's class has the highest mean probability over its views, (n_images, n_problems)."""
        chances = (
            _chances(scores).reshape(len(self.sample.y), self.sample.features.views, *scores.shape[1:]).mean(axis=1)
        )
        predicted = chances.argmax(axis=2) if chances.shape[2] > 1 else (chances[:, :, 0] > 0.5).astype(int)
        return self._classes[predicted] == self.sample.y[:, None]

    def fit(self, settings: dict, images: np.ndarray) -> Logistic:
        """Return the head with some settings, fitted to images given by a mask."""
        sample = self.sample
        head = Logistic(settings["C"], settings["scale"], sample.features.widths)
        return head._take(
            self._rotated(settings["scale"]),
            np.repeat(sample.y, sample.features.views),
            np.repeat(images, sample.features.views),
        )

    @cached_property
    def _classes(self) -> np.ndarray:
        return np.unique(self.sample.y)

    @cached_property
    def _targets(self) -> np.ndarray:
        return np.repeat(np.searchsorted(self._classes, self.sample.y), self.sample.features.views)

    def _rotated(self, scale: str) -> Rotation:
        if scale not in self._rotations:
            X = self.sample.features.X
            self._rotations[scale] = rotate(X, measure_scale(X, scale, self.sample.features.widths))
        return self._rotations[scale]


def solve(rotation: Rotation, targets: np.ndarray, n_classes: int, values: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Minimise ``C * sum(log loss) + |w|^2 / 2`` for many values of C and sets of rows at once.

    Newton's method, each step by conjugate gradients under a diagonal preconditioner: in the singular basis the
    curvature is all but diagonal.

    Parameters
    ----------
    rotation : Rotation
    targets : ndarray of shape (n_samples,), int
        Class of each row, counted from 0.
    n_classes : int
    values : ndarray of shape (n_problems,)
        C of each problem.
    masks : ndarray of shape (n_samples, n_problems), bool
        Rows of each problem.

    Returns
    -------
    weights : ndarray of shape (rank + 1, n_problems, k), float64
        The intercept is in the last row; k is 1 for two classes.
    """
    k = 1 if n_classes == 2 else n_classes
    few = max(1, _NUMBERS // (len(targets) * k))
    if len(values) > few:
        parts = [slice(first, first + few) for first in range(0, len(values), few)]
        solved = [solve(rotation, targets, n_classes, values[part], masks[:, part]) for part in parts]
        return np.concatenate(solved, axis=1)
    one_hot = (targets[:, None] == (np.arange(k) if k > 1 else 1))[:, None].astype(np.float64)  # (n, 1, k)
    costs = masks * values  # (n, n_problems): C, or 0 for rows that a problem leaves out
    weights = np.zeros((len(rotation.lengths) + 1, len(values), k))
    scores = np.zeros((len(targets), len(values), k))
    active = np.arange(len(values))
    for _ in range(_NEWTON_STEPS):
        W, S, A = weights[:, active], scores[:, active], costs[:, active, None]
        P = _chances(S)
        gradient = _down(rotation, A * (P - one_hot))
        gradient[:-1] += W[:-1]
        step = _newton_step(rotation, gradient, A, P)
        moved = _up(rotation, step)
        decrement = -np.einsum("ipk,ipk->p", gradient, step)
        size = _step_size(W, S, A, one_hot, step, moved, decrement)
        weights[:, active] += size[:, None] * step
        scores[:, active] += size[:, None] * moved
        active = active[decrement > _DECREMENT]
        if not len(active):
            break
    return weights


def _newton_step(rotation: Rotation, gradient: np.ndarray, A: np.ndarray, P: np.ndarray) -> np.ndarray:
    """Solve ``H step = -gradient`` for each problem by conjugate gradients."""
    curvature = A * P * (1 - P)
    mean = curvature.sum(axis=0).mean(axis=1) / len(A)  # (n_problems,)
    lengths = np.append(rotation.lengths, 0)[:, None, None]
    inverse = 1 / (mean[:, None] * lengths**2 + 1)
    inverse[-1] = 1 / np.maximum(mean * len(A), 1e-12)[:, None]

    def curve(V: np.ndarray) -> np.ndarray:
        Q = _up(rotation, V)
        Q = curvature * Q if P.shape[2] == 1 else A * P * (Q - (P * Q).sum(axis=2, keepdims=True))
        product = _down(rotation, Q)
        product[:-1] += V[:-1]
        return product

    step, residual = np.zeros_like(gradient), -gradient
    direction = inverse * residual
    squared = _dot(residual, direction)
    goal = 0.1 * squared  # a residual of a third: more costs more than the next Newton step
    for _ in range(_CG_STEPS):
        curved = curve(direction)
        size = squared / np.maximum(_dot(direction, curved), 1e-300)
        step += size[:, None] * direction
        residual -= size[:, None] * curved
        steep = inverse * residual
        before, squared = squared, _dot(residual, steep)
        if (squared <= goal).all():
            break
        direction = steep + (squared / np.maximum(before, 1e-300))[:, None] * direction
    return step


def _step_size(
    W: np.ndarray,
    S: np.ndarray,
    A: np.ndarray,
    one_hot: np.ndarray,
    step: np.ndarray,
    moved: np.ndarray,
    decrement: np.ndarray,
) -> np.ndarray:
    """Halve each problem's step until the objective falls by a part of what the slope promises."""
    sizes = np.ones(len(decrement))
    straight, square = _dot(W[:-1], step[:-1]), _dot(step[:-1], step[:-1])
    losses = _losses(S, A, one_hot)
    for _ in range(30):
        change = _losses(S + sizes[:, None] * moved, A, one_hot) - losses + sizes * straight + sizes**2 * square / 2
        # Rounding of a sum of losses must not hold up the last steps.
        enough = change <= -1e-4 * sizes * decrement + 1e-12 * losses
        if enough.all():
            break
        sizes = np.where(enough, sizes, sizes / 2)
    return sizes


def _losses(S: np.ndarray, A: np.ndarray, one_hot: np.ndarray) -> np.ndarray:
    """Return the weighted log loss of each problem."""
    if S.shape[2] == 1:
        total = np.logaddexp(0, S)
    else:
        top = S.max(axis=2, keepdims=True)
        total = top + np.log(np.exp(S - top).sum(axis=2, keepdims=True))
    return (A * (total - (one_hot * S).sum(axis=2, keepdims=True))).sum(axis=(0, 2))


def _chances(S: np.ndarray) -> np.ndarray:
    return expit(S) if S.shape[2] == 1 else softmax(S, axis=2)


def _up(rotation: Rotation, V: np.ndarray) -> np.ndarray:
    """Return scores of all rows, (n, n_problems, k), under weights V, (rank + 1, n_problems, k)."""
    flat = V.reshape(len(V), V.shape[1] * V.shape[2])
    return (rotation.rows @ flat[:-1] + flat[-1]).reshape(-1, *V.shape[1:])


def _down(rotation: Rotation, R: np.ndarray) -> np.ndarray:
    """Return the transpose of `_up`, applied to R, (n, n_problems, k)."""
    flat = R.reshape(len(R), R.shape[1] * R.shape[2])
    return np.vstack([rotation.rows.T @ flat, flat.sum(axis=0)]).reshape(-1, *R.shape[1:])


def _dot(V: np.ndarray, U: np.ndarray) -> np.ndarray:
    return np.einsum("ipk,ipk->p", V, U)


def _blocks(n_features: int) -> list[slice]:
    return [slice(first, first + _BLOCK) for first in range(0, n_features, _BLOCK)]
