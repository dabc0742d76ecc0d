"""A content keeps the split that it has in the store: no image that was tested on is trained on later."""

import numpy as np
from conftest import draw, draw_tree

from features import FeatureStore, extract


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
    assert "images in the split that they, or what belongs to them, have in s.h5" in caplog.text
    assert (counts > 0).all()
    done = extract(str(tree), out=out)
    assert done.computed == 0
    assert splits_of(out)[0] == after


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
