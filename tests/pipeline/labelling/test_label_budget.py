"""The label budget: nested subsets, and a power law with a floor that tells what more images would bring."""

import json

import numpy as np
import pytest
from samples import provenance_of, rows_of, write_store

import pipeline
from features.errors import RequestError
from features.splits import SPLITS
from pipeline.cli.commands import main
from pipeline.evaluation.metrics import find_metric
from pipeline.labelling.label_budget import law_of
from pipeline.labelling.power_law import PowerLaw
from pipeline.labelling.subsets import Subsets, draw_subsets
from pipeline.training.splitting import LEFT_OUT


def store_of(path, rows=400, shift=0.5, columns=None):
    """Write a store of two classes that overlap, in ten features."""
    random = np.random.default_rng(3)
    y = (np.arange(rows) % 2).astype(np.int32)
    X = random.normal(y[:, None] * shift, 1, (rows, 10)).astype(np.float32)
    splits = random.permutation(np.repeat([0, 1, 2], [rows // 2, rows // 8, rows - rows // 2 - rows // 8]))
    held = rows_of(y, splits.astype(np.uint8), 2)
    held.columns.update(columns or {})
    return write_store(path, {"x": X}, held, provenance_of({"x": (10,)}, "float32"))


def test_subsets_are_nested_stratified_and_keep_groups():
    y = (np.arange(640) // 2 % 2).astype(np.int32)
    rows = rows_of(y, np.where(np.arange(640) // 16 % 5 == 4, 2, np.arange(640) // 16 % 5 == 3).astype(np.uint8), 2)
    rows.columns["patient"] = tuple(str(number // 2) for number in range(640))
    steps, subsets = draw_subsets(rows, 2, 0, "patient")
    learn = rows.splits != SPLITS["test"]
    assert steps[0] == 0 and (subsets[0] == rows.splits).all() and steps.count(1) == 2
    for step, split, larger in zip(steps[1:], subsets[1:], [*subsets[:1], *subsets[1:]], strict=False):
        kept = (split != LEFT_OUT) & learn
        assert abs(kept.sum() - learn.sum() / 2 ** (step / 2)) <= 6
        assert abs(np.mean(y[kept]) - 0.5) < 0.03
        assert (split[kept] == rows.splits[kept]).all() and (split[~learn] == SPLITS["test"]).all()
        assert (kept[::2] == kept[1::2]).all()  # patients have two images
        if step > 1:
            assert not (kept & (larger == LEFT_OUT)).any()
    assert not np.array_equal(subsets[1], subsets[1 + max(steps)])  # another draw


def test_subsets_of_large_groups_end_before_val_is_empty():
    y = (np.arange(1200) % 2).astype(np.int32)
    module = np.arange(1200) // 60  # 12 in train, 4 in val, 4 in test
    rows = rows_of(y, np.where(module < 12, 0, np.where(module < 16, 1, 2)).astype(np.uint8), 2)
    rows.columns["module"] = tuple(map(str, module))
    steps, subsets = draw_subsets(rows, 3, 0, "module")
    assert max(steps) >= 2
    for split in subsets:
        assert (split == SPLITS["val"]).any() and set(y[split == SPLITS["train"]]) == {0, 1}


def test_a_power_law_is_found_again_with_its_floor():
    sizes = 100 * 2 ** (np.arange(8) / 2)
    random = np.random.default_rng(0)
    errors = 0.1 + 0.2 * (sizes / 100) ** -0.7
    law = PowerLaw(sizes, tuple(error * random.normal(1, 0.02, 5) for error in errors))
    for n in (2 * sizes[-1], 4 * sizes[-1]):
        value, low, high = law.at(n)
        truth = 0.1 + 0.2 * (n / 100) ** -0.7
        assert low <= truth <= high and abs(value - truth) < 0.01 and high - low < 0.04
    gain, low, high = law.gain(sizes[-1], 2 * sizes[-1])
    truth = errors[-1] - 0.1 - 0.2 * (2 * sizes[-1] / 100) ** -0.7
    assert low <= truth <= high and gain > 0


def test_errors_that_no_longer_fall_promise_nothing():
    sizes = 100 * 2 ** (np.arange(8) / 2)
    law = PowerLaw(sizes, tuple(0.2 * np.random.default_rng(1).normal(1, 0.01, 5) for _ in sizes))
    assert law.gain(sizes[-1], 2 * sizes[-1])[2] < 0.005


def test_an_interval_holds_the_next_error_nine_times_in_ten():
    random, hits, times = np.random.default_rng(5), 0, 300
    sizes, n = 50 * 2 ** (np.arange(8) / 2), 1200
    for _ in range(times):
        floor, b = random.uniform(0.02, 0.2), random.uniform(0.4, 1.0)
        errors = floor + 0.2 * (sizes / 50) ** -b
        law = PowerLaw(sizes, tuple(error * random.normal(1, 0.05, 5) for error in errors))
        _, low, high = law.at(n)
        hits += low <= (floor + 0.2 * (n / 50) ** -b) * random.normal(1, 0.05) <= high
    assert 0.85 <= hits / times <= 0.96


def drawn_errors(random, splits, draws, spread=0.05, apart=0.05):
    """Return subsets, their errors by a law, of splits that differ as much as `apart`, and the law."""
    steps = np.concatenate([[0], np.tile(np.arange(1, 8), draws)])
    counts = np.round(1600 / np.sqrt(2) ** steps).astype(int)
    law = lambda n: 0.1 + 0.3 * (np.asarray(n) / 100) ** -0.7  # noqa: E731
    own = random.normal(0, apart, splits)
    errors = np.concatenate([law(counts) * random.normal(1, spread, len(steps)) + each for each in own])
    numbers = np.repeat(np.arange(splits), len(steps))
    return Subsets([], np.tile(steps, splits), np.tile(counts, splits), numbers), errors, lambda n: law(n) + own.mean()


def test_the_mean_over_splits_is_told_though_splits_differ():
    random, hits, widths = np.random.default_rng(6), 0, []
    for _ in range(200):
        drawn, errors, law = drawn_errors(random, 5, 2)
        told = law_of(drawn, find_metric("accuracy"), 1 - errors)
        _, low, high = told.at(3200)
        seen = law(3200) + 0.126 * random.normal(0, 0.05 / np.sqrt(5))  # without its split, the error is 0.126
        hits += low <= seen <= high
        widths.append(high - low)
    assert 165 <= hits <= 195 and np.mean(widths) < 0.03
    drawn, errors, _ = drawn_errors(random, 1, 5)
    one = law_of(drawn, find_metric("accuracy"), 1 - errors)
    assert one.fits == 1 and all(map(np.allclose, one.errors, [errors[each] for each in drawn.by_step]))


def test_the_command_tells_in_words_and_reuses_fits(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store_of(tmp_path / "s.h5")
    given = ["budget", "--store", "s.h5", "--heads", "nearest-mean,majority", "--draws", "3", "--out", "runs/b"]
    assert main(given) == 0
    said = capsys.readouterr()
    told = json.loads((tmp_path / "runs/b/budget.json").read_text())
    head = told["heads"][0]
    assert f"{told['images']:,} more labels would bring +" in said.out and head["words"] in said.out
    assert head["now"] == head["points"][-1]["values"][0] and len(head["points"][0]["values"]) == 3
    assert head["more"][0]["interval"][0] <= head["more"][0]["value"] <= head["more"][0]["interval"][1]
    assert head["now"] > np.mean(head["points"][0]["values"])  # more images do help here
    assert "will hardly help" in told["heads"][1]["words"]  # the majority of equal classes
    again = pipeline.budget("s.h5", ["nearest-mean", "majority"], draws=3, out="runs/c")
    assert again.heads == told["heads"] and "nearest-mean" in again._repr_markdown_()


def test_splits_are_drawn_if_asked(tmp_path):
    store_of(tmp_path / "s.h5")
    found = pipeline.budget(tmp_path / "s.h5", ["nearest-mean"], repeats=3, draws=1, out=tmp_path / "r")
    head = found.heads[0]
    assert found.repeats == 3 and "on average over 3 splits" in head["words"] and head["points"][-1]["images"] == 250
    assert all(len(each["values"]) == 3 for each in head["points"]) and len(set(head["points"][-1]["values"])) > 1
    assert head["now"] == pytest.approx(np.mean(head["points"][-1]["values"]))
    with pytest.raises(RequestError, match="draws must be at least 1; got 0"):
        pipeline.budget(tmp_path / "s.h5", repeats=3, draws=0, out=tmp_path / "b")


def test_too_few_images_or_draws_are_refused(tmp_path):
    store_of(tmp_path / "s.h5", rows=24)
    with pytest.raises(RequestError, match="each class must have at least 10 different images in train and val"):
        pipeline.budget(tmp_path / "s.h5", out=tmp_path / "b")
    with pytest.raises(RequestError, match="draws must be at least 2; got 1"):
        pipeline.budget(tmp_path / "s.h5", draws=1, out=tmp_path / "b")
