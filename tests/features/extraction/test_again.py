"""The command that makes a store again, typed as it is printed, makes the same store."""

import json
import shlex

import pytest
from conftest import contents, draw, draw_tree

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

import onnx_models

from features import FeatureStore, UnsafeFile, extract
from features.errors import on_command_line
from features.extraction.request import extract_again
from features.store.provenance import Provenance
from pipeline.cli.commands import main

PATTERNS = {"day": "day([0-9]+)", "number": r"[0-9]+\.png"}


def listed(folder):
    """Write a list whose headers and paths are not the usual ones, and one of corrections that drops nothing."""
    for number in range(24):
        draw(folder / f"files/{number:02d}.png", number, ((20, 20, 120), (120, 20, 20))[number % 2])
    lines = (
        f"{number:02d};{('blue', 'red')[number % 2]};{('train', 'val', 'test')[number % 3]}" for number in range(24)
    )
    (folder / "my list.csv").write_text("id;kind;part\n" + "\n".join(lines) + "\n")
    return "my list.csv", {
        "path_column": "id", "label_column": "kind", "split_column": "part", "path_pattern": "files/{}.png",
        "column": {"ten": "files/([0-9])"}, "group": None,
    }  # fmt: skip


def days(folder):
    """Write a folder whose classes are in the names of files, with links that lead out of it and a class that few splits have."""
    for day in (1, 2, 3):
        for number in range(8):
            name = ("blue", "red")[number % 2]
            draw(folder / f"my photos/day{day}/{name}_{number}.png", 100 * day + number)
    outside = draw(folder / "elsewhere/rare_1.png", 7)
    (folder / "my photos/day3/rare_1.png").symlink_to(outside)
    return "my photos", {
        "label_pattern": "/([a-z]+)_", "follow_links": True, "allow_missing_classes": True, "column": PATTERNS,
        "max_skipped": 0.5, "layout": "parts", "group": "day", "seed": 1,
    }  # fmt: skip


def judged(folder):
    """Write a folder of which an image is dropped and another is of another class."""
    draw_tree(folder / "photos", {"x": 15}, splits=False)
    extract("photos", out="plain.h5")
    with FeatureStore("plain.h5") as store:
        rows = store.rows
        first, second = [(rows.sha256[row].tobytes().hex(), rows.class_names[rows.labels[row]]) for row in (0, 20)]
    (folder / "verdicts.csv").write_text(
        f"sha256,old,verdict,new\n{first[0]},{first[1]},drop,\n{second[0]},{second[1]},change,blue\n"
    )
    return "photos", {"corrections": "verdicts.csv", "corrections_test": True}


@pytest.mark.parametrize("source", [listed, days, judged])
def test_the_printed_command_makes_the_same_store(source, tmp_path, monkeypatch, stand_in, capsys):
    monkeypatch.chdir(tmp_path)
    data, options = source(tmp_path)
    extract(data, out="s.h5", **options)
    with FeatureStore("s.h5") as store, on_command_line("cached-features"):
        told = store.made.origin.asked
        again = extract_again(store.made, store.path)
    assert told == {name: value for name, value in options.items() if name not in ("group", "seed")}
    before = contents("s.h5")
    words = shlex.split(again)[1:]
    capsys.readouterr()
    assert main(words) == 0
    assert ", 0 computed" in capsys.readouterr().err
    assert main([*words, "--out", "t.h5"]) == 0  # also without the store that it is of
    after = contents("t.h5")
    assert before.keys() == after.keys() and all(
        (before[name] == after[name]).all() for name in before if "rows" in name
    )


@pytest.mark.parametrize(
    "options",
    [
        {"mean": (0.1, 0.2, 0.3), "std": (0.5,), "scale": 0.01, "channels": "bgr"},
        {"mean": (-0.5,)},
        {"preprocess": "clip"},
        {"preprocess": "half"},
    ],
)
def test_the_preprocessing_of_an_onnx_model_is_printed(options, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    onnx_models.save(onnx_models.maps(), tmp_path / "own.onnx")
    draw_tree(tmp_path / "photos")
    extract("photos", backbone="own.onnx", out="s.h5", **options)
    with FeatureStore("s.h5") as store, on_command_line("cached-features"):
        again = extract_again(store.made, store.path)
    capsys.readouterr()
    assert main(shlex.split(again)[1:]) == 0
    assert ", 0 computed" in capsys.readouterr().err


def test_a_store_that_does_not_record_what_was_asked_still_opens(tiny_store):
    with FeatureStore(tiny_store) as store:
        told = json.loads(json.dumps(store.provenance))
        made = store.made
    del told["source"]["asked"]
    assert Provenance.from_json(told, "s.h5") == made  # nothing was
    told["source"]["asked"] = {"layout": "parts", "of a later version": 1}
    assert Provenance.from_json(told, "s.h5").origin.asked == {"layout": "parts"}
    told["source"]["asked"] = {"column": {"a": 1}}
    with pytest.raises(UnsafeFile, match="must say how features were made"):
        Provenance.from_json(told, "s.h5")
