"""The label budget: nested subsets, and a power law with a floor that tells what more images would bring."""

import json
from dataclasses import replace

import numpy as np
import pytest
from samples import provenance_of, rows_of, write_store

import pipeline
from features.errors import RequestError
from features.splits import SPLITS
from features.store.provenance import Origin
from pipeline.cli.commands import main
from pipeline.evaluation.metrics import find_metric
from pipeline.labelling.label_budget import law_of
from pipeline.labelling.power_law import PowerLaw
from pipeline.labelling.subsets import Subsets, draw_subsets
from pipeline.training.splitting import LEFT_OUT


def store_of(path, rows=400, shift=0.5, columns=None, drawn=()):
    """Write a store of two classes that overlap, in ten features; of its splits, some may have been drawn."""
    random = np.random.default_rng(3)
    y = (np.arange(rows) % 2).astype(np.int32)
    X = random.normal(y[:, None] * shift, 1, (rows, 10)).astype(np.float32)
    splits = random.permutation(np.repeat([0, 1, 2], [rows // 2, rows // 8, rows - rows // 2 - rows // 8]))
    held = rows_of(y, splits.astype(np.uint8), 2)
    held.columns.update(columns or {})
    made = replace(provenance_of({"x": (10,)}, "float32"), origin=Origin("folder", "d", "/d", drawn=tuple(drawn)))
    return write_store(path, {"x": X}, held, made)


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


def law_through(errors, random, spread):
    """Return the law through errors at 100 images and more, each of five draws, but of one at the last."""
    sizes = 100 * 2 ** (np.arange(8) / 2)
    draws = [1 if size == sizes[-1] else 5 for size in sizes]
    seen = tuple(error * random.normal(1, spread, count) for error, count in zip(errors(sizes), draws, strict=True))
    return PowerLaw(sizes, seen, tuple(np.zeros(count) for count in draws))


def test_a_power_law_is_found_again_with_its_floor():
    errors = lambda n: 0.1 + 0.2 * (n / 100) ** -0.7  # noqa: E731
    law = law_through(errors, np.random.default_rng(0), 0.01)
    now = law.sizes[-1]
    for n in (2 * now, 4 * now):
        value, low, high = law.at(n)
        assert low <= errors(n) <= high and abs(value - errors(n)) < 0.01 and high - low < 0.04
    gain, low, high = law.gain(now, 2 * now)
    assert low <= errors(now) - errors(2 * now) <= high and gain > 0


def test_errors_that_no_longer_fall_promise_nothing():
    law = law_through(lambda n: 0.2 + 0 * n, np.random.default_rng(1), 0.01)
    assert law.gain(law.sizes[-1], 2 * law.sizes[-1])[2] < 0.005


class Simulated:
    """Fits to subsets of each split's images, and to these and as many more.

    Their errors follow a law, but for a part that each image adds, and a level of the split's own: fits that share no image vary by
    `spread`, relative to the law.
    """

    def __init__(self, random, splits, draws, spread=0.08, apart=0.05, images=600):
        floor, b = random.uniform(0.02, 0.15), random.uniform(0.3, 1.0)
        self.law = lambda n: floor + 0.2 * (n / 50) ** -b
        steps, counts, repeats, errors, more = [], [], [], [], []
        levels = random.normal(0, apart, splits)
        for split, level in enumerate(levels - levels.mean()):
            parts = random.normal(size=images)
            own = [parts] + [random.permutation(parts)[: round(images / 2 ** (step / 2))] for step in self.each(draws)]
            steps += [0, *self.each(draws)]
            counts += map(len, own)
            repeats += [split] * len(own)
            errors += [self.error(each, spread) + level for each in own]
            more.append(self.error(np.append(parts, random.normal(size=images)), spread) + level)
        self.drawn = Subsets([], *map(np.array, (steps, counts, repeats)))
        self.errors, self.seen = np.array(errors), np.mean(more)

    @staticmethod
    def each(draws):
        return [step for _ in range(draws) for step in range(1, 8)]

    def error(self, parts, spread):
        return self.law(len(parts)) * (1 + spread * parts.sum() / np.sqrt(len(parts)))

    def told(self):
        return law_of(self.drawn, find_metric("accuracy"), 1 - self.errors)


# Means of splits are told with wider intervals than need be, since all that are fitted share images with those there are.
@pytest.mark.parametrize(("splits", "draws", "most"), [(1, 5, 0.95), (1, 10, 0.95), (5, 2, 0.98)])
def test_an_interval_holds_the_next_error_nine_times_in_ten(splits, draws, most):
    random, held, spreads = np.random.default_rng(5), [], []
    for _ in range(200):
        simulated = Simulated(random, splits, draws)
        law = simulated.told()
        _, low, high = law.at(1200)
        held.append(low <= simulated.seen <= high)
        spreads.append(law.spread)
    assert np.mean(spreads) == pytest.approx(0.08, rel=0.05)
    assert 0.85 <= np.mean(held) <= most


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
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.out.splitlines() if line[:1] == "|"]
    assert table[0][2:] == ["test accuracy, measured", "by the curve [90 %]", "gain, by the curve [90 %]"]
    row, beyond = (next(line for line in table if line[1] == f"{each:,}") for each in (250, 500))
    at, more = head["points"][-1], head["more"][0]
    assert row[2] == f"{head['now']:.3f}" and row[3].startswith(f"{at['value']:.3f} [") and row[4] == "-"
    assert beyond[2] == "-" and beyond[3].startswith(f"{more['value']:.3f} [")
    assert more["gain"] == pytest.approx(more["value"] - at["value"])  # of the curve alone
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


def test_the_mean_of_several_splits_is_told_unless_test_was_given(tmp_path):
    """One fit varies by about a point; but a test set of the user's own is not drawn anew."""
    for drawn, expected in ((["val", "test"], (5, 2)), (["val"], (1, 5))):
        store = tmp_path / f"{len(drawn)}.h5"
        store_of(store, drawn=drawn)
        found = pipeline.budget(store, ["nearest-mean"], out=tmp_path / f"{len(drawn)}")
        assert (found.repeats, found.draws) == expected
    assert pipeline.budget(tmp_path / "2.h5", ["nearest-mean"], repeats=1, out=tmp_path / "own").draws == 5


def test_too_few_images_or_draws_are_refused(tmp_path):
    store_of(tmp_path / "s.h5", rows=24)
    with pytest.raises(RequestError, match="each class must have at least 10 different images in train and val"):
        pipeline.budget(tmp_path / "s.h5", out=tmp_path / "b")
    with pytest.raises(RequestError, match="draws must be at least 2; got 1"):
        pipeline.budget(tmp_path / "s.h5", draws=1, out=tmp_path / "b")
