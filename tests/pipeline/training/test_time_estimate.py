"""What is said of how long fits take: by each head's law, refined by the fits that are done."""

import logging

import pytest

import pipeline
from features.errors import RequestError
from features.runtime.progress import Progress
from pipeline.heads.contract import Cost, Extent, Pace
from pipeline.heads.registry import HEADS
from pipeline.training.fits import time_estimate
from pipeline.training.fits.time_estimate import TimeEstimate

SMALL = Extent(images=1000, val=200, test=300, views=1, features=100, classes=4, folds=5)
PACE = Pace(product=1e-11, step=1e-9, cores=2)


def seconds(name, extent, **grid):
    """Return the seconds of choosing a head's settings and of a fit."""
    return sum(HEADS[name].cost(extent, {**HEADS[name].grid, **grid}, PACE))


@pytest.mark.parametrize("name", [name for name in HEADS if name != "majority"])
def test_each_head_takes_longer_for_more_of_anything(name):
    least = seconds(name, SMALL)
    assert least > 0
    for more in ("images", "features", "classes"):
        if (name, more) not in {
            ("knn", "classes"),
            ("linear-svm", "classes"),
            ("rbf-svm", "classes"),
            ("vote", "classes"),
        }:
            assert seconds(name, SMALL._replace(**{more: 4 * getattr(SMALL, more)})) > least, more
    for setting in HEADS[name].grid.keys() & {"C", "alpha", "shrinkage", "n_neighbors", "learning_rate"}:
        assert seconds(name, SMALL, **{setting: HEADS[name].grid[setting] * 2}) > least


def test_a_head_that_refuses_takes_no_time_and_an_unknown_one_is_named(caplog):
    caplog.set_level(logging.INFO, "cached_features")
    estimate = TimeEstimate()
    estimate.add("sklearn.naive_bayes.GaussianNB", None)
    estimate.add("vote", Cost(0.0, 0.0))
    estimate.tell()
    assert not caplog.messages  # nothing that is known to take long
    estimate.add("mlp", Cost(90.0, 15.0))
    estimate.tell()
    (told,) = caplog.messages
    assert told == (
        "time     1 fit will take about 60 s to 4 min, and those of sklearn.naive_bayes.GaussianNB unknown time; most of it mlp 2 min"
    )


def test_fits_that_are_done_tell_more_of_their_own_head_than_of_others(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time_estimate.time, "perf_counter", lambda: now)
    estimate = TimeEstimate()
    for head in ("logistic", "logistic", "knn", "lda"):
        estimate.add(head, Cost(10.0, 0.0))
    assert estimate.left() == 40 and estimate.rate() == pytest.approx(4 / 40)
    for head, seconds, left in (
        ("logistic", 40, 40 + 20 * 70 / 40),
        ("logistic", 20, 20 * 80 / 40),
        ("knn", 0, 10 * 70 / 40),
    ):
        with estimate.timing(head):
            now += seconds
        assert estimate.left() == pytest.approx(left)
    with pytest.raises(RequestError), estimate.timing("lda"):
        raise RequestError("it cannot be fitted")
    assert estimate.rate() is None


def test_progress_reckons_with_the_fits_to_come(capsys):
    with Progress(4, "fits") as progress:
        progress.expect(0.5)
        progress.update()
    assert "1/4 fits, 00:06 left" in capsys.readouterr().err


def test_a_comparison_says_before_how_long_its_uncached_fits_take(tiny_store, tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "cached_features")
    monkeypatch.setattr(time_estimate, "measure_pace", lambda: Pace(1e-3, 1e-3, 1))
    for _ in range(2):
        pipeline.compare(tiny_store, ["logistic", "nearest-mean"], overwrite=True)
    told = [each for each in caplog.messages if each.startswith("time ")]
    assert len(told) == 1 and "2 fits will take" in told[0] and "logistic" in told[0]
    caplog.clear()
    pipeline.train_head(tiny_store, "logistic")
    assert [each for each in caplog.messages if each.startswith("time ")]
