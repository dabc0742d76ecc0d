"""Heads on several stores of the same images: what is compared, matched and refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from samples import blobs, provenance_of, rows_of, write_store
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score

from features.errors import RequestError, StoreError
from features.splits import SPLITS
from pipeline import compare_bases
from pipeline.cli.commands import main
from pipeline.data.training_data import Features, Part
from pipeline.training.fits.fitting import fit_head
from pipeline.training.studies.base_comparison import format_bases


def base_of(name, width):
    """Return a provenance of a base that cannot be built again."""
    made = provenance_of({"last": (width,)}, "float32")
    return replace(made, spec=replace(made.spec, backbone=name))


@pytest.fixture
def stores(tmp_path):
    """Two stores of 90 images of three classes: one base tells the first two apart, the other the last two."""
    X, y, splits = blobs(3, rows=30)
    rows, random = rows_of(y, splits, 3), np.random.default_rng(5)
    good = [X.copy() for _ in range(2)]
    for values, blurred in zip(good, ((1, 2), (0, 1)), strict=True):
        values[:, list(blurred)] = random.exponential(1.0, (len(y), 2))
    return [
        write_store(tmp_path / f"{name}.h5", {"last": values}, rows, base_of(name, X.shape[1]))
        for name, values in zip(("left", "right"), good, strict=True)
    ], rows


def test_bases_are_compared_joined_and_voted_on_the_same_rows(stores, tmp_path):
    (left, right), _ = stores
    found = compare_bases([left, right], ["logistic", "nearest-mean"], out=tmp_path / "c")
    by = {(row["base"], row["head"]): row for row in found.table}
    assert by.keys() == {(b, h) for b in ("left", "right", "joined", "vote") for h in ("logistic", "nearest-mean")}
    assert found.table[0]["is_best"] and all(row["p_value"] is not None for row in found.table[1:])
    assert by["joined", "logistic"]["accuracy"] > max(by[b, "logistic"]["accuracy"] for b in ("left", "right"))
    assert by["left", "logistic"]["stored"] == 12 * 4 and by["joined", "logistic"]["stored"] == 24 * 4
    assert by["joined", "logistic"]["layer"] == "left:last+right:last"
    told = json.loads((tmp_path / "c/bases.json").read_text())
    assert told["table"] == json.loads(json.dumps(found.table)) and told["stores"]["left"] == str(left)
    assert found.take in ("joined", "vote", "left", "right") and f"Take {found.take}" in format_bases(found)
    with pytest.raises(RequestError, match="out must be a new folder"):
        compare_bases([left, right], out=tmp_path / "c")
    assert compare_bases([left, right], out=tmp_path / "c", overwrite=True).out == str(tmp_path / "c")


def test_joined_and_voted_figures_are_those_of_their_definitions(stores, tmp_path):
    (left, right), rows = stores
    from features import FeatureStore

    X = []
    for path in (left, right):
        with FeatureStore(path) as store:
            X.append(store.read("last"))
    found = compare_bases([left, right], out=tmp_path / "c", settings={"C": (1.0,), "scale": ("feature",)})
    by = {row["base"]: row["accuracy"] for row in found.table}
    test, probabilities = rows.splits == SPLITS["test"], []
    for each in X:
        features = Features(each, (each.shape[1],), 1, (Part("last", "none"),))
        settings = {"C": (1.0,), "scale": ("feature",)}
        made = fit_head("logistic", features, rows, rows.splits, settings=settings)[0]
        probabilities.append(made.probabilities[test])
    mean = np.mean(probabilities, axis=0)
    assert by["vote"] == accuracy_score(rows.labels[test], mean.argmax(axis=1))
    side_by_side = np.hstack(X)
    plain = LogisticRegression(C=1e3).fit(side_by_side[~test], rows.labels[~test])  # another solver, about as good
    assert by["joined"] == pytest.approx(plain.score(side_by_side[test], rows.labels[test]), abs=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: replace(rows, splits=rows.splits[::-1].copy()), "splits differs in row 0"),
        (lambda rows: replace(rows, labels=np.roll(rows.labels, 1)), "labels differs in row 0"),
        (
            lambda rows: replace(rows, sha256=rows.sha256 ^ (np.arange(90) == 7)[:, None]),
            "sha256 differs in row 7: 7 in",
        ),
        (lambda rows: replace(rows, views=(np.arange(90) == 3).astype(np.uint8)), "views differs in row 3"),
        (lambda rows: replace(rows, class_names=("a", "b", "c")), "same classes and rows"),
    ],
)
def test_stores_of_other_rows_are_refused(stores, tmp_path, change, message):
    (left, _), rows = stores
    X = np.zeros((90, 4), np.float32)
    other = write_store(tmp_path / "other.h5", {"last": X}, change(rows), base_of("other", 4))
    with pytest.raises(StoreError, match=message):
        compare_bases([left, other], out=tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"pool": "avg"}, "pool must be"), ({"memory": 6e-6}, "joined features must fit into 6e-06 GB; they need")],
)
def test_what_cannot_be_read_is_refused_before_anything_is_fitted(stores, tmp_path, options, message):
    (left, right), _ = stores
    with pytest.raises(RequestError, match=message):
        compare_bases([left, right], out=tmp_path / "c", **options)
    assert not (tmp_path / ".fits").exists() and not (tmp_path / "c").exists()


def test_the_command_line_takes_stores_separated_by_commas(stores, tmp_path, capsys):
    (left, right), _ = stores
    assert main(["compare", "--store", f"{left},{right}", "--repeats", "3", "--out", str(tmp_path / "c")]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("| base | head | accuracy [95 %]") and "| vote | logistic |" in shown.out
    assert "cannot be timed here" in shown.err
    assert main(["compare", "--store", f"{left},{left}"]) == 2
    assert "at least two different stores" in capsys.readouterr().err
    assert main(["compare", "--store", f"{left},{right}", "--sort", "head"]) == 2
    assert "--sort must go with one store" in capsys.readouterr().err


def test_bases_that_can_be_built_are_timed(tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    import onnx_models
    from conftest import draw_tree

    from features import extract

    tree, stores = draw_tree(tmp_path / "photos"), []
    for name, model in (("maps", onnx_models.maps()), ("words", onnx_models.tokens())):
        path = onnx_models.save(model, tmp_path / f"{name}.onnx")
        done = extract(str(tree), backbone=str(path), preprocess="half", pool="avg", out=tmp_path / f"{name}.h5")
        stores.append(done.path)
    found = compare_bases(stores, out=tmp_path / "c")
    times = {row["base"]: row["milliseconds"] for row in found.table}
    assert set(times) == {"maps.onnx", "words.onnx", "joined", "vote"} and min(times.values()) > 0
    assert times["joined"] == times["vote"] == pytest.approx(times["maps.onnx"] + times["words.onnx"])
