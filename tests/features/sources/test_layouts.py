"""Folders as people have them: what is read, and that nothing is left out without a word."""

import json
import os
import shutil

import pytest
from conftest import draw

from features import FeatureStore, extract
from features.errors import RequestError, SourceError, on_command_line
from features.extraction.verification import verify
from features.sources.folder import FolderOptions
from features.sources.load import load_source
from pipeline.cli.commands import main

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400)


def fill(root, *folders, count=4, start=0):
    """Draw images into folders, all different."""
    for folder in folders:
        for number in range(count):
            draw(root / folder / f"{number}.png", hash_of(folder) + start + number)
    return root


def hash_of(text):
    return sum(ord(letter) * 31**place for place, letter in enumerate(text)) % 100_000


def counts(source):
    return {name: int((source.labels == label).sum()) for label, name in enumerate(source.class_names)}


def test_content_decides_what_has_no_ending_or_another(tmp_path):
    root = fill(tmp_path / "photos", "a", "b")
    for file in sorted(root.rglob("*.png"))[::2]:
        file.rename(file.with_suffix(""))
    for file in sorted(root.rglob("*.png")):
        file.rename(file.with_suffix(".jfif"))
    (root / "a/notes.txt").write_text("no image")
    (root / "labels.csv").write_text("path,label\n")
    source = load_source(str(root))
    assert counts(source) == {"a": 4, "b": 4}
    assert source.left_out == (("a/notes.txt", "no image"), ("labels.csv", "no image"))


def test_formats_that_need_a_package_are_counted_by_ending_and_reason(tmp_path, monkeypatch, stand_in, said):
    root = fill(tmp_path / "photos", "a", "b")
    for number in range(3):
        (root / f"a/{number}.HEIC").write_bytes(HEIC)
    (root / "b/.hidden.HEIC").write_bytes(HEIC)
    monkeypatch.setattr("features.images.formats.installed", lambda module: False)
    done = extract(str(root), out=tmp_path / "s.h5")
    assert {each["path"] for each in done.to_json()["left_out"]} == {f"a/{number}.HEIC" for number in range(3)}
    line = next(line for line in said if line.startswith("left out"))
    assert "3 files: 3 of .HEIC: HEIC, which needs the package pillow-heif" in line
    assert line.endswith(" All of them: left_out of the result")


def test_deeper_folders_are_of_the_class_and_their_names_a_column(tmp_path):
    root = fill(tmp_path / "photos", "rings", "stripes/more/still", "dots/2024-01", "dots/2024-02")
    fill(root, "stripes", start=7)
    source = load_source(str(root))
    assert counts(source) == {"dots": 8, "rings": 4, "stripes": 8}
    folders = dict(zip(source.paths, source.columns["folder"], strict=True))
    assert folders["dots/2024-01/0.png"] == "2024-01" and folders["rings/0.png"] == ""
    assert folders["stripes/more/still/0.png"] == "more"
    assert "folder" not in load_source(str(fill(tmp_path / "flat", "a", "b"))).columns


def test_splits_below_classes_are_splits(tmp_path):
    root = fill(tmp_path / "photos", "a/train", "a/test", "b/train", "b/test")
    source = load_source(str(root))
    assert source.counts()["test"] == {"a": 4, "b": 4} and sum(source.counts()["val"].values()) == 2
    assert any("splits are read from the folders below the classes" in note for note in source.notes)


@pytest.mark.parametrize("stray", ["a/7.png", "a/other/7.png"])
def test_an_image_in_no_split_does_not_undo_the_splits_below_classes(tmp_path, stray):
    root = fill(tmp_path / "photos", "a/train", "a/Test", "b/train", "b/Test")
    draw(root / stray, 7)
    with pytest.raises(
        SourceError, match=rf"mixes a/Test, b/Test with 1 image in no split, such as {stray}\. Move them into"
    ):
        load_source(str(root))
    (root / stray).rename(root / "a/train/7.png")
    assert load_source(str(root)).counts()["test"] == {"a": 4, "b": 4}


@pytest.mark.parametrize("stray", ["cat.7.png", "other/cat.7.png"])
def test_an_image_in_no_split_does_not_undo_the_splits_beside_a_pattern(tmp_path, stray):
    root = tmp_path / "photos"
    for number in range(16):
        draw(root / f"{'train' if number % 4 else 'val'}/{'cat' if number % 8 < 4 else 'dog'}.{number}.png", number)
    named = FolderOptions(label_pattern="(cat|dog)")
    assert load_source(str(root), folder=named).counts()["val"] == {"cat": 2, "dog": 2}
    draw(root / stray, 77)
    with pytest.raises(SourceError, match=rf"mixes val with 1 image in no split, such as {stray}"):
        load_source(str(root), folder=named)


@pytest.mark.parametrize("folders", [("land/train", "land/car", "sea"), ("train", "car")])
def test_a_train_may_be_a_vehicle(tmp_path, folders):
    root = fill(tmp_path / "photos", *folders)
    source = load_source(str(root))
    assert counts(source) == ({"land": 8, "sea": 4} if "sea" in folders else {"car": 4, "train": 4})
    by_pattern = load_source(str(root), folder=FolderOptions(label_pattern="[a-z]+"))
    assert by_pattern.class_names == source.class_names and by_pattern.drawn == source.drawn == ("test", "val")


