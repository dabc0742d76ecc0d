"""Runs side by side: on the images that all of them test, by the figures that these images give."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import draw_tree
from sklearn.metrics import accuracy_score

import pipeline
from features import RequestError, extract
from pipeline.cli.commands import main
from pipeline.reports.page import render_runs
from pipeline.reports.run_results import load_run
from pipeline.reports.side_by_side import compare_runs


@pytest.fixture
def runs(tmp_path, stand_in):
    """Two comparisons on stores of one source, the second of which has lost two test images."""
    photos = draw_tree(tmp_path / "photos")
    for name, size in (("large", 32), ("small", 16)):
        extract(str(photos), out=tmp_path / f"{name}.h5", image_size=size)
        pipeline.compare(tmp_path / f"{name}.h5", ["nearest-mean", "majority"], out=tmp_path / name)
        (photos / "test/red/test003.png").unlink(missing_ok=True)
    return tmp_path / "large", tmp_path / "small"


def test_figures_are_those_of_the_shared_images(runs):
    found = compare_runs([load_run(run) for run in runs])
    assert found.shared == 7 and sorted(found.tested) == [7, 8]
    assert {row["image_size"] for row in found.rows} == {16, 32} and {row["backbone"] for row in found.rows} == {
        "vgg16"
    }
    for row in found.rows:
        run = load_run(next(each for each in runs if str(each) == row["run"]))
        test = run.predictions.splits[0] == 2
        paths = np.array(run.predictions.rows.paths)[test]
        kept = paths != "test/red/test003.png"
        p = run.predictions.probabilities[row["head"]][0]
        assert row["accuracy"] == accuracy_score(run.predictions.rows.labels[test][kept], p.argmax(axis=1)[kept])
    assert found.rows[0]["accuracy"] >= found.rows[1]["accuracy"] and found.rows[0]["p_value"] is None


def test_groups_are_those_of_the_first_run_that_has_some(runs):
    first, second = (load_run(run) for run in runs)
    plain = compare_runs([first, second])
    second.predictions.rows.columns["patient"] = tuple(path[-5] for path in second.predictions.rows.paths)  # of 4
    grouped = replace(second, heads=[{**head, "group": "patient"} for head in second.heads])
    found, turned = compare_runs([first, grouped]), compare_runs([grouped, first])
    assert plain.group is None and found.group == turned.group == found.to_json()["group"] == "patient"
    for row, other in zip(found.rows, turned.rows, strict=True):
        assert (row["accuracy"], row["interval"], row["p_value"]) == (
            other["accuracy"],
            other["interval"],
            other["p_value"],
        )
    assert [row["interval"] for row in found.rows] != [row["interval"] for row in plain.rows]
    assert "keep whole groups (<bdi>patient</bdi>) together" in render_runs(found)
    assert "keep whole groups" not in render_runs(plain)


def test_the_page_is_written_into_the_first_folder(runs, capsys):
    assert main(["report", *map(str, runs), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["report"] == str(runs[0] / "report-runs.html") and told["test_images"] == 7
    html = (runs[0] / "report-runs.html").read_text(encoding="utf-8")
    assert "on the 7 test images that all runs have" in html and all(str(run) in html for run in runs)
    assert (
        main(["report", "--run", str(runs[0]), "--run", str(runs[1]), "--out", str(runs[0].parent / "both.html")]) == 0
    )
    assert pipeline.report(runs).runs.shared == 7


def test_runs_that_cannot_be_compared_are_refused(runs, tmp_path, stand_in):
    other = draw_tree(tmp_path / "other", {"train": 4, "val": 2, "test": 2})
    for name in ("train", "val", "test"):
        shutil.move(other / name / "blue", other / name / "green")
    extract(str(other), out=tmp_path / "o.h5")
    pipeline.compare(tmp_path / "o.h5", "majority", out=tmp_path / "o")
    with pytest.raises(RequestError, match="runs of the same classes"):
        pipeline.report([runs[0], tmp_path / "o"])
    with pytest.raises(RequestError, match="must name 2 to 12 runs"):
        pipeline.report([runs[0]] * 13)
    one, two = (load_run(run) for run in runs)
    two.predictions.rows.sha256[:] ^= 1
    with pytest.raises(RequestError, match=r"have none in common\. Extract with the same seed and splits"):
        compare_runs([one, two])
