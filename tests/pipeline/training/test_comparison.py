"""The metric that was asked for decides the order, the intervals, the tests and the messages of a comparison."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from samples import provenance_of, rows_of, write_store

import pipeline
from features import RequestError
from features.store.provenance import Origin
from pipeline.evaluation.intervals import interval_of_mean, intervals_of
from pipeline.evaluation.metrics import METRICS, find_metric, value_of
from pipeline.evaluation.significance import told_p
from pipeline.reports.build import gather
from pipeline.reports.page import render
from pipeline.reports.run_results import load_run
from pipeline.runs.predictions import load_predictions
from pipeline.training import summary


def made(shapes):
    """Return a provenance of a source whose images are gone."""
    return replace(provenance_of(shapes), origin=Origin("folder", "d", "/gone"))


HEADS = ["logistic", "nearest-mean", "knn", "majority"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of 120 images of two unequal classes in two layers, which tell them apart a little."""
    random, n = np.random.default_rng(0), 120
    y = (np.arange(n) % 4 == 0).astype(np.int32)
    rows = rows_of(y, np.resize([0, 0, 1, 2, 2], n).astype(np.uint8), 2)
    rows.columns["patient"] = tuple(f"p{row // 3}" for row in range(n))
    rows.columns["camera"] = tuple("xy"[row // 3 % 2] for row in range(n))
    values = {
        name: (random.normal(size=(n, 6)) + y[:, None] * by).astype(np.float16) for name, by in (("a", 0.4), ("b", 0.8))
    }
    return write_store(tmp_path_factory.mktemp("m") / "s.h5", values, rows, made({"a": (6,), "b": (6,)}))


@pytest.mark.parametrize("name", ["log_loss", "roc_auc", "balanced_accuracy"])
def test_heads_are_ranked_and_compared_by_the_metric(store, tmp_path, name):
    found, metric = pipeline.compare(store, HEADS, metric=name, out=tmp_path / "c"), find_metric(name)
    values = [head[name] for head in found.heads]
    assert values == sorted(values, reverse=metric.greater_is_better) and found.metric == name
    assert [head["behind"] for head in found.heads] == pytest.approx(np.abs(np.subtract(values, values[0])))
    test = {"roc_auc": "DeLong's test"}.get(name, "a permutation test")
    assert found.test == test and {head["test"] for head in found.heads[1:]} == {test}
    table = (tmp_path / "c/compare.md").read_text(encoding="utf-8")
    assert table.splitlines()[0].split(" | ")[3] == f"{metric.title} [95 %]"
    assert f"in {name} ({test}, Holm, 5 %)" in table
    with open(tmp_path / "c/compare.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    low, high = found.heads[0]["intervals"][name]
    assert float(lines[0][f"{name}_low"]) == low and float(lines[0][f"{name}_high"]) == high
    assert lines[0]["metric"] == name
    page = render(gather(load_run(tmp_path / "c")))
    words = {"roc_auc": "ROC AUC"}.get(name, name.replace("_", " "))
    taken = next(head[name] for head in found.heads if head["head"] == found.recommended["head"])
    assert f"{words} {taken:.3f} on test images" in page and f"intervals of {words}" in page
    assert pipeline.plot(tmp_path / "c").axes[0].get_xlabel() == f"test {words}, with 95 % interval"


def test_every_metric_has_an_interval_over_repeats_too(store, tmp_path):
    found = pipeline.compare(store, ["logistic", "knn"], repeats=3, metric="log_loss", out=tmp_path / "c")
    assert found.test == "the corrected resampled t-test"
    for head in found.heads:
        assert set(head["intervals"]) == {metric.name for metric in METRICS if metric.interval}
        assert all(low < head[name] < high for name, (low, high) in head["intervals"].items())
        assert head["accuracy_interval"] == head["intervals"]["accuracy"]
    frame = found.to_frame()
    assert (frame["log_loss_low"] < frame["log_loss"]).all() and frame["log_loss"].is_monotonic_increasing


def test_a_metric_that_one_class_leaves_undefined_is_no_end(tmp_path):
    """Test images of one class have no area under a curve."""
    y = np.resize([0, 1], 40).astype(np.int32)
    splits = np.resize([0, 0, 1, 1], 40).astype(np.uint8)
    splits[::8] = 2
    values = {"a": np.random.default_rng(0).normal(size=(40, 3)).astype(np.float16)}
    path = write_store(tmp_path / "s.h5", values, rows_of(y, splits, 2), made({"a": (3,)}))
    found = pipeline.compare(path, ["logistic", "majority"], metric="roc_auc", out=tmp_path / "c")
    assert [(head["roc_auc"], head["behind"], head["p_value"]) for head in found.heads] == [
        (None, 0, None),
        (None, None, None),
    ]
    assert "| - |" in (tmp_path / "c/compare.md").read_text(encoding="utf-8")
    assert "No interval" in render(gather(load_run(tmp_path / "c")))


def test_groups_are_what_intervals_and_tests_count(store, tmp_path):
    found = pipeline.compare(store, ["logistic"], group="patient", repeats=3, out=tmp_path / "c")
    kept, metric, ends = load_predictions(tmp_path / "c"), find_metric("log_loss"), {}
    probabilities = [p for _, p in kept.pairs("logistic")]
    for group in ("patient", None):
        tested = summary.tested_rows(kept.rows, kept.splits, group)
        pairs = list(zip(tested, probabilities, strict=True))
        values = [value_of(metric, each.y, p) for each, p in pairs]
        intervals = [intervals_of(each.y, p, each.units)["log_loss"] for each, p in pairs]
        ends[group] = interval_of_mean(metric, values, intervals, tested, probabilities)
    assert found.heads[0]["intervals"]["log_loss"] == pytest.approx(ends["patient"])
    assert ends["patient"] != pytest.approx(ends[None])


def test_a_probe_compares_layers_by_the_metric(store, tmp_path):
    found = pipeline.probe(store, metric="log_loss", repeats=3, out=tmp_path / "p")
    alone = {layer["layer"]: layer["log_loss"] for layer in found.layers if "+" not in layer["layer"]}
    assert set(alone) == {"a", "b"} and found.take == min(alone, key=alone.get) and found.metric == "log_loss"
    told = (tmp_path / "p/probe.md").read_text(encoding="utf-8")
    assert "log loss [95 %]" in told and "the best single layer by log_loss" in told


def test_a_layer_that_cannot_be_fitted_is_a_row_of_the_probe(tmp_path):
    """Of 50 images, 40 features take 8,000 bytes of the 2,000 there are; 6 take 1,200."""
    random, y = np.random.default_rng(0), np.resize([0, 1], 50).astype(np.int32)
    values = {
        name: random.normal(y[:, None], 1, (50, width)).astype(np.float16) for name, width in (("a", 6), ("b", 40))
    }
    rows = rows_of(y, np.resize([0, 0, 1, 2], 50).astype(np.uint8), 2)
    path = write_store(tmp_path / "s.h5", values, rows, made({"a": (6,), "b": (40,)}))
    found = pipeline.probe(path, memory=2e-6, repeats=3, out=tmp_path / "p")
    assert [layer["layer"] for layer in found.layers] == ["a"] and found.take == "a"
    assert set(found.not_fitted) == {"b"} and "must fit into" in found.not_fitted["b"]
    assert "| b | not fitted: features must fit" in (tmp_path / "p/probe.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "p/probe.json").read_text())["not_fitted"] == found.not_fitted
    with pytest.raises(RequestError, match="must fit into"):
        pipeline.probe(path, layer="b", memory=2e-6, out=tmp_path / "q")
    with pytest.raises(RequestError, match="must be one of those stored: a, b; got 'c'"):
        pipeline.probe(path, layer="a,c", out=tmp_path / "q")


def test_the_slices_of_the_head_to_take_are_kept_and_shown(store, tmp_path):
    for repeats, group in ((1, None), (3, "patient")):
        out = tmp_path / f"c{repeats}"
        found = pipeline.compare(store, HEADS, repeats=repeats, group=group, metric="macro_f1", out=out)
        told = json.loads((out / "compare.json").read_text(encoding="utf-8"))["slices"]
        assert told == json.loads(json.dumps(found.slices)) and told["head"] == found.recommended["head"]
        assert {each["value"] for each in told["slices"]} == {"x", "y"} and told["tests"] == 1
        tested = [row for row, sides in enumerate(np.transpose(load_predictions(out).splits)) if 2 in sides]
        assert sum(each["rows"] for each in told["slices"]) == len(tested)
        assert all(each["units"] <= each["rows"] / 3 + 1 or not group for each in told["slices"])
        assert told["left_out"]["patient"].startswith("its values are the groups" if group else "it has ")
        page = render(gather(load_run(out)))
        assert "<bdi>camera</bdi>: <bdi>x</bdi>" in page and "<bdi>patient</bdi>: not looked at" in page
        assert ("Groups</th>" in page) == (group is not None)


def test_a_trained_heads_slices_are_those_of_a_comparison(store, tmp_path):
    run = pipeline.train_head(store, "logistic", metric="macro_f1", out=tmp_path / "r")
    found = pipeline.compare(store, ["logistic"], metric="macro_f1", out=tmp_path / "c")
    assert run.slices == found.slices
    assert json.loads((tmp_path / "r/run.json").read_text(encoding="utf-8"))["slices"]["tests"] == 1
    assert "<bdi>camera</bdi>: <bdi>x</bdi>" in render(gather(load_run(tmp_path / "r")))


def test_a_p_value_and_a_difference_are_told_in_one_way():
    assert [told_p(value) for value in (0.0, 0.0009, 0.001, 0.5)] == ["<0.001", "<0.001", "0.001", "0.500"]
    of = {"is_best": False, "behind": 0.02, "p_value": 1e-9}
    assert (
        summary.told_behind(of, 3) == "0.020 (<0.001)"
        and summary.told_behind({**of, "p_value": 0.3}, 2) == "0.02 (0.300)"
    )
    assert summary.told_behind({**of, "p_value": None}, 3) == "0.020 (needs 3 repeats)"
    assert summary.told_behind({**of, "p_value": None, "behind": None}, 3) == "-"
    assert summary.told_behind({**of, "p_value": None, "is_best": True}, 3) == "best"
