"""Many logistic regressions at once: columns of the same matrix products, by Newton's method."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit, softmax

from .svd_basis import Rotation

_NEWTON_STEPS, _CG_STEPS = 50, 100
_NUMBERS = 1 << 20  # scores that are held at once: problems beyond it are solved after the others
_DECREMENT = 1e-8  # of the objective: so much a Newton step still promises when a problem counts as solved


def solve(
    rotation: Rotation, targets: np.ndarray, n_classes: int, values: Sequence[float], masks: np.ndarray
) -> np.ndarray:
    """Minimise ``C * sum(log loss) + |w|^2 / 2`` for some values of C and, at once, for many sets of rows.

    For two classes all values of C are columns too. For more, which fill the products by themselves, they come from the
    smallest up, each starting where the one before ended: of nearly separable classes the largest would take ten times
    as long from nothing. Newton's method, each step by conjugate gradients under a diagonal
    preconditioner: in the singular basis the curvature is all but diagonal.

    Parameters
    ----------
    rotation : Rotation
    targets : ndarray of shape (n_samples,), int
        Class of each row, counted from 0.
    n_classes : int
    values : sequence of float
        C.
    masks : ndarray of shape (n_samples, n_sets), bool
        Rows of each set.

    Returns
    -------
    weights : ndarray of shape (n_values, rank + 1, n_sets, k), float64
        The intercept is in the last row; k is 1 for two classes.
    """
    k = 1 if n_classes == 2 else n_classes
    few = max(1, _NUMBERS // (len(targets) * (k if k > 1 else len(values))))
    if masks.shape[1] > few:
        parts = [masks[:, first : first + few] for first in range(0, masks.shape[1], few)]
        return np.concatenate([solve(rotation, targets, n_classes, values, part) for part in parts], axis=2)
    one_hot = (targets[:, None] == (np.arange(k) if k > 1 else 1))[:, None].astype(np.float64)  # (n, 1, k)
    shape = len(rotation.lengths) + 1, masks.shape[1], k
    if k == 1:
        together = np.zeros((shape[0], len(values) * shape[1], k))
        _descend(rotation, one_hot, np.hstack([masks * value for value in values]), together)
        return np.moveaxis(together.reshape(shape[0], len(values), *shape[1:]), 1, 0)
    weights = np.zeros((len(values), *shape))
    last = weights[0]
    for number in np.argsort(values, kind="stable"):
        weights[number] = last
        last = weights[number]
        _descend(rotation, one_hot, masks * values[number], last)
    return weights


def _descend(rotation: Rotation, one_hot: np.ndarray, costs: np.ndarray, weights: np.ndarray) -> None:
    """Take weights, (rank + 1, n_sets, k), to their optimum; `costs` is C, or 0 for rows that a set leaves out."""
    scores = rotation.scores(weights)
    active = np.arange(weights.shape[1])
    for _ in range(_NEWTON_STEPS):
        W, S, A = weights[:, active], scores[:, active], costs[:, active, None]
        P = chances(S)
        gradient = rotation.transposed(A * (P - one_hot))
        gradient[:-1] += W[:-1]
        step = _newton_step(rotation, gradient, A, P)
        moved = rotation.scores(step)
        decrement = -np.einsum("ipk,ipk->p", gradient, step)
        size = _step_size(W, S, A, one_hot, step, moved, decrement)
        weights[:, active] += size[:, None] * step
        scores[:, active] += size[:, None] * moved
        active = active[decrement > _DECREMENT]
        if not len(active):
            break


def _newton_step(rotation: Rotation, gradient: np.ndarray, A: np.ndarray, P: np.ndarray) -> np.ndarray:
    """Solve ``H step = -gradient`` for each problem by conjugate gradients."""
    curvature = A * P * (1 - P)
    mean = curvature.sum(axis=0).mean(axis=1) / len(A)  # (n_problems,)
    lengths = np.append(rotation.lengths, 0)[:, None, None]
    inverse = 1 / (mean[:, None] * lengths**2 + 1)
    inverse[-1] = 1 / np.maximum(mean * len(A), 1e-12)[:, None]

    def curve(V: np.ndarray) -> np.ndarray:
        Q = rotation.scores(V)
        Q = curvature * Q if P.shape[2] == 1 else A * P * (Q - (P * Q).sum(axis=2, keepdims=True))
        product = rotation.transposed(Q)
        product[:-1] += V[:-1]
        return product

    step, residual = np.zeros_like(gradient), -gradient
    direction = inverse * residual
    squared = _dot(residual, direction)
    goal = 0.1 * squared  # a residual of a third: more costs more than the next Newton step
    rounding = 1e-20 * squared
    for _ in range(_CG_STEPS):
        curved = curve(direction)
        # While others go on, so does a problem that is done, but not beyond rounding, where steps lead away.
        size = np.where(squared > rounding, squared / np.maximum(_dot(direction, curved), 1e-300), 0.0)
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


def chances(S: np.ndarray) -> np.ndarray:
    """Return the probabilities that scores, (n, n_problems, k), stand for; of two classes, that of the second."""
    return expit(S) if S.shape[2] == 1 else softmax(S, axis=2)


def _dot(V: np.ndarray, U: np.ndarray) -> np.ndarray:
    return np.einsum("ipk,ipk->p", V, U)
