"""In a real notebook kernel: bars drawn in place, lines where asked for, results and figures shown."""

import os

import pytest
from conftest import ROOT, draw_tree

import pipeline
from features.errors import RequestError

START = f"""
import sys
sys.path[:0] = [{str(ROOT / "tests")!r}, {str(ROOT)!r}]
import logging, features, pipeline
from features.backbones.registry import BACKBONES, Backbone
BACKBONES["tiny"] = Backbone("tiny", "Tiny", "last", 16, 8)
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """Return a function that runs a cell and returns what it shows: text by stream, and data by MIME type."""
    pytest.importorskip("ipykernel", reason="the extra test is not installed")
    from jupyter_client.manager import start_new_kernel

    folder = tmp_path_factory.mktemp("notebook")
    draw_tree(folder / "photos")
    manager, client = start_new_kernel(cwd=str(folder), env=dict(os.environ), startup_timeout=120)

    def run(cell):
        shown = {"stdout": "", "stderr": ""}

        def take(message):
            content = message["content"]
            if message["msg_type"] == "stream":
                shown[content["name"]] += content["text"]
            shown.update(content.get("data", {}))

        reply = client.execute_interactive(cell, output_hook=take, timeout=120)["content"]
        assert reply["status"] == "ok", "\n".join(reply["traceback"])
        return shown

    run(START)
    yield run
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def test_a_pass_draws_its_bar_in_place_and_says_what_is_asked_for(notebook):
    shown = notebook(
        "logging.basicConfig(stream=sys.stdout, level='INFO', force=True); features.extract('photos', backbone='tiny', out='s.h5')"
    )
    assert "engine   " in shown["stdout"] and "Summary(path=PosixPath('s.h5'), rows=32" in shown["text/plain"]
    bar, *rest = shown["stderr"].split("\r")[-1].splitlines()
    assert "100%" in bar and "32/32" in bar and not rest
    quiet = notebook(
        "logging.getLogger().setLevel('WARNING'); done = features.extract('photos', backbone='tiny', out='again.h5')"
    )
    assert not quiet["stdout"] and "32/32" in quiet["stderr"]


def test_a_comparison_is_shown_as_its_table_and_drawn(notebook):
    notebook("features.extract('photos', backbone='tiny', out='c.h5')")
    shown = notebook("found = pipeline.compare('c.h5', ['mlp', 'majority']); found")
    assert shown["text/markdown"].startswith("| head | features |") and shown["text/plain"] == shown["text/markdown"]
    assert "image/png" in notebook("pipeline.plot(found.out)")
    assert "image/png" in notebook("pipeline.plot(pipeline.train_head('c.h5', 'mlp').out)")


def test_figures_are_matplotlibs_and_only_of_runs_that_have_one(tiny_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipeline.compare(tiny_store, ["logistic", "majority"], out="c")
    (axes,) = pipeline.plot("c").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["logistic", "majority"]
    best = pipeline.train_head(tiny_store, "dense", out="d").settings["epochs"]
    loss, accuracy = pipeline.plot("d").axes
    assert loss.get_ylabel() == "loss" and f"chosen: epoch {best}" in accuracy.get_legend_handles_labels()[1]
    pipeline.train_head(tiny_store, "logistic", out="r")
    with pytest.raises(RequestError, match="that learns by epochs"):
        pipeline.plot("r")
