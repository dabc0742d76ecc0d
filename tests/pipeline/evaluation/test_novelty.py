"""What tells images unlike all training images, and folders that have drifted."""

import dataclasses

import numpy as np
import pytest
from samples import provenance_of, rows_of, write_store

import pipeline
from features.errors import UnsafeFile
from features.safefiles.npz import read_arrays, save_arrays
from pipeline.evaluation.decisions.novelty import FILE, Novelty
from pipeline.runs.checksums import write_sums
from pipeline.runs.trained_run import load_trained


def kind(random, n, d=40, centre=0):
    """Return features of one kind: non-negative, around one of two classes."""
    y = random.integers(0, 2, n)
    X = random.exponential(0.5, (n, d))
    X[:, centre : centre + 5] += 3
    X[np.arange(n), 10 + y] += 3
    return X.astype(np.float32), y


def drift_of(known, X, predicted, folders=None):
    return known.drift.p_value(known.drift.of(known.unit_of(X), predicted), predicted, folders)


@pytest.mark.parametrize("d", [40, 5000])
def test_false_alarms_are_as_rare_as_asked_and_another_kind_is_told(d):
    random, alarms, missed, drifts = np.random.default_rng(0), [], [], 0
    for _ in range(5):
        X, y = kind(random, 800, d)
        known = Novelty.calibrate([X], np.arange(800), y, 0.01)
        new, of_new = kind(random, 1000, d)
        alarms.append(np.mean(known.of(new) > 1))
        other, of_other = kind(random, 200, d, 20)
        missed.append(np.mean(known.of(other) <= 1))
        drifts += drift_of(known, new[:100], of_new[:100]) < 0.01
        only = of_new == 1
        drifts += drift_of(known, new[only][:100], of_new[only][:100]) < 0.01  # of one class alone
        assert drift_of(known, other, of_other) == 0.001
    assert 0.003 < np.mean(alarms) < 0.02 and np.mean(missed) < (0.05 if d == 40 else 0.5) and drifts <= 1
    assert (known.sketch is not None) is (d == 5000)


def test_copies_and_groups_do_not_make_the_threshold_small():
    random = np.random.default_rng(1)
    X, y = kind(random, 200)
    units = np.repeat(np.arange(100), 2)
    X[1::2] = X[::2]
    twice = Novelty.calibrate([X], units, y)
    assert twice.threshold > 0.05 and Novelty.calibrate([X], np.arange(200), y).threshold < 1e-5
    assert (twice.of(X) < 1e-3).all()  # training images themselves


def test_a_handful_of_images_is_no_folder():
    X, y = kind(np.random.default_rng(2), 120)
    known = Novelty.calibrate([X], np.arange(120), y)
    assert drift_of(known, X[:19], y[:19]) is None and drift_of(known, X[:20], y[:20]) is not None
    assert Novelty.calibrate([X[:70]], np.arange(70), y[:70]).drift is None


@pytest.mark.parametrize("n", [100, 400])
def test_p_values_of_folders_of_the_same_kind_are_not_too_small(n):
    p = []
    for seed in range(20):
        random = np.random.default_rng([n, seed])
        X, y = kind(random, n + 60)
        known = Novelty.calibrate([X[:n]], np.arange(n), y[:n])
        p.append(drift_of(known, X[n:], y[n:]))
    assert np.mean(np.array(p) < 0.05) <= 0.15 and np.mean(np.array(p) < 0.01) <= 0.05 and np.median(p) < 0.8


def test_a_mild_change_of_all_images_is_told_from_fifty_on():
    random = np.random.default_rng(5)
    X, y = kind(random, 800)
    known = Novelty.calibrate([X], np.arange(800), y)
    new, of_new = kind(random, 50)
    new[:, 20:40] *= 1.5
    assert np.mean(known.of(new) > 1) < 0.1 and drift_of(known, new, of_new) < 0.01


