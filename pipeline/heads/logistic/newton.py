"""Many logistic regressions solved at once by Newton's method, as columns of the same matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.special import expit, softmax

from features.runtime.progress import Tell, untold

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
    tell: Tell = untold,
) -> np.ndarray:
    """Minimise ``C * sum(count * log loss) + |w|^2 / 2`` for several values of C and many sets of rows at once.

    For two classes, all values of C are solved at once as columns. For more, whose classes already fill the products,
    values of C are solved in ascending order, each starting from where the two before it point to along log C: for nearly
    separable classes, the largest C would take ten times as long from zero. Each Newton step is solved by conjugate gradients
    with a diagonal preconditioner, since the curvature is nearly diagonal in the singular basis.

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
    tell : callable, optional
        Called with the share of a problem, or of several, that was solved since; see `_share`.

    Returns
    -------
    weights : ndarray of shape (n_values, rank + 1, n_sets, k), of the rotation's precision
        The intercept is in the last row; k is 1 for two classes.
    """
    used = counts.any(axis=1)
    if not used.all():  # the rows of other folds, where each fold is solved by itself
        some = replace(rotation, rows=rotation.rows[used])
        return solve(some, targets[used], n_classes, values, counts[used], tell)
    k = 1 if n_classes == 2 else n_classes
    few = max(1, _NUMBERS // (len(targets) * (k if k > 1 else len(values))))
    if counts.shape[1] > few:
        parts = [counts[:, first : first + few] for first in range(0, counts.shape[1], few)]
        return np.concatenate([solve(rotation, targets, n_classes, values, part, tell) for part in parts], axis=2)
    dtype = rotation.rows.dtype
    counts = counts.astype(dtype)
    one_hot = (targets[:, None] == (np.arange(k) if k > 1 else 1))[:, None].astype(dtype)  # (n, 1, k)
    if k == 1:
        costs = np.hstack([counts * value for value in values])
        together = np.zeros((len(rotation.lengths) + 1, costs.shape[1], k), dtype)
        _descend(rotation, one_hot, costs, together, np.zeros((*costs.shape, k), dtype), tell)
        return np.moveaxis(together.reshape(len(together), len(values), -1, k), 1, 0)
    return _ascend(rotation, one_hot, counts, values, tell)


def _ascend(
    rotation: Rotation,
    one_hot: np.ndarray,
    counts: np.ndarray,
    values: Sequence[float],
    tell: Tell,
) -> np.ndarray:
    """Return weights, (n_values, rank + 1, n_sets, k), solved for one value of C after the other."""
    dtype, shape, found = counts.dtype, (counts.shape[1], one_hot.shape[2]), dict[float, np.ndarray]()
    own = before = np.zeros((len(rotation.lengths) + 1, *shape), dtype)
    scores = last = np.zeros((len(one_hot), *shape), dtype)
    path = sorted(set(values))
    steps = np.diff(np.log(path))
    for place, value in enumerate(path):
        ahead = dtype.type(steps[place - 1] / steps[place - 2] if place > 1 else 0)
        own, before = own + ahead * (own - before), own
        scores, last = scores + ahead * (scores - last), scores
        _descend(rotation, one_hot, counts * dtype.type(value), own, scores, tell)
        found[value] = own
    return np.stack([found[value] for value in values])


def _descend(
    rotation: Rotation, one_hot: np.ndarray, costs: np.ndarray, weights: np.ndarray, scores: np.ndarray, tell: Tell
) -> None:
    """Optimise weights, (rank + 1, n_sets, k), and their scores in place; `costs` is C times a row's count."""
    active, rounds = np.arange(weights.shape[1]), rotation.rows.dtype == np.float32
    P, losses = _judge(scores, costs, one_hot)
    first, told = np.zeros(len(active)), np.zeros(len(active))
    for _ in range(_NEWTON_STEPS):
        W, S, A = weights[:, active], scores[:, active], costs[:, active, None]
        gradient = rotation.transposed(A * (P - one_hot))
        gradient[:-1] += W[:-1]
        step, moved = _newton_step(rotation, gradient, A, P)
        decrement = -_dot(gradient, step)
        goal = _SHARE * (losses + _dot(W[:-1], W[:-1]) / 2) if rounds else np.full(len(active), _DECREMENT)
        solved = decrement <= goal
        first[active] = np.maximum(first[active], decrement)
        before, told[active] = told.sum(), np.maximum(told[active], _share(first[active], decrement, goal))
        tell(told.sum() - before)
        size, P, losses = _line_search(W, S, costs[:, active], one_hot, step, moved, decrement, losses)
        weights[:, active] += size[:, None] * step
        scores[:, active] += size[:, None] * moved
        if solved.all():
            break
        if solved.any():
            active, P, losses = active[~solved], P[:, ~solved], losses[~solved]
    tell(len(told) - told.sum())  # of those that _NEWTON_STEPS did not suffice for