def test_a_class_folder_without_an_image_is_named(tmp_path):
    root = fill(tmp_path / "photos", "a", "b")
    (root / "c").mkdir()
    (root / "c/0.txt").write_text("text")
    with pytest.raises(
        SourceError, match=r"c has 1 file and no image \(1 of .txt: no image\)\. Move it away, or accept"
    ):
        load_source(str(root))
    assert load_source(str(root), allow_missing_classes=True).class_names == ("a", "b")
    shutil.rmtree(root / "c")
    (root / "empty").mkdir()
    assert load_source(str(root)).left_out == (("empty", "an empty folder"),)


@pytest.mark.parametrize("below", ["", "unlabelled"])
def test_a_test_folder_without_classes_is_left_to_predict(tmp_path, below):
    root = fill(tmp_path / "my photos", "train/a", "train/b", f"test/{below}".rstrip("/"))
    source = load_source(str(root))
    assert counts(source) == {"a": 4, "b": 4} and len(source.left_out) == 4
    told = "test/ holds 4 images without a class, which predict reads: "
    assert f"{told}pipeline.predict('RUN', '{root}/test')" in source.notes
    with on_command_line("cached-features"):
        assert f"{told}cached-features predict RUN '{root}/test'" in load_source(str(root)).notes


def test_two_new_classes_in_test_are_no_unlabelled_images(tmp_path):
    root = fill(tmp_path / "photos", "train/a", "train/b", "test/a", "test/c")
    with pytest.raises(SourceError, match="train has no image of 'c'"):
        load_source(str(root))


@pytest.mark.parametrize("folders", [("train",), ("train", "test")])
def test_classes_in_names_are_read_by_a_pattern_that_the_error_names(tmp_path, folders):
    root = tmp_path / "photos"
    for folder in folders:
        for number in range(8):
            name = f"{'cat' if number % 2 else 'dog'}.{number}.png"
            draw(root / folder / name, hash_of(folder) + number)
    with pytest.raises(
        SourceError, match=r"hold images without one\. If names begin with the class \(cat, dog\)"
    ) as caught:
        load_source(str(root))
    pattern = str(caught.value).rsplit("label_pattern=", 1)[1].strip("'")
    source = load_source(str(root), folder=FolderOptions(label_pattern=pattern))
    assert counts(source) == {"cat": 4 * len(folders), "dog": 4 * len(folders)}
    assert ("test" not in source.drawn) == ("test" in folders)


def test_a_pattern_must_match_but_for_a_whole_unlabelled_split(tmp_path):
    root = tmp_path / "photos"
    for number in range(8):
        draw(root / f"train/{'cat' if number % 2 else 'dog'}.{number}.png", number)
        draw(root / f"test/{number}.png", 50 + number)
    named = FolderOptions(label_pattern="(cat|dog)")
    source = load_source(str(root), folder=named)
    assert counts(source) == {"cat": 4, "dog": 4} and len(source.left_out) == 8
    draw(root / "train/9.png", 99)
    with pytest.raises(SourceError, match=r"does not match 1 of 17, .* such as train/9\.png"):
        load_source(str(root), folder=named)
    for pattern in ("(cat)|(dog)", "(d?)"):  # whose first group is not in all matches, or empty
        with pytest.raises(SourceError, match=r"or has no text in its first group, such as train/"):
            load_source(str(root), folder=FolderOptions(label_pattern=pattern))
    with pytest.raises(RequestError, match="must be a regular expression"):
        load_source(str(root), folder=FolderOptions(label_pattern="("))
    (root / "m.csv").write_text("path,label\ntrain/9.png,cat\n")
    with pytest.raises(RequestError, match="label_pattern must go with a folder"):
        load_source(str(root / "m.csv"), folder=named)


def test_a_folder_around_the_classes_is_named(tmp_path):
    root = fill(tmp_path / "photos", "all/a", "all/b")
    with pytest.raises(SourceError, match=r"Its folders a, b look like classes: data='.*photos/all'"):
        load_source(str(root))


def test_loose_images_are_told(tmp_path):
    root = fill(tmp_path / "photos", "a", "b")
    draw(root / "loose.png", 1)
    assert load_source(str(root)).left_out == (("loose.png", "in no class folder"),)
    for number in range(4):
        draw(tmp_path / f"bare/{number}.png", number)
    with pytest.raises(SourceError, match=r"4 of \.png: in no class folder\. Sort them"):
        load_source(str(tmp_path / "bare"))