def test_folders_are_compared_with_whole_groups():
    random = np.random.default_rng(6)
    X, y = kind(random, 900)
    groups = np.repeat(np.arange(45), 20)
    X += np.repeat(random.exponential(0.3, (45, 40)), 20, axis=0).astype(np.float32)  # as every module differs
    learn = np.arange(900) < 700
    p = {}
    for name, units in (("rows", np.arange(900)), ("groups", groups)):
        known = Novelty.calibrate([X[learn]], units[learn], y[learn])
        p[name] = [drift_of(known, X[groups == each], y[groups == each]) for each in range(35, 45)]
    assert np.median(p["rows"]) < 0.01 and np.mean(np.array(p["groups"]) < 0.01) <= 0.1


def test_folders_that_are_groups_tell_a_change_that_hides_behind_the_difference_of_groups():
    p = {name: [] for name in ("same", "changed", "unknown")}
    for seed in range(8):
        random = np.random.default_rng([7, seed])
        groups = np.repeat(np.arange(60), 20)
        X, y = kind(random, 1200)
        X += np.repeat(random.exponential(0.5, (60, 40)), 20, axis=0).astype(np.float32)
        learn, new = groups < 40, np.arange(800, 1200, 10)  # two images of each new group
        known, folders = Novelty.calibrate([X[learn]], groups[learn], y[learn]), [f"new/{each}" for each in groups[new]]
        p["same"].append(drift_of(known, X[new], y[new], folders))
        changed = X[new] + 0.4 * (np.arange(40) >= 20).astype(np.float32)
        p["changed"].append(drift_of(known, changed, y[new], folders))
        p["unknown"].append(drift_of(known, changed, y[new], ["new"] * len(new)))
    assert np.mean(np.array(p["same"]) < 0.01) <= 0.2 and np.median(p["same"]) > 0.2
    assert np.mean(np.array(p["changed"]) < 0.01) >= 0.9 and np.mean(np.array(p["unknown"]) < 0.01) <= 0.1


def test_a_run_keeps_what_it_knows_and_refuses_another(tmp_path):
    random = np.random.default_rng(3)
    X, y = kind(random, 300)
    splits = np.repeat([0, 1, 2], [160, 40, 100]).astype(np.uint8)
    store = write_store(
        tmp_path / "s.h5", {"x": X}, rows_of(y.astype(np.int32), splits, 2), provenance_of({"x": (40,)}, "float32")
    )
    run = pipeline.train_head(store, "nearest-mean", out=tmp_path / "r")
    assert run.novelty["images"] == 200 and run.novelty["test"] <= 0.05 <= run.novelty["interval"][1]
    trained = load_trained(tmp_path / "r")
    again = Novelty.calibrate([X[:200]], np.arange(200), y[:200])
    np.testing.assert_allclose(trained.unlike(X), again.of(X), rtol=1e-5)
    held = read_arrays(tmp_path / "r" / FILE)
    for change in (
        {"unit": held["unit"][:, 1:]}, {"threshold": np.array(-1.0)}, {"distances": held["distances"][None]},
        {"drift_means": held["drift_means"][:, 1:]}, {"drift_units": held["drift_units"] + 300},
        {"drift_counts": held["drift_counts"] * 0.5}, {"drift_places": held["drift_places"] * np.nan},
    ):  # fmt: skip
        save_arrays(tmp_path / "r" / FILE, held | change)
        with pytest.raises(UnsafeFile, match="must be the file that was written with its run"):
            load_trained(tmp_path / "r")
        write_sums(tmp_path / "r")
        with pytest.raises(UnsafeFile, match=r"must fit the head of its run.*Train it again"):
            load_trained(tmp_path / "r")
    save_arrays(tmp_path / "r" / FILE, {name: each for name, each in held.items() if not name.startswith("drift")})
    write_sums(tmp_path / "r")
    earlier = load_trained(tmp_path / "r")
    assert earlier.novelty.drift is None and earlier.places(X, y) is None and earlier.unlike(X).shape == (300,)
    (tmp_path / "r" / FILE).unlink()
    write_sums(tmp_path / "r")
    assert dataclasses.replace(load_trained(tmp_path / "r")).novelty is None  # a run of an earlier version
