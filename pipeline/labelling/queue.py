"""The order in which images are worth labelling: doubtful, typical, and unlike what is labelled and each other."""

from __future__ import annotations

import numpy as np

NEIGHBOURS = 10  # of typicality
FAR = 0.9  # quantile of distances from which on images count as equally far, or outliers would come first
_BLOCK = 1024


def order_queue(probabilities: np.ndarray, unit: np.ndarray, labelled: np.ndarray, n: int) -> np.ndarray:
    """Return the n images to label next, the first first.

    Each next image is the one with the largest product of its *doubt* (1 minus the lead of the likeliest class), its *typicality*
    (mean cosine with its nearest neighbours in the queue, Hacohen et al. 2022, "Active learning on a budget") and its cosine
    distance to the nearest image that is labelled or already chosen, so a batch is diverse (k-centre, Sener & Savarese 2018, "Active
    learning for convolutional neural networks: a core-set approach"). Doubt and typicality count by their ranks, and large distances
    alike, so that outliers do not come first.

    Parameters
    ----------
    probabilities : ndarray of shape (n_images, n_classes)
    unit : ndarray of shape (n_images, n_components)
        Features as unit vectors.
    labelled : ndarray of shape (n_labelled, n_components)
        Of the images that are labelled.
    n : int

    Returns
    -------
    order : ndarray of shape (min(n, n_images),), int
    """
    weights = _ranks(doubt(probabilities)) * _ranks(typicality(unit))
    far = np.concatenate([1 - (each @ labelled.T).max(axis=1) for each in _blocks(unit)])
    far = np.minimum(far, np.quantile(far, FAR))
    order = np.empty(min(n, len(unit)), int)
    for place in range(len(order)):
        order[place] = chosen = int(np.argmax(weights * np.maximum(far, 1e-9)))
        far = np.minimum(far, 1 - unit @ unit[chosen])
        weights[chosen] = -1  # never again
    return order


def doubt(probabilities: np.ndarray) -> np.ndarray:
    """Return one minus the lead of the likeliest class over the next, (n_images,)."""
    highest = np.sort(probabilities, axis=1)
    return 1 - (highest[:, -1] - highest[:, -2])


def typicality(unit: np.ndarray) -> np.ndarray:
    """Return the mean cosine of each image with its nearest neighbours, (n_images,)."""
    k = min(NEIGHBOURS + 1, len(unit))
    found = []
    for each in _blocks(unit):
        nearest = np.partition(each @ unit.T, len(unit) - k, axis=1)[:, len(unit) - k :]
        found.append((nearest.sum(axis=1) - 1) / max(k - 1, 1))  # without itself, whose cosine is 1
    return np.concatenate(found)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from above 0 to 1."""
    return (np.argsort(np.argsort(values, kind="stable"), kind="stable") + 1) / len(values)


def _blocks(unit: np.ndarray) -> list[np.ndarray]:
    return np.array_split(unit, max(1, -(-len(unit) // _BLOCK)))
