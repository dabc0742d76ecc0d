"""Probabilities of each image by a head that never saw it, against scikit-learn's."""

import csv

import numpy as np
from samples import provenance_of, rows_of, write_store
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.naive_bayes import GaussianNB

import pipeline
from pipeline.data.training_data import Features, Part, Sample
from pipeline.heads.registry import find_head
from pipeline.runs.predictions import write_predictions
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


def table_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_head_that_learns_by_heart_is_not_right_about_its_own_rows(tmp_path):
    """Labels by chance: a tree is right about every row that it has seen, and about half of the others."""
    random, n = np.random.default_rng(0), 150
    y = random.integers(0, 2, n).astype(np.int32)
    rows = rows_of(y, np.resize([0, 0, 0, 1, 2], n).astype(np.uint8), 2)
    values = {"a": random.normal(size=(n, 4)).astype(np.float16)}
    store = write_store(tmp_path / "s.h5", values, rows, provenance_of({"a": (4,)}))
    pipeline.train_head(store, "sklearn.tree.DecisionTreeClassifier", out=tmp_path / "r")
    table = table_of(tmp_path / "r/predictions.csv")
    for split in ("train", "val"):
        assert np.mean([row["label"] == row["predicted"] for row in table if row["split"] == split]) < 0.75


def test_a_row_without_a_head_is_left_empty(tmp_path):
    rows = rows_of(np.array([0, 1, 0]), np.array([0, 1, 2], np.uint8), 2)
    write_predictions(tmp_path / "p.csv", rows, np.array([[0.7, 0.3]]), np.array([[0.2, 0.8], [np.nan, np.nan]]))
    first, second, third = table_of(tmp_path / "p.csv")
    assert (first["predicted"], first["p(1)"]) == ("1", "0.800000") and third["p(0)"] == "0.700000"
    assert {second[name] for name in ("predicted", "p(0)", "p(1)")} == {""}
    assert second["predicted_by"] == "no head: the other folds are too few to fit it"
