"""A content keeps the split that it has in the store: no image that was tested on is trained on later."""

import numpy as np
import pytest
from conftest import draw, draw_tree

from features import FeatureStore, extract
from features.errors import RequestError, on_command_line
from features.extraction.request import extract_again
from features.splits import SPLITS
from pipeline.training.splitting import draw_splits


def splits_of(path):
    """Return SHA-256 of each content → its split, and the number of rows of each split."""
    with FeatureStore(path) as store:
        rows = store.rows
        return {key.tobytes(): int(split) for key, split in zip(rows.sha256, rows.splits, strict=True)}, np.bincount(
            rows.splits
        )


def test_renaming_moving_relabelling_and_adding_move_no_image_to_another_split(tmp_path, stand_in, caplog):
    tree, out = draw_tree(tmp_path / "photos", {"x": 15}, splits=False), tmp_path / "s.h5"
    extract(str(tree), out=out)
    before, _ = splits_of(out)

    (tree / "red").rename(tree / "scarlet")
    (tree / "blue/x000.png").rename(tree / "scarlet/was_blue.png")
    tree = tree.rename(tmp_path / "moved")
    for number in range(20):
        draw(tree / "blue" / f"new{number}.png", 1000 + number, (20, 20, 120))
    with caplog.at_level("INFO", "cached_features"):
        extract(str(tree), out=out)
    after, counts = splits_of(out)
    assert len(after) == len(before) + 20
    assert all(after[key] == split for key, split in before.items())
    assert "images in the split that they or their group have in s.h5; drawn anew" in caplog.text
    assert (counts > 0).all()
    done = extract(str(tree), out=out)
    assert done.computed == 0
    assert splits_of(out)[0] == after


def test_a_store_says_which_splits_its_source_did_not_give(tmp_path, stand_in):
    """By which a label budget knows whether the test images are the user's own."""
    drawn = {}
    for name, splits in (("none", False), ("own", True)):
        extract(str(draw_tree(tmp_path / name, splits=splits)), out=tmp_path / f"{name}.h5")
        with FeatureStore(tmp_path / f"{name}.h5") as store:
            drawn[name] = set(store.made.origin.drawn)
    assert drawn["none"] == {"val", "test"} and "test" not in drawn["own"]


def test_another_seed_draws_anew_as_for_a_new_store(tmp_path, stand_in):
    tree = draw_tree(tmp_path / "photos", {"x": 15}, splits=False)
    extract(str(tree), out=tmp_path / "s.h5")
    extract(str(tree), out=tmp_path / "s.h5", seed=1)
    extract(str(tree), out=tmp_path / "new.h5", seed=1)
    assert splits_of(tmp_path / "s.h5")[0] == splits_of(tmp_path / "new.h5")[0]


def test_a_copy_goes_to_the_split_of_its_original(tmp_path, stand_in):
    tree, out = draw_tree(tmp_path / "photos", {"x": 15}, splits=False), tmp_path / "s.h5"
    extract(str(tree), out=out)
    before, _ = splits_of(out)
    for path in sorted((tree / "red").glob("*.png")):
        path.with_name(f"a_{path.name}").write_bytes(path.read_bytes())
    extract(str(tree), out=out)
    with FeatureStore(out) as store:
        assert len(store) == 45
        sides = {key.tobytes(): set() for key in store.rows.sha256}
        for key, split in zip(store.rows.sha256, store.rows.splits, strict=True):
            sides[key.tobytes()].add(int(split))
    assert sides == {key: {split} for key, split in before.items()}


def test_added_images_alone_are_computed_and_the_store_says_what_was_added(tmp_path, stand_in, monkeypatch, said):
    monkeypatch.chdir(tmp_path)
    draw_tree(tmp_path / "photos", {"x": 15}, splits=False)
    extract("photos", out="s.h5", seed=3)
    before, _ = splits_of("s.h5")
    for number in range(12):
        draw(tmp_path / f"new/{number}.png", 1000 + number)
    for name, numbers in (("labels.csv", range(8)), ("labels (1).csv", range(8, 12))):
        lines = (f"{tmp_path}/new/{number}.png,{('red', 'blue')[number % 2]}\n" for number in numbers)
        (tmp_path / name).write_text("path,label\n" + "".join(lines))
    assert extract("photos", out="s.h5", seed=3, add="labels.csv").computed == 8
    added = ["labels.csv", "labels (1).csv"]
    assert extract("photos", out="s.h5", seed=3, add=added).computed == 4
    after, _ = splits_of("s.h5")
    assert len(after) == len(before) + 12 and all(after[key] == split for key, split in before.items())
    assert {after[key] for key in after.keys() - before} == {SPLITS["train"]}
    with FeatureStore("s.h5") as store:
        assert store.made.origin.added == tuple(added)
        new = {key.tobytes() for key, learnt in zip(store.rows.sha256, store.rows.learnt, strict=True) if learnt}
        assert new == after.keys() - before
        drawn = np.array(draw_splits(store.rows.images(), 8, 0))
        is_new = np.array([key.tobytes() in new for key in store.rows.sha256])
        assert (drawn[:, is_new] == SPLITS["train"]).all()
        assert (np.apply_along_axis(np.bincount, 1, drawn[:, ~is_new]) == np.bincount(store.rows.splits[~is_new])).all()
        with on_command_line("cached-features"):
            again = extract_again(store.made, store.path, group="x")
    assert "--data photos --add labels.csv --add 'labels (1).csv' --backbone vgg16" in again and "--seed 3" in again
    with pytest.raises(
        RequestError, match=r"are not in photos.*it was made with add=\['labels.csv', 'labels \(1\).csv'\]"
    ):
        extract("photos", out="s.h5", seed=3)