def test_links_out_of_the_folder_are_followed_when_asked_for(tmp_path):
    pool = fill(tmp_path / "pool", "a", "b")
    for file in pool.rglob("*.png"):
        link = tmp_path / "subset" / file.relative_to(pool)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(file, link.parent))
    with pytest.raises(SourceError, match=r"8 links lead out of the folder\. To follow them: follow_links=True"):
        load_source(str(tmp_path / "subset"))
    followed = FolderOptions(follow_links=True)
    assert counts(load_source(str(tmp_path / "subset"), folder=followed)) == {"a": 4, "b": 4}
    (tmp_path / "folders").mkdir()
    for name in ("a", "b"):
        (tmp_path / "folders" / name).symlink_to(pool / name)
    (pool / "a/round").symlink_to(pool / "a")
    (pool / "a/back").symlink_to(tmp_path / "folders")
    source = load_source(str(tmp_path / "folders"), folder=followed)
    assert counts(source) == {"a": 4, "b": 4} and len(source.left_out) == 2


def test_names_that_are_not_utf8_are_rows_under_escaped_names(tmp_path, stand_in):
    root = fill(tmp_path / "photos", "a", "b")
    for number, file in enumerate(sorted(root.rglob("*.png"))):
        file.rename(os.fsdecode(os.fsencode(file.parent) + b"/Pr\xfcfling %d.png" % number))
    done = extract(str(root), out=tmp_path / "s.h5")
    with FeatureStore(done.path) as store:
        assert store.rows.paths[0] == "a/Pr\\xfcfling 0.png" and len(store) == 8
    checks = {check.name: check.held for check in verify(str(done.path), rows=0)}
    assert False not in checks.values()
    draw(root / "a/Pr\\xfcfling 0.png", 5)  # the same text, another file
    assert ("a/Pr\\xfcfling 0.png", "another file's name is the same as text") in load_source(str(root)).left_out


def test_too_many_skipped_files_are_told_by_reason(tmp_path, stand_in):
    root = fill(tmp_path / "photos", "a", "b", count=8)
    for number, file in enumerate(sorted(root.rglob("*.png"))[:-3:2]):
        file.write_bytes(b"" if number % 2 else b"no image %d" % number)
    with pytest.raises(
        SourceError, match=r"got [67] so far: [34] no image in one of the formats .*; 3 empty file\. Check the data"
    ):
        extract(str(root), out=tmp_path / "s.h5", workers=1)


def test_different_files_that_become_one_image_are_warned_of(tmp_path, stand_in, said):
    from PIL import Image

    for number in range(8):
        file = tmp_path / f"icons/{'ab'[number % 2]}/{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        shape = Image.new("L", (20, 20))
        shape.paste(255, (number, 2, number + 6, 18))
        image = Image.new("RGBA", (20, 20))
        image.putalpha(shape)
        image.save(file)
    extract(str(tmp_path / "icons"), out=tmp_path / "white.h5")
    assert not any("features of another" in line for line in said)
    extract(str(tmp_path / "icons"), out=tmp_path / "dropped.h5", background="none")
    assert any("8 different files have the features of another" in line for line in said)
    with FeatureStore(tmp_path / "white.h5") as store:
        assert store.made.spec.background == "white" and store.made.spec.colour == "srgb"


def test_bits_in_use_become_the_range_of_the_store_and_are_kept(tmp_path, stand_in, said):
    import numpy as np
    from PIL import Image

    def save(number, top):
        random = np.random.default_rng(number)
        file = tmp_path / f"deep/{'ab'[number % 2]}/{number}.{'tif' if number % 3 else 'png'}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, top, (20, 20)).astype(np.uint16)).save(file)

    for number in range(8):
        save(number, 4096)
    extract(str(tmp_path / "deep"), out=tmp_path / "s.h5")
    assert any("8 images with values of more than 8 bits" in line and "12-bit" in line for line in said)
    save(8, 1000)
    assert extract(str(tmp_path / "deep"), out=tmp_path / "s.h5").computed == 1
    save(9, 60000)
    done = extract(str(tmp_path / "deep"), out=tmp_path / "s.h5")
    assert [each.path for each in done.skipped] == ["b/9.png"] and "range 12-bit" in done.skipped[0].reason
    with FeatureStore(tmp_path / "s.h5") as store:
        assert store.made.spec.range == "12-bit"


def test_warnings_are_not_quiet(tmp_path, stand_in, capsys):
    root = fill(tmp_path / "photos", "train/cat", "train/Cat", "test/cat", "test/Cat")
    shutil.copy(root / "train/cat/0.png", root / "test/cat/copy.png")
    shutil.copy(root / "train/cat/1.png", root / "train/Cat/copy.png")
    assert main(["extract", "--data", str(root), "--out", str(tmp_path / "s.h5"), "--quiet"]) == 0
    err = capsys.readouterr().err
    assert "warning  'Cat' and 'cat' are 2 classes, though" in err
    assert "warning  copies in more than one split: 1 image, such as test/cat/copy.png, train/cat/0.png. " in err
    assert "warning  copies in more than one class: 1 image, such as train/Cat/copy.png, train/cat/1.png. " in err


def test_the_command_line_lists_what_is_left_out(tmp_path, stand_in, capsys):
    root = fill(tmp_path / "photos", "a", "b")
    (root / "a/0.txt").write_text("text")
    assert main(["extract", "--data", str(root), "--out", str(tmp_path / "s.h5"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["left_out"] == [{"path": "a/0.txt", "reason": "no image"}]
    assert "left out 1 file: 1 of .txt: no image. All of them: --json\n" in err
