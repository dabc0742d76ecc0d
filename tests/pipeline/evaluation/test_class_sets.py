"""Sets of classes hold the true one as often as asked, class by class, and for new groups."""

import numpy as np
import pytest
from samples import provenance_of, rows_of, write_store

import pipeline
from features.errors import RequestError, UnsafeFile
from pipeline.evaluation.decisions.class_sets import ClassSets, units_needed

NAMES = ("a", "b", "c")


def draw(random, n, shares=(0.6, 0.3, 0.1)):
    y = random.choice(3, n, p=shares)
    scores = random.normal(0, 1, (n, 3)) + 1.5 * np.eye(3)[y]
    p = np.exp(scores)
    return y, p / p.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_each_class_is_covered_as_asked(level):
    random, covered = np.random.default_rng(0), []
    for _ in range(100):
        y, p = draw(random, 300)
        sets = ClassSets.calibrate(level, y, p, NAMES)
        y, p = draw(random, 2000)
        covered.append([sets.hold(p)[y == label, label].mean() for label in range(3)])
    mean, error = np.mean(covered, axis=0), np.std(covered, axis=0) / 10
    assert (mean > level - 3 * error).all() and (mean < level + 3 * error + 0.04).all()  # at most 1 / (n + 1) more


def test_the_threshold_is_the_order_statistic():
    p = np.linspace(0.05, 0.95, 19)
    chances = np.column_stack([p, 1 - p, np.zeros(19)])
    sets = ClassSets.calibrate(0.9, np.zeros(19, int), chances, NAMES)
    assert sets.least["a"] == pytest.approx(0.1) and sets.images == {"a": 19, "b": 0, "c": 0}  # the 18th largest of 19
    assert sets.unbounded == ["b", "c"]
    assert sets.hold(np.array([[0.05, 0.95, 0.0], [0.1, 0.9, 0.0]])).tolist() == [
        [False, True, True],
        [True, True, True],
    ]


@pytest.mark.parametrize(("level", "needed"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_as_many_images_as_are_asked_for_are_enough_and_one_fewer_is_not(level, needed):
    """By hand: the least of n images is below a new one with a chance of n / (n + 1)."""
    assert units_needed(level) == needed
    chances = np.column_stack([np.linspace(0.5, 0.9, needed)] * 2)
    assert ClassSets.calibrate(level, np.zeros(needed, int), chances, NAMES[:2]).least["a"] == 0.5
    fewer = ClassSets.calibrate(level, np.zeros(needed - 1, int), chances[1:], NAMES[:2])
    assert fewer.least["a"] == 0 and fewer.unbounded == ["a", "b"]


def test_a_head_that_gives_exact_zeros_has_images_enough():
    sets = ClassSets.calibrate(0.9, np.repeat([0, 1], 20), np.tile([[0.0, 1.0]], (40, 1)), NAMES[:2])
    assert sets.least["a"] == 0 and sets.unbounded == []


def test_new_groups_are_covered_where_rows_alone_would_not():
    random, of_groups, of_rows = np.random.default_rng(1), [], []

    def grouped(groups, rows=30):
        shift = np.repeat(random.normal(0, 1.5, groups), rows)
        p = 1 / (1 + np.exp(-(random.normal(1, 0.5, groups * rows) + shift)))
        return np.column_stack([p, 1 - p]), np.repeat(np.arange(groups), rows)

    for _ in range(200):
        p, groups = grouped(15)
        y, new = np.zeros(len(p), int), grouped(20)[0]
        for found, given in ((of_groups, groups), (of_rows, None)):
            found.append(ClassSets.calibrate(0.9, y, p, NAMES[:2], given).hold(new)[:, 0].mean())
    assert np.mean(of_groups) > 0.895 > np.mean(of_rows)


def store_of(path, rows=400):
    random = np.random.default_rng(3)
    y = (np.arange(rows) % 4 == 0).astype(np.int32)
    X = random.normal(y[:, None] * 0.7, 1, (rows, 6)).astype(np.float32)
    splits = np.repeat([0, 1, 2], [rows // 2, rows // 8, rows - rows // 2 - rows // 8]).astype(np.uint8)
    return write_store(path, {"x": X}, rows_of(y, splits, 2), provenance_of({"x": (6,)}, "float32"))


def test_a_run_keeps_its_sets_and_its_figures(tmp_path, said):
    run = pipeline.train_head(store_of(tmp_path / "s.h5"), "nearest-mean", conformal=0.9, out=tmp_path / "r")
    test = run.sets["test"]
    assert test["images"] == 150 and 0.85 <= test["coverage"] <= 0.97 and test["interval"][0] < test["coverage"]
    assert [each["name"] for each in test["by_class"]] == ["0", "1"] and 1 <= test["mean_size"] < 2
    told = pipeline.runs.trained_run.load_trained(tmp_path / "r")
    assert told.sets.to_json() == {**run.sets, "test": told.sets.test}
    pipeline.train_head(tmp_path / "s.h5", "majority", conformal=0.999, out=tmp_path / "m")
    assert any("0, 1 will be in every set: conformal 0.999 needs at least 999 images" in line for line in said)
    with pytest.raises(RequestError, match=r"conformal must be at least 0.5 and below 1; got 90"):
        pipeline.train_head(tmp_path / "s.h5", conformal=90.0, out=tmp_path / "n")
    with pytest.raises(UnsafeFile, match="must say what sets of its classes hold"):
        ClassSets.from_json({**run.sets, "least": {"0": 2, "1": 0.1}}, ["0", "1"], "run.json")
