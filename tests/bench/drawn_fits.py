"""Heads on drawn splits, whose settings are chosen once: as quick as a fit is."""

from dataclasses import replace

import numpy as np

from features import FeatureStore
from features.splits import SPLITS
from pipeline.heads.registry import find_head
from pipeline.runs.feature_spec import all_classes
from pipeline.training.fits.fitting import take_sample
from pipeline.training.fits.folds import out_of_fold
from pipeline.training.loading import read_features
from pipeline.training.request import Request
from pipeline.training.splitting import LEFT_OUT, with_groups


class DrawnFits:
    """A store's rows and features, and a head with settings.

    `fit` returns an estimator, the probabilities of the test rows, and those of the others out of fold. Settings are chosen at the
    first fit: on the store's own split, but for other labels or groups, which it may break, on the split that is fitted.
    """

    def __init__(self, path, head="logistic", group=None, repeats=20):
        with FeatureStore(path) as store:
            asked = with_groups(store, Request(path, group=group), repeats)
            self.rows, self.features, self.group = asked.rows(store), read_features(store, head, asked), asked.group
        self.head = find_head(head)
        if self.head.views == "mean":
            self.features = self.features.averaged()
        self.settings = None

    def _sample(self, split, rows):
        learn, val = (split != SPLITS["test"]) & (split != LEFT_OUT), split == SPLITS["val"]
        return take_sample(self.features, rows, learn, val, 0, self.group)

    def fit(self, split, labels=None, folds=True):
        rows = self.rows if labels is None else replace(self.rows, labels=labels, strata=labels)
        sample, n_classes = self._sample(split, rows), len(self.rows.class_names)
        search = self.head.search(sample)
        if self.settings is None:
            own = sample if self.group or labels is not None else self._sample(self.rows.splits, rows)
            self.settings = self.head.search(own).choose(own.pairs("cv")).settings
        estimator = search.fit(self.settings, np.ones(len(sample.y), bool))
        tested = all_classes(estimator, self.features, split == SPLITS["test"], n_classes)
        return estimator, tested, out_of_fold(search, self.settings, n_classes) if folds else None
