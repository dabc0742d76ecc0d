"""On random sources, no group and no copy is on two sides of anything, and the sides are as even as groups allow."""

from dataclasses import replace

import numpy as np
import pytest
from samples import rows_of
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from features.errors import RequestError
from features.splits import SPLITS
from pipeline.data.training_data import Features, Part
from pipeline.heads.registry import find_head
from pipeline.training.fits.fitting import fit_head, take_sample
from pipeline.training.fits.folds import out_of_fold
from pipeline.training.request import Fitting
from pipeline.training.splitting import draw_splits

SEEDS = range(12)


def source(seed):
    """Return rows of groups of random number, size and classes, some of whose images are copies of others of any group and class."""
    random = np.random.default_rng(seed)
    n_classes, number = int(random.integers(2, 5)), int(random.integers(25, 60))
    groups = np.repeat(np.arange(number), random.geometric(1 / random.integers(2, 9), number))
    mainly = np.resize(np.arange(n_classes), number)
    y = np.where(random.random(len(groups)) < 0.8, mainly[groups], random.integers(0, n_classes, len(groups)))
    order = random.permutation(len(y))
    groups, y = groups[order], y[order].astype(np.int32)
    rows = rows_of(y, np.resize([0, 0, 0, 1, 2], len(y)).astype(np.uint8), n_classes)
    copies = random.choice(len(y), size=(max(1, len(y) // 30), 2), replace=False)
    for one, other in copies:
        rows.sha256[other] = rows.sha256[one]
    rows.columns["patient"] = tuple(f"patient {group}" for group in groups)
    return rows


def units_of(rows):
    """Return the number of each row's unit: rows that share a patient or a content belong together, through others as well."""
    n, names = len(rows), [*rows.columns["patient"], *(key.tobytes() for key in rows.sha256)]
    numbers = {name: place for place, name in enumerate(dict.fromkeys(names))}
    ends = [numbers[name] for name in names]
    size = n + len(numbers)
    edges = coo_matrix((np.ones(2 * n), (np.tile(np.arange(n), 2), n + np.array(ends))), (size, size))
    return connected_components(edges, directed=False)[1][:n]


def are_whole(units, sides):
    """Tell whether all rows of each unit are on one side."""
    return all(len(set(sides[units == unit].tolist())) == 1 for unit in np.unique(units))


def features_of(rows, kind=Features):
    X = np.random.default_rng(0).random((len(rows), 5), np.float32)
    X[np.arange(len(rows)), rows.labels] += 0.7
    return kind(X, (5,), 1, (Part("layer", "avg"),))


@pytest.mark.parametrize("seed", SEEDS)
def test_splits_folds_and_folds_of_folds_keep_units_whole(seed):
    rows = source(seed)
    units = units_of(rows)
    assert len(np.unique(units)) < len(set(rows.columns["patient"]))  # some patients share a copy
    for split in draw_splits(rows, 4, seed, "patient"):
        assert are_whole(units, split) and set(split.tolist()) == {0, 1, 2}
        learn, val = split != SPLITS["test"], split == SPLITS["val"]
        sample = take_sample(features_of(rows), rows, learn, val, seed, "patient")
        own = units[learn]
        assert are_whole(own, sample.folds) and are_whole(own, sample.val)
        for select in ("cv", "val"):
            for fit, look in sample.pairs(select):
                assert are_whole(own, fit) and are_whole(own, look) and not (fit & look).any()
                for inner, scored in sample.split(fit):  # where heads are calibrated
                    assert are_whole(own, inner + 2 * scored.astype(int)) and not (scored & look).any()


@pytest.mark.parametrize("seed", SEEDS)
def test_sides_depend_on_the_seed_and_on_names_alone(seed):
    rows = source(seed)
    drawn = draw_splits(rows, 3, seed, "patient")
    order = np.random.default_rng(seed + 100).permutation(len(rows))
    shuffled = replace(
        rows,
        paths=tuple(rows.paths[row] for row in order),
        columns={"patient": tuple(rows.columns["patient"][row] for row in order)},
        **{name: getattr(rows, name)[order] for name in ("labels", "splits", "strata", "views", "sha256")},
    )
    for split, again in zip(drawn, draw_splits(shuffled, 3, seed, "patient"), strict=True):
        np.testing.assert_array_equal(split[order], again)
    everything = np.ones(len(rows), bool)
    folds, others = (
        take_sample(features_of(rows), rows, everything, ~everything, s, "patient").folds for s in (seed, seed + 1)
    )
    again = take_sample(features_of(shuffled), shuffled, everything, ~everything, seed, "patient").folds
    np.testing.assert_array_equal(folds[order], again)
    assert (folds != others).any() and any((split != drawn[0]).any() for split in drawn[1:])


def apart(strata, sides):
    """Return the mean distance of the classes' shares on each side from even ones."""
    counts = np.array([np.bincount(sides[strata == each], minlength=5) for each in np.unique(strata)])
    return np.abs(counts / counts.sum(axis=1, keepdims=True) - 1 / 5).mean()


def test_classes_are_as_even_over_folds_as_by_scikit_learn():
    ours, theirs = [], []
    for seed in SEEDS:
        rows = source(seed)
        everything = np.ones(len(rows), bool)
        ours.append(
            apart(rows.strata, take_sample(features_of(rows), rows, everything, ~everything, seed, "patient").folds)
        )
        fold = np.empty(len(rows), int)
        for number, (_, look) in enumerate(StratifiedGroupKFold(5).split(rows.labels, rows.labels, units_of(rows))):
            fold[look] = number
        theirs.append(apart(rows.strata, fold))
    assert np.mean(ours) <= 1.1 * np.mean(theirs), (np.mean(ours), np.mean(theirs))


@pytest.mark.parametrize("head", ["nearest-mean", "dense"])
def test_every_mask_that_a_head_asks_for_keeps_units_whole(head):
    """What it is fitted on, scored on, calibrated on and watched on, in choosing, fitting and predicting out of fold."""
    rows, masks = source(3), []
    units = units_of(rows)

    class Watched(Features):
        def of(self, images):
            masks.append(images)
            return super().of(images)

        def places(self, images):
            masks.append(images)
            return super().places(images)

    split = draw_splits(rows, 2, 3, "patient")[0]
    features = features_of(rows, Watched)
    settings = {"epochs": (2,)} if head == "dense" else {}
    result, _ = fit_head(head, features, rows, split, Fitting(3, settings=settings, group="patient"))
    learn = split != SPLITS["test"]
    sample = take_sample(features, rows, learn, split == SPLITS["val"], 3, "patient")
    out_of_fold(find_head(head).search(sample), result.settings, len(rows.class_names))
    seen = {len(rows): units, int(learn.sum()): units[learn]}
    assert len(masks) > 5 and all(are_whole(seen[len(mask)], mask) for mask in masks)


@pytest.mark.parametrize("seed", SEEDS)
def test_added_images_stay_in_train_unless_their_group_or_a_copy_is_of_the_others(seed):
    rows = source(seed)
    learnt = (np.arange(len(rows)) % 3 == 0).astype(np.uint8)
    units, added = units_of(rows), replace(rows, learnt=learnt)
    free = np.isin(units, units[learnt == 0])
    try:
        drawn = draw_splits(added, 3, seed, "patient")
    except RequestError as error:  # of the others, a class may have too few groups
        assert "patient" in str(error)
        return
    for splits in drawn:
        assert (splits[~free] == SPLITS["train"]).all() and are_whole(units, splits)
        assert set(splits[free].tolist()) == set(SPLITS.values())
    with_none = draw_splits(replace(rows, learnt=np.zeros(len(rows), np.uint8)), 3, seed, "patient")
    assert all(
        (one == other).all() for one, other in zip(with_none, draw_splits(rows, 3, seed, "patient"), strict=True)
    )
