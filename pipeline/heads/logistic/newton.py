"""Many logistic regressions solved at once by Newton's method, as columns of the same matrix products."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import expit, softmax

from ...data.svd_basis import Rotation

_NEWTON_STEPS, _CG_STEPS = 50, 100
_NUMBERS = 1 << 20  # scores held in memory at once; further problems are solved afterwards
_DECREMENT = 1e-8  # a problem counts as solved when a Newton step promises no larger decrease of the objective,
_SHARE = 1e-5  # or, for rows in float32, none larger than this share of it


def solve(
    rotation: Rotation,
    targets: np.ndarray,
    n_classes: int,
    values: Sequence[float],
    counts: np.ndarray,
    solved: Callable[[int], object] = lambda number: None,
) -> np.ndarray:
    """Minimise ``C * sum(count * log loss) + |w|^2 / 2`` for several values of C and many sets of rows at once.

    For two classes, all values of C are solved at once as columns. For more, whose classes already fill the products,
    values of C are solved in ascending order, each starting from the previous solution: for nearly separable classes, the
    largest C would take ten times as long from zero. Each Newton step is solved by conjugate gradients with a diagonal
    preconditioner, since the curvature is nearly diagonal in the singular basis.

    Parameters
    ----------
    rotation : Rotation
        Its precision is that of the solution.
    targets : ndarray of shape (n_samples,), int
        Class index of each row, from 0.
    n_classes : int
    values : sequence of float
        Values of C, above 0.
    counts : ndarray of shape (n_samples, n_sets), float64
        How much each row counts in each set; 0 for rows outside.
    solved : callable, optional
        Called with the number of problems that have been solved since.

    Returns
    -------
    weights : ndarray of shape (n_values, rank + 1, n_sets, k), of the rotation's precision
        The intercept is in the last row; k is 1 for two classes.
    """
    k = 1 if n_classes == 2 else n_classes
    few = max(1, _NUMBERS // (len(targets) * (k if k > 1 else len(values))))
    if counts.shape[1] > few:
        parts = [counts[:, first : first + few] for first in range(0, counts.shape[1], few)]
        return np.concatenate([solve(rotation, targets, n_classes, values, part, solved) for part in parts], axis=2)
    dtype = rotation.rows.dtype
    counts = counts.astype(dtype)
    one_hot = (targets[:, None] == (np.arange(k) if k > 1 else 1))[:, None].astype(dtype)  # (n, 1, k)
    shape = len(rotation.lengths) + 1, counts.shape[1], k
    if k == 1:
        together = np.zeros((shape[0], len(values) * shape[1], k), dtype)
        _descend(rotation, one_hot, np.hstack([counts * value for value in values]), together)
        solved(len(values) * shape[1])
        return np.moveaxis(together.reshape(shape[0], len(values), *shape[1:]), 1, 0)
    weights = np.zeros((len(values), *shape), dtype)
    last = weights[0]
    for number in np.argsort(values, kind="stable"):
        weights[number] = last
        last = weights[number]
        _descend(rotation, one_hot, counts * values[number], last)
        solved(shape[1])
    return weights


def _descend(rotation: Rotation, one_hot: np.ndarray, costs: np.ndarray, weights: np.ndarray) -> None:
    """Optimise weights, (rank + 1, n_sets, k), in place; `costs` is C times a row's count."""
    scores, rounds = rotation.scores(weights), rotation.rows.dtype == np.float32
    active = np.arange(weights.shape[1])
    for _ in range(_NEWTON_STEPS):
        W, S, A = weights[:, active], scores[:, active], costs[:, active, None]
        P = chances(S)
        gradient = rotation.transposed(A * (P - one_hot))
        gradient[:-1] += W[:-1]
        step = _newton_step(rotation, gradient, A, P)
        moved = rotation.scores(step)
        decrement = -_dot(gradient, step)
        losses = _losses(S, A, one_hot)
        size = _step_size(W, S, A, one_hot, step, moved, decrement, losses)
        weights[:, active] += size[:, None] * step
        scores[:, active] += size[:, None] * moved
        active = active[decrement > (_SHARE * (losses + _dot(W[:-1], W[:-1]) / 2) if rounds else _DECREMENT)]
        if not len(active):
            break


def _newton_step(rotation: Rotation, gradient: np.ndarray, A: np.ndarray, P: np.ndarray) -> np.ndarray:
    """Solve ``H step = -gradient`` for each problem by conjugate gradients."""
    curvature = A * P * (1 - P)
    mean = curvature.sum(axis=0).mean(axis=1) / len(A)  # (n_problems,)
    lengths = np.append(rotation.lengths, 0).astype(A.dtype)[:, None, None]
    tiny = np.finfo(A.dtype).tiny
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
    goal = 0.1 * squared  # a residual of about a third; more precision costs more than the next Newton step
    rounding = 1e-20 * squared
    for _ in range(_CG_STEPS):
        curved = curve(direction)
        # Solved problems continue with the others, but stop at rounding level, where further steps would diverge.
        size = np.where(squared > rounding, squared / np.maximum(_dot(direction, curved), tiny), 0.0).astype(A.dtype)
        step += size[:, None] * direction
        residual -= size[:, None] * curved
        steep = inverse * residual
        before, squared = squared, _dot(residual, steep)
        if (squared <= goal).all():
            break
        direction = steep + (squared / np.maximum(before, tiny)).astype(A.dtype)[:, None] * direction
    return step


def _step_size(
    W: np.ndarray,
    S: np.ndarray,
    A: np.ndarray,
    one_hot: np.ndarray,
    step: np.ndarray,
    moved: np.ndarray,
    decrement: np.ndarray,
    losses: np.ndarray,
) -> np.ndarray:
    """Halve each problem's step until the objective decreases sufficiently (Armijo's condition)."""
    sizes = np.ones(len(decrement), S.dtype)
    straight, square = _dot(W[:-1], step[:-1]), _dot(step[:-1], step[:-1])
    # The tolerance keeps rounding of the summed losses from blocking the last steps.
    rounding = (1e-12 if S.dtype == np.float64 else 1e-6) * losses
    for _ in range(30):
        change = _losses(S + sizes[:, None] * moved, A, one_hot) - losses + sizes * straight + sizes**2 * square / 2
        enough = change <= -1e-4 * sizes * decrement + rounding
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
    return (A * (total - (one_hot * S).sum(axis=2, keepdims=True))).sum(axis=(0, 2), dtype=np.float64)


def chances(S: np.ndarray) -> np.ndarray:
    """Return probabilities from scores, (n, n_problems, k); for two classes (k = 1), that of the second."""
    return expit(S) if S.shape[2] == 1 else softmax(S, axis=2)


def _dot(V: np.ndarray, U: np.ndarray) -> np.ndarray:
    return np.einsum("ipk,ipk->p", V, U, dtype=np.float64)
