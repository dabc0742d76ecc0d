"""Out-of-fold probabilities: of each image by a head that was fitted without it."""

from __future__ import annotations

from typing import Any

import numpy as np

from features.errors import RequestError

from ...heads.contract import Search
from ...runs.feature_spec import all_classes


def out_of_fold(search: Search, settings: dict[str, Any], n_classes: int) -> np.ndarray:
    """Return probabilities of a sample's images, each by a head with these settings fitted to the other folds.

    The folds are those of the sample, in which copies of an image, and images of a group, stay together. Settings are not
    chosen again: a head that is trained by epochs trains for the given number.

    Parameters
    ----------
    search : Search
        Of the head, on the sample.
    settings : dict
        See `Choice`.
    n_classes : int

    Returns
    -------
    probabilities : ndarray of shape (n_images, n_classes), float64
        nan for images of a fold without which the head cannot be fitted, for example because the other folds have one class.
    """
    sample = search.sample
    probabilities = np.full((len(sample.y), n_classes), np.nan)
    pairs = sample.split(sample.everything)
    with search.fits(len(pairs), "fits to the other folds") as progress:
        for (fit, look), tell in progress.each(pairs):
            try:
                estimator = search.fit(settings, fit, tell)
                probabilities[look] = all_classes(estimator, sample.features, look, n_classes)
            except (RequestError, ValueError):  # these rows are too few for it; scikit-learn's heads raise ValueError
                continue
    return probabilities
