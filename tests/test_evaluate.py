"""Metrics and intervals against values from elsewhere."""

import numpy as np
import pytest

from pipeline.evaluate import accuracy_interval, evaluate


def test_metrics_of_a_small_table_computed_by_hand():
    y = np.array([0, 0, 0, 1])
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    scores = evaluate(y, probabilities)
    assert scores["accuracy"] == 0.75 and scores["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)  # F1: 2*2/(2*2+1+0), 2*1/(2*1+1+0)
    assert scores["roc_auc"] == 1.0
    assert scores["log_loss"] == pytest.approx(-np.mean(np.log([0.9, 0.8, 0.4, 0.7])))


def test_one_class_only_has_no_auc():
    assert np.isnan(evaluate(np.zeros(3, int), np.full((3, 2), 0.5))["roc_auc"])


def test_wilson_interval_of_newcombe():
    # Newcombe 1998 (Statistics in Medicine 17), table I, method 3: 81 of 263 gives 0.2553 to 0.3662.
    assert accuracy_interval([81 / 263], 1000, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_corrected_interval_by_hand():
    # t(0.975, 4) = 2.776445; s = 0.0158114 of the five; sqrt(1/5 + 1/3) = 0.7302967
    low, high = accuracy_interval([0.84, 0.86, 0.85, 0.83, 0.87], 300, 100)
    assert (high - low) / 2 == pytest.approx(2.776445 * 0.0158114 * 0.7302967, rel=1e-5)
    assert (high + low) / 2 == pytest.approx(0.85)