def _share(first: np.ndarray, decrement: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Return how much of the way from the first decrement to the goal is done, from 0 to 1.

    On a scale of logarithms, on which steps are about equal, since conjugate gradients stop at a share of the residual.
    """
    tiny = np.finfo(np.float64).tiny
    whole = np.log(np.maximum(first, tiny) / np.maximum(goal, tiny))
    done = np.log(np.maximum(first, tiny) / np.maximum(decrement, tiny))
    return np.where(decrement <= goal, 1.0, np.clip(done / np.maximum(whole, tiny), 0, 1))


def _newton_step(
    rotation: Rotation, gradient: np.ndarray, A: np.ndarray, P: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Solve ``H step = -gradient`` for each problem by conjugate gradients; return the step and its scores."""
    AP, others = A * P, 1 - P
    mean = np.einsum("ipk,ipk->p", AP, others) / (P.shape[2] * len(A))  # (n_problems,), of the curvature
    curvature = AP * others if P.shape[2] == 1 else AP
    lengths = np.append(rotation.lengths, 0).astype(A.dtype)[:, None, None]
    tiny = np.finfo(A.dtype).tiny
    inverse = 1 / (mean[:, None] * lengths**2 + 1)
    inverse[-1] = 1 / np.maximum(mean * len(A), 1e-12)[:, None]

    def curve(V: np.ndarray, Q: np.ndarray) -> np.ndarray:
        """Return the curvature's product with a direction, (rank + 1, n_problems, k), whose scores are Q."""
        Q = Q.copy() if P.shape[2] == 1 else Q - np.einsum("ipk,ipk->ip", P, Q)[:, :, None]
        Q *= curvature
        product = rotation.transposed(Q)
        product[:-1] += V[:-1]
        return product

    step, moved, residual = np.zeros_like(gradient), np.zeros_like(P), -gradient
    direction = inverse * residual
    squared = _dot(residual, direction)
    goal = 0.1 * squared  # a residual of about a third; more precision costs more than the next Newton step
    rounding = (1e-20 if A.dtype == np.float64 else 1e-12) * squared
    for _ in range(_CG_STEPS):
        moves = rotation.scores(direction)
        curved = curve(direction, moves)
        # Solved problems continue with the others, but stop at rounding level, where further steps would diverge.
        bent = np.maximum(
            _dot(direction, curved), _dot(direction[:-1], direction[:-1])
        )  # which rounding may fall below
        size = np.where(squared > rounding, squared / np.maximum(bent, tiny), 0.0).astype(A.dtype)
        step += size[:, None] * direction
        moves *= size[:, None]
        moved += moves
        residual -= size[:, None] * curved
        steep = inverse * residual
        before, squared = squared, _dot(residual, steep)
        if (squared <= goal).all():
            break
        direction = steep + (squared / np.maximum(before, tiny)).astype(A.dtype)[:, None] * direction
    return step, moved


def _line_search(
    W: np.ndarray,
    S: np.ndarray,
    costs: np.ndarray,
    one_hot: np.ndarray,
    step: np.ndarray,
    moved: np.ndarray,
    decrement: np.ndarray,
    losses: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Halve each problem's step until the objective decreases sufficiently (Armijo's condition).

    Returns
    -------
    sizes : ndarray of shape (n_problems,)
    P, losses : ndarray
        As of `_judge`, after these steps.
    """
    sizes = np.ones(len(decrement), S.dtype)
    straight, square = _dot(W[:-1], step[:-1]), _dot(step[:-1], step[:-1])
    # The tolerance keeps rounding of the summed losses from blocking the last steps.
    rounding = (1e-12 if S.dtype == np.float64 else 1e-6) * losses
    for _ in range(30):
        P, found = _judge(S + sizes[:, None] * moved, costs, one_hot)
        change = found - losses + sizes * straight + sizes**2 * square / 2
        enough = change <= -1e-4 * sizes * decrement + rounding
        if enough.all():
            break
        sizes = np.where(enough, sizes, sizes / 2)
    return sizes, P, found


def _judge(S: np.ndarray, costs: np.ndarray, one_hot: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities from scores, both (n, n_problems, k), and each problem's weighted log loss."""
    if S.shape[2] == 1:
        P, total = expit(S), np.logaddexp(0, S)[:, :, 0]
    else:
        top = S.max(axis=2, keepdims=True)
        P = np.exp(S - top)
        sums = P.sum(axis=2, keepdims=True)
        P /= sums
        total = (top + np.log(sums))[:, :, 0]
    losses = costs * (total - np.einsum("ik,ipk->ip", one_hot[:, 0], S))
    return P, losses.sum(axis=0, dtype=np.float64)


def chances(S: np.ndarray) -> np.ndarray:
    """Return probabilities from scores, (n, n_problems, k); for two classes (k = 1), that of the second."""
    return expit(S) if S.shape[2] == 1 else softmax(S, axis=2)


def _dot(V: np.ndarray, U: np.ndarray) -> np.ndarray:
    return np.einsum("ipk,ipk->p", V, U, dtype=np.float64)
