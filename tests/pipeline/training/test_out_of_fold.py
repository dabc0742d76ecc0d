"""Probabilities of each image by a head that never saw it, against scikit-learn's."""

import numpy as np
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.naive_bayes import GaussianNB

from pipeline.data.training_data import Features, Part, Sample
from pipeline.heads.registry import find_head
from pipeline.training.fits.folds import out_of_fold


def sample_of(y, folds, seed=0):
    """Return a sample of four features that tell the classes apart a little."""
    X = np.random.default_rng(seed).normal(y[:, None], 1, (len(y), 4)).astype(np.float32)
    return Sample(Features(X, (4,), 1, (Part("layer", "avg"),)), y, np.zeros(len(y), bool), folds)


def test_out_of_fold_probabilities_are_scikit_learns():
    y, folds = np.tile([0, 1, 2], 20), np.arange(60) // 12
    sample = sample_of(y, folds)
    scaled = sample.features.matrix / sample.features.scale("layer")
    expected = cross_val_predict(GaussianNB(), scaled, y, cv=PredefinedSplit(folds), method="predict_proba")
    found = out_of_fold(find_head("sklearn.naive_bayes.GaussianNB").search(sample), {}, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_where_the_other_folds_are_too_few_there_is_no_probability():
    """The only rows of the second class are in folds 0 and 1; ridge is calibrated on two rows of each class or more."""
    y, folds = np.zeros(20, int), np.arange(20) % 4
    y[[0, 1]] = 1
    found = out_of_fold(find_head("ridge").search(sample_of(y, folds)), {"scale": "layer", "alpha": 1.0}, 2)
    np.testing.assert_array_equal(np.isnan(found[:, 0]), folds < 2)
    np.testing.assert_allclose(found[folds > 1].sum(axis=1), 1)
