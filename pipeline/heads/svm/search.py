"""SVMs on kernel matrices that are computed once, by matrix products, for all settings and folds."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from sklearn.svm import SVC

from features.errors import RequestError, option
from features.runtime.log import log
from features.runtime.machine import cores, memory_limit
from features.runtime.progress import Tell, duration, untold

from ...data.inner_products import gram, transposed
from ...data.row_blocks import divided, select
from ...data.scaling import SCALES
from ...data.training_data import Pair, Sample
from ...options import METRIC
from ..calibration import CalibratedSearch, ScoreJudge
from ..contract import Cost, Extent, Pace
from ..linear_head import LinearHead
from ..settings import Choice, Grid, Output, Rating, combinations
from .classifier import Svm, from_products, join_pairs

_MANY, _SOME = 5000, 4000  # beyond so many images, settings are chosen on some of them
_FIT, _KERNEL = 18, 8  # functions per pair of rows in a fit by libsvm, and in a kernel
MAX_WEIGHTS = 2_000_000_000  # bytes; files of larger heads would take more memory than most machines that predict have


def stratified_mask(y: np.ndarray, folds: np.ndarray, most: int) -> np.ndarray:
    """Return about `most` images as a mask, evenly of all classes and folds, of each at least one."""
    order = np.lexsort((folds, y))
    mask = np.zeros(len(y), bool)
    mask[order[np.linspace(0, len(y) - 1, most).astype(int)]] = True
    mask[np.unique(np.column_stack([y, folds]), axis=0, return_index=True)[1]] = True
    return mask


def _check_size(n: int, n_classes: int) -> int:
    """Return how many fits at a time the memory allows; refuse more rows, or pairs of classes, than it allows at all."""
    room = memory_limit()
    # Products per scale in float32; one kernel in float64 and its intermediates; and each thread's copy of a fold.
    held, a_thread = (4 * len(SCALES) + 24) * n**2, 8 * n**2
    if held + a_thread > room / 2:
        raise RequestError(
            f"an SVM's kernel matrices may take half of the memory, {room / 2e9:.1f} GB; {n} rows need "
            f"{(held + a_thread) / 1e9:.1f} GB. Use {option('head', 'logistic')}, or fewer images: {option('limit')}"
        )
    weights = 8 * n * (n_classes * (n_classes - 1) // 2)
    if weights > MAX_WEIGHTS:
        raise RequestError(
            f"an SVM's weights for each pair of classes may take {MAX_WEIGHTS / 1e9:.0f} GB; {n_classes} classes and {n} rows "
            f"need up to {weights / 1e9:.1f} GB. Use {option('head', 'logistic')}, whose weights grow with classes alone"
        )
    return int(min(cores(), (room / 2 - held) // a_thread))


def _pair_weights(svc: SVC) -> np.ndarray:
    """Return the weights of support vectors, (n_support, n_pairs), from libsvm's layout by class."""
    n_classes = len(svc.classes_)
    if n_classes == 2:
        return svc.dual_coef_.T
    of = np.repeat(np.arange(n_classes), svc.n_support_)
    weights = np.zeros((len(of), n_classes * (n_classes - 1) // 2))
    for pair, (i, j) in enumerate(zip(*np.triu_indices(n_classes, 1), strict=True)):
        weights[of == i, pair] = svc.dual_coef_[j - 1, of == i]
        weights[of == j, pair] = svc.dual_coef_[i, of == j]
    return weights


class SvmSearch(CalibratedSearch):
    """SVMs on one sample; see `LogisticSearch`.

    Parameters
    ----------
    sample : Sample
        With one view per image.
    grid : dict of str to tuple
        Values of ``scale``; for a Gaussian kernel, of ``gamma``, in units of one over the mean squared distance between two
        rows; and, after these, of ``C`` and ``class_weight``.

    Raises
    ------
    RequestError
        If the kernel matrices would take more than half of the memory, or the weights of a fitted head more than
        `MAX_WEIGHTS`.
    """

    read_as = (LinearHead, Svm)
    streams = "products"

    def __init__(self, sample: Sample, grid: Grid):
        super().__init__(sample, grid)
        self._threads = _check_size(len(sample.y), len(np.unique(sample.y)))
        self._held: dict[str, np.ndarray] = {}

    @classmethod
    def cost(cls, extent: Extent, grid: Grid, pace: Pace) -> Cost:
        """Return about how long the head takes: kernels, and fits that each take the square of the number of rows."""
        threads, rows = _check_size(extent.images, extent.classes), extent.images
        some = _SOME if rows > _MANY else rows
        kernels = math.prod(len(grid[name]) for name in ("scale", "gamma") if name in grid)
        fits = math.prod(map(len, grid.values())) * extent.folds
        fit = _FIT * pace.step
        products = len(grid["scale"]) * some**2 * extent.features * pace.product
        choosing = products + (kernels * _KERNEL * pace.step + fits * fit / min(threads, pace.cores)) * some**2
        calibrated = extent.folds + 1 if some < rows else 1 + extent.folds / 2  # of two final fits one has its sigmoids
        return Cost(choosing, (calibrated * fit + _KERNEL * pace.step + extent.features * pace.product) * rows**2)

    def choose(self, pairs: Sequence[Pair], metric: str = METRIC) -> Choice:
        """Return the settings with the best metric on the images that the pairs score on, or on some of very many."""
        if len(self.sample.y) > _MANY:
            return self._choose_on_some(pairs, metric)
        judge, settings = ScoreJudge(self.sample, pairs, metric), combinations(self.grid)
        ratings: list[Rating] = []
        progress = self.progress(len(settings) * len(judge.jobs))
        for (scale, gamma), those in itertools.groupby(settings, lambda each: (each["scale"], each.get("gamma"))):
            kernel = self._kernel(scale, gamma)
            # libsvm releases the GIL, so threads can share the kernel.
            jobs = [delayed(self._look)(kernel, each, pair) for each in those for pair in judge.jobs]
            ratings += judge.rate_all(
                Parallel(self._threads, require="sharedmem", return_as="generator")(jobs), progress
            )
        progress.close()
        return self._choose_by(judge, settings, ratings)

    def _choose_on_some(self, pairs: Sequence[Pair], metric: str) -> Choice:
        """Return the settings that are best on some of the images, as many of each class and fold as among all."""
        few = stratified_mask(self.sample.y, self.sample.folds, _SOME)
        some, n, start = self.sample.only(few), len(self.sample.y), time.perf_counter()
        tried = math.prod(map(len, self.grid.values())) * len(pairs)
        log.info(
            f"svm      {n:,} images: settings are chosen on {len(some.y):,} of them, since each of {tried} fits takes the square "
            "of their number; the head is fitted to all"
        )
        choice = type(self)(some, self.grid).choose([(fit[few], look[few]) for fit, look in pairs], metric)
        seconds = (time.perf_counter() - start) / tried * (n / len(some.y)) ** 2
        fits = 2 * (1 + len(np.unique(self.sample.folds)))
        log.info(f"svm      {fits} fits to most of the images take about {duration(fits * seconds)}")
        return choice

    def fit(self, settings: dict[str, Any], images: np.ndarray, tell: Tell = untold) -> Svm | LinearHead:
        """Return the head with the given settings, fitted to images given by a mask."""
        features, gamma, y = self.sample.features, settings.get("gamma"), self.sample.y
        scale = features.scale(settings["scale"])
        kernel = self._kernel(settings["scale"], gamma)

        svc = _fit(kernel, y, settings, images)
        sigmoids = self._calibrate(
            settings, images, lambda fit, look: self._look(kernel, settings, (fit, look))[1], tell
        )
        support, weights = select(features.X, np.flatnonzero(images)[svc.support_]), _pair_weights(svc)
        if gamma is None and len(svc.classes_) == 2:
            coefficients = transposed(support, np.zeros(len(scale)), scale, weights) / scale[:, None]
            return LinearHead(svc.classes_, coefficients, svc.intercept_, sigmoids)
        support = divided(support, scale)
        return Svm(
            svc.classes_, scale, self._gamma(settings["scale"], gamma), support, weights, svc.intercept_, sigmoids
        )

    def _look(self, kernel: np.ndarray, settings: dict[str, Any], pair: Pair) -> Output:
        """Return the classes, and scores of the images to look at."""
        fit, look = pair
        svc = _fit(kernel, self.sample.y, settings, fit)
        pairs = svc.decision_function(kernel[np.ix_(look, fit)])
        return svc.classes_, pairs if pairs.ndim == 1 else join_pairs(pairs, len(svc.classes_))

    def _products(self, how: str) -> np.ndarray:
        """Return the inner products of all pairs of scaled rows, (n_samples, n_samples), float32."""
        features = self.sample.features
        if how not in self._held and isinstance(features.X, np.ndarray):
            scaled = features.X / features.scale(how)
            self._held[how] = scaled @ scaled.T
        elif how not in self._held:
            hows = features.together(how, self.grid.get("scale", ()))
            products = gram(features.X, np.zeros(features.X.shape[1]), [features.scale(each) for each in hows])
            self._held |= {each: _mirrored(products.pop(0)) for each in hows}
        return self._held[how]

    def _gamma(self, scale: str, gamma: float | None) -> float | None:
        if gamma is None:
            return None
        products = self._products(scale)
        distance = 2 * (np.trace(products, dtype=np.float64) / len(products) - products.mean(dtype=np.float64))
        return gamma / distance if distance > 1e-6 else gamma

    def _kernel(self, scale: str, gamma: float | None) -> np.ndarray:
        products = self._products(scale)
        return from_products(products, np.diagonal(products), np.diagonal(products), self._gamma(scale, gamma))


def _mirrored(products: np.ndarray) -> np.ndarray:
    """Return the symmetric matrix, float32, with the given upper triangle."""
    upper = np.triu(products.astype(np.float32))
    return upper + np.triu(upper, 1).T


def _fit(kernel: np.ndarray, y: np.ndarray, settings: dict[str, Any], rows: np.ndarray) -> SVC:
    weights = "balanced" if settings.get("class_weight") == "balanced" else None
    svc = SVC(
        kernel="precomputed", C=settings["C"], class_weight=weights, cache_size=1000, decision_function_shape="ovo"
    )
    return svc.fit(kernel[np.ix_(rows, rows)], y[rows])
