"""Predictions written to a file as they are computed: a kill loses a block, and the same command goes on."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from conftest import draw, draw_tree

import pipeline
from features import extract
from features.errors import RequestError, SourceError
from pipeline.cli.commands import main
from pipeline.deploy import prediction_file
from pipeline.deploy.prediction_file import predict_to
from pipeline.deploy.predictor import Predictor
from pipeline.evaluation.decisions.drift import Drift


@pytest.fixture
def run(stand_in, tmp_path, monkeypatch):
    """A head, and twelve new images, of which one is none."""
    monkeypatch.chdir(tmp_path)
    draw_tree(tmp_path / "photos", {"train": 4, "val": 2, "test": 2})
    extract("photos", out="s.h5", batch_size=4)
    pipeline.train_head("s.h5", "nearest-mean", out="run")
    for number in range(11):
        draw(tmp_path / f"new/{number:02}.png", 500 + number, (20 * number, 20, 110))
    (tmp_path / "new/zz.png").write_bytes(b"no image")
    monkeypatch.setattr(prediction_file, "_BLOCK", 1)  # blocks of 16 images hold them all, of 4 they do not
    return tmp_path / "run"


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(run, small_disk, capsys):
    out = small_disk / "out.csv"
    (small_disk / "ballast").write_bytes(bytes(196_000))
    names = [shutil.copy("new/00.png", f"new/{number:03}{'x' * 200}.png") for number in range(40)]
    assert main(["predict", "--run", "run", *names, "--out", str(out)]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error    {out}: No space left on device. Free some space and run the same command again."
    )
    (small_disk / "ballast").unlink()
    assert main(["predict", "--run", "run", *names, "--out", str(out)]) == 0
    assert [row[0] for row in rows_of(out)[1:]] == names


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def killed_after(monkeypatch, blocks):
    """End the process, as it looks to the file, once so many blocks are written."""
    real, written = prediction_file._append, []

    def append(file, text):
        if len(written) == blocks:
            file.write(text.encode()[:20])  # a line that is cut short
            file.flush()
            raise KeyboardInterrupt
        written.append(text)
        real(file, text)

    monkeypatch.setattr(prediction_file, "_append", append)
    return lambda: monkeypatch.setattr(prediction_file, "_append", real)


def test_an_interrupted_file_is_completed_by_the_same_command_and_is_what_one_go_gives(run, monkeypatch, capsys):
    assert main(["predict", "--run", "run", "new", "--out", "whole.csv"]) == 0
    monkeypatch.setattr(prediction_file, "in_blocks", lambda given, batch_size: blocks_of(given, 4))
    heal = killed_after(monkeypatch, 2)
    assert main(["predict", "--run", "run", "new", "--out", "out.csv"]) == 130
    assert "resumes from there" in capsys.readouterr().err
    assert not Path("out.csv").exists()
    (part,) = [name for name in os.listdir() if name.endswith(".part")]
    assert re.fullmatch(r"\.out\.csv-[0-9a-f]{16}\.part", part)
    heal()
    assert main(["predict", "--run", "run", "new", "--out", "out.csv"]) == 0
    said = capsys.readouterr().err
    assert "8 of 12 images were predicted before; 4 to go" in said
    assert said.count("12/12 images") == 1 and "4/4 images" not in said  # one bar for all blocks
    assert said.splitlines()[-1].startswith("next     cached-features export --run run --out model.")
    assert rows_of("out.csv") == rows_of("whole.csv")
    assert len(rows_of("out.csv")) == 1 + 11
    assert not [name for name in os.listdir() if name.endswith(".part")]


def blocks_of(given, size):
    names = list(given)
    return ({name: given[name] for name in names[first : first + size]} for first in range(0, len(names), size))


def test_a_file_that_another_command_writes_is_refused_and_one_that_appears_is_kept(run, monkeypatch):
    real, seen = prediction_file._append, []

    def append(file, text):
        with pytest.raises(RequestError, match=r"out\.csv must not be in use; another command is writing it"):
            predict_to("out.csv", "new", other)
        real(file, text)
        Path("out.csv").write_text("mine")
        seen.append(text)

    monkeypatch.setattr(prediction_file, "_append", append)
    with Predictor(run) as predictor, Predictor(run) as other:
        with pytest.raises(RequestError, match=r"out\.csv must not appear meanwhile; it has\. Move it away"):
            predict_to("out.csv", "new", predictor)
        assert seen and Path("out.csv").read_text() == "mine"
        Path("out.csv").unlink()
        assert predict_to("out.csv", "new", other).resumed == 11


@pytest.mark.parametrize("changed", ["image", "run", "images"])
def test_rows_of_other_images_or_another_run_are_not_gone_on_with(run, monkeypatch, changed):
    monkeypatch.setattr(prediction_file, "in_blocks", lambda given, batch_size: blocks_of(given, 4))
    heal = killed_after(monkeypatch, 1)
    with Predictor(run) as predictor, pytest.raises(KeyboardInterrupt):
        predict_to("out.csv", "new", predictor)
    heal()
    images = "new"
    if changed == "image":
        os.utime("new/00.png", (2**31, 2**31))
    if changed == "run":
        pipeline.train_head("s.h5", "nearest-mean", out="run", seed=1, overwrite=True)
    if changed == "images":
        Path("new/00.png").rename("new/99.png")
    with Predictor(run) as predictor:
        done = predict_to("out.csv", images, predictor)
    assert (done.predicted, done.resumed, len(done.skipped)) == (11, 0, 1)


@pytest.fixture
def of_another_kind(run, monkeypatch):
    """A head on enough images to compare folders with them, and 31 images of another kind, one a copy; in blocks of four."""
    draw_tree(run.parent / "many", {"train": 50, "val": 10, "test": 4})
    extract("many", out="many.h5", batch_size=16)
    pipeline.train_head("many.h5", "nearest-mean", out="known", conformal=0.8)
    for number in range(30):
        draw(run.parent / f"green/{number:02}.png", 900 + number, (20, 120, 20))
    shutil.copy("green/00.png", "green/copy.png")
    monkeypatch.setattr(prediction_file, "in_blocks", lambda given, batch_size: blocks_of(given, 4))
    return run.parent / "known"


def of_all(said):
    """Return the messages on the head and on images as a whole."""
    return [line for line in said if line.startswith(("head ", "sets ", "empty ", "unlike ", "folder", "warning "))]


def test_a_file_tells_of_its_images_as_a_whole_what_predict_tells(of_another_kind, monkeypatch, said, capsys):
    real, judged = Drift.p_value, []
    monkeypatch.setattr(Drift, "p_value", lambda *given: judged.append(given) or real(*given))
    expected = pipeline.predict("known", "green")
    lines = of_all(said)
    assert any("these images as a whole are not like the training images (p " in line for line in lines)
    assert expected.unlike == sum(each.novelty > 1 for each in expected.predictions) == 31  # the copy, too
    assert f"unlike   {expected.unlike} of 31 images" in "".join(lines) and any(
        each.startswith("sets") for each in lines
    )
    said.clear()
    assert main(["predict", "--run", "known", "green", "--out", "out.csv", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert of_all(said) == lines and len(judged) == 2  # once for all blocks
    assert len(judged[1][1]) == 30  # places: a copy tells nothing more
    assert (told["predicted"], told["unlike"], told["drift"]) == (31, expected.unlike, expected.drift)


def test_a_resumed_file_counts_all_its_rows_and_compares_what_it_predicted(of_another_kind, monkeypatch, said):
    heal = killed_after(monkeypatch, 2)
    with Predictor("known") as predictor:
        with pytest.raises(KeyboardInterrupt):
            predict_to("out.csv", "green", predictor)
        assert not any("as a whole" in line for line in said)
        heal()
        done = predict_to("out.csv", "green", predictor)
    assert (done.predicted, done.resumed, done.unlike) == (31, 8, 31) and done.drift < 0.01
    assert "folder   as a whole: the 23 images of this call, without those predicted before" in said
    empty = sum(row[rows_of("out.csv")[0].index("set")] == "" for row in rows_of("out.csv"))
    assert not empty or any(line.startswith(f"empty    {empty} of 31 images") for line in said)


def test_wrong_names_and_images_are_one_clear_line(run, capsys):
    (run.parent / "there.csv").write_text("mine")
    with Predictor(run) as predictor:
        for name in ("there.csv", "table.txt"):
            with pytest.raises(RequestError, match=r"out must be a new file that ends in \.csv; got"):
                predict_to(name, "new", predictor)
        with pytest.raises(SourceError, match=r"none of 1 is\. The first is new/zz\.png"):
            predict_to("out.csv", "new/zz.png", predictor)
    assert not [name for name in os.listdir() if name.endswith(".part")]
    assert main(["predict", "--run", "run", "new", "--out", "a.csv", "--watch", "new"]) == 2
    assert "--out and --watch must go apart" in capsys.readouterr().err
