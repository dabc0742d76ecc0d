"""Heads on several stores of the same images: what is compared, matched and refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples import blobs, provenance_of, rows_of, write_store
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score

from features.errors import RequestError, StoreError, UnsafeFile
from features.splits import SPLITS
from pipeline import compare_bases, report
from pipeline.cli.commands import main
from pipeline.data.training_data import Features, Part
from pipeline.evaluation.held_out import HeldOut
from pipeline.evaluation.metrics import find_metric
from pipeline.evaluation.significance import compare_pair
from pipeline.training.fits.fitting import fit_head
from pipeline.training.request import Fitting
from pipeline.training.studies import base_comparison
from pipeline.training.studies.base_comparison import choose_base, format_bases


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
    assert f"Take {found.take}: the best" in format_bases(found)  # of 18 test images
    assert found.take == found.table[0]["base"]
    with pytest.raises(RequestError, match="out must be a new folder"):
        compare_bases([left, right], out=tmp_path / "c")
    assert compare_bases([left, right], out=tmp_path / "c", overwrite=True).out == str(tmp_path / "c")


ACCURACY, LOSS = find_metric("accuracy"), find_metric("log_loss")
ROW = {"head": "logistic", "is_best": False, "behind": 0.002, "behind_interval": [-0.005, 0.009], "p_value": 0.2}
BEST = {
    **ROW,
    "base": "best",
    "is_best": True,
    "behind_interval": None,
    "p_value": None,
    "milliseconds": 50.0,
    "stored": 9,
}
SAME = {**ROW, "base": "same", "milliseconds": 5.0, "stored": 400}
BEHIND = {**ROW, "base": "behind", "p_value": 0.01, "milliseconds": 1.0, "stored": 5}


def test_the_base_to_take_is_the_cheapest_that_costs_nothing_that_matters():
    take, why = choose_base([BEST, SAME, BEHIND], ACCURACY)
    assert take == "same" and why == (
        "the cheapest that is not distinguishable from best with logistic, the best, and costs at most 1.0 point of accuracy: "
        "it may cost up to 0.9 points of accuracy (95 %: -0.5 to 0.9)"
    )
    assert choose_base([BEST, {**SAME, "milliseconds": None}, BEHIND], ACCURACY)[0] == "best"  # not timed: by bytes
    assert choose_base([BEST, {**SAME, "milliseconds": 50.0}, BEHIND], ACCURACY)[0] == "best"  # as quick: by bytes
    take, why = choose_base([BEST, {**SAME, "p_value": 0.04}, BEHIND], ACCURACY)
    assert (take, why) == ("best", "the best; none that is cheaper is as good")
    assert "at most 0.010 of log loss: it may cost up to 0.009 of" in choose_base([BEST, SAME], LOSS)[1]


def test_not_distinguishable_is_not_taken_for_equal():
    """Of 150 images, 0.95 for a cheap base, 1.00 for the best of many: nothing told them apart, and the cheap one was taken."""
    y, cheap = np.arange(150) % 2, np.arange(150) % 2
    cheap[:7] = 1 - cheap[:7]
    tested, (best, worse) = HeldOut(y, np.arange(150), 600), (np.eye(2)[each] for each in (y, cheap))
    pair = compare_pair(ACCURACY, [tested], [best], [worse])
    row = {**SAME, "behind": pair.behind, "behind_interval": pair.interval, "p_value": 5 * pair.p_value}
    assert row["p_value"] > 0.05
    take, why = choose_base([BEST, row, BEHIND], ACCURACY)
    assert take == "best" and why == (
        "the best. same with logistic is cheaper and not distinguishable from it, but the test images are too few to tell whether "
        "it costs at most 1.0 point of accuracy: it may cost up to 8.4 points of accuracy (95 %: 1.0 to 8.4)"
    )
    of_earlier = choose_base([BEST, {**row, "behind_interval": None}], ACCURACY)
    assert of_earlier[0] == "best" and of_earlier[1].endswith(": what it may cost is not known")


def test_a_head_that_cannot_be_fitted_on_a_base_is_a_row_of_the_comparison(stores, tmp_path, monkeypatch, said):
    (left, right), _ = stores
    real = base_comparison.Fits.of

    def of(fits, head, asked, progress):
        if head == "nearest-mean" and asked.store == right:
            raise RequestError("nearest-mean: it cannot be | fitted.")
        return real(fits, head, asked, progress)

    monkeypatch.setattr(base_comparison.Fits, "of", of)
    found = compare_bases([left, right], ["nearest-mean", "logistic"], out=tmp_path / "c")
    names = {(row["base"], row["head"]) for row in found.table}
    assert names == {("left", "nearest-mean"), ("joined", "nearest-mean")} | {
        (base, "logistic") for base in ("left", "right", "joined", "vote")
    }
    one, two = found.not_fitted
    assert one == {"base": "right", "head": "nearest-mean", "why": "it cannot be | fitted."}
    assert two["base"] == "vote" and "there is none on right" in two["why"]
    assert "warning  nearest-mean on right was not fitted: it cannot be | fitted." in said
    lines = format_bases(found).splitlines()
    (line,) = [line for line in lines if line.startswith("| right | nearest-mean |")]
    assert r"not fitted: it cannot be \| fitted. |" in line and line.replace(r"\|", "").count("|") == lines[0].count(
        "|"
    )
    assert json.loads((tmp_path / "c/bases.json").read_text())["not_fitted"] == found.not_fitted
    page = report(found.out).path.read_text()
    assert "<b>nearest-mean on <bdi>right</bdi></b> was not fitted: it cannot be | fitted." in page
    with pytest.raises(RequestError, match="n_neighbors"):
        compare_bases([left, right], ["knn"], settings={"n_neighbors": (500,)}, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_two_splits_say_what_tests_would_need(stores, tmp_path):
    (left, right), _ = stores
    found = compare_bases([left, right], ["nearest-mean"], repeats=2, out=tmp_path / "c")
    told = format_bases(found)
    assert told.count("(needs 3 repeats)") == 4 + 3  # intervals of all rows, tests of all but the best
    assert f"Take {found.table[0]['base']}: the best; to tell whether a cheaper one is as good needs 3 repeats." in told


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
        made = fit_head("logistic", features, rows, rows.splits, Fitting(settings=settings))[0]
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
    with pytest.raises(StoreError, match=message) as raised:
        compare_bases([left, other], out=tmp_path / "c")
    assert "with the same limit, seed and views" in str(raised.value)
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


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    """A comparison of two small ONNX bases, which can be built again."""
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    import onnx_models
    from conftest import draw_tree

    from features import extract

    folder = tmp_path_factory.mktemp("bases")
    tree, stores = draw_tree(folder / "photos"), []
    for name, model in (("maps", onnx_models.maps()), ("words", onnx_models.tokens())):
        path = onnx_models.save(model, folder / f"{name}.onnx")
        done = extract(str(tree), backbone=str(path), preprocess="half", pool="avg", out=folder / f"{name}.h5")
        stores.append(done.path)
    return compare_bases(stores, out=folder / "c")


def test_bases_that_can_be_built_are_timed_and_counted(rebuilt):
    by = {row["base"]: row for row in rebuilt.table}
    times = {base: row["milliseconds"] for base, row in by.items()}
    assert set(times) == {"maps.onnx", "words.onnx", "joined", "vote"} and min(times.values()) > 0
    assert times["joined"] == times["vote"] == pytest.approx(times["maps.onnx"] + times["words.onnx"])
    counts = {base: row["multiply_adds"] for base, row in by.items()}
    assert counts["joined"] == counts["maps.onnx"] + counts["words.onnx"] and min(counts.values()) > 0
    assert f"| {counts['joined'] / 1e9:.2f} | {times['joined']:.1f} |" in format_bases(rebuilt)


def test_the_page_of_bases_shows_accuracy_against_each_cost(rebuilt, tmp_path):
    written = report(rebuilt.out, out=tmp_path / "bases.html")
    page = written.path.read_text()
    assert written.labels is None and written.bytes == len(page.encode())
    for cost in ("GMAC per image", "ms per image", "kB of features per image"):
        assert f"against {cost}:" in page
    for row in rebuilt.table:
        assert f"<bdi>{row['base']}</bdi>" in page and f">{row['milliseconds']:.1f}</td>" in page
    assert page.count('<circle class="dot') == 4 * 4  # three charts and the bars of the table
    assert f"Take <bdi>{rebuilt.take}</bdi>" in page
    assert (rebuilt.next_command is None) == (rebuilt.take in ("joined", "vote"))
    taken = compare_bases(list(rebuilt.stores.values()), metric="log_loss", out=tmp_path / "c").to_json()
    (tmp_path / "c/bases.json").write_text(json.dumps({**taken, "take": "maps.onnx"}))
    (tmp_path / "c/SHA256SUMS").unlink()
    again = report(tmp_path / "c").path.read_text().replace("</span> <span>", " ")
    assert (
        f">pipeline.compare(store=&#39;{rebuilt.stores['maps.onnx']}&#39;, metric=&#39;log_loss&#39;)</span></code>"
        in again
    )
    take, why = choose_base(rebuilt.table, ACCURACY)
    assert take == rebuilt.take and f"{why[0].upper()}{why[1:]}." in page


def test_a_page_of_bases_that_cannot_be_timed_leaves_out_their_costs(stores, tmp_path):
    (left, right), _ = stores
    found = compare_bases([left, right], ["logistic", "nearest-mean"], out=tmp_path / "<b>")
    page = report(found.out).path.read_text()
    assert "against ms per image:" not in page and "against kB of features per image:" in page
    assert "left, nearest-mean" in page and "<b>" not in page


def test_a_comparison_of_an_earlier_version_has_a_page(stores, tmp_path):
    (left, right), _ = stores
    path = Path(compare_bases([left, right], out=tmp_path / "c").out) / "bases.json"
    told = json.loads(path.read_text())
    for row in told["table"]:
        del row["multiply_adds"]
    path.write_text(json.dumps(told))
    (path.parent / "SHA256SUMS").unlink()
    assert "against kB of features per image:" in report(path.parent).path.read_text()


def test_a_comparison_of_bases_that_is_damaged_has_no_page(stores, tmp_path):
    (left, right), _ = stores
    path = Path(compare_bases([left, right], out=tmp_path / "c").out) / "bases.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, "take": "right"}))
    with pytest.raises(UnsafeFile, match="must be the file that was written with its run"):
        report(path.parent)
    (path.parent / "SHA256SUMS").unlink()
    for change in ({"table": [{}]}, {"metric": "loss"}, {"stores": 3}, {"rows": []}):
        path.write_text(json.dumps({**whole, **change}))
        with pytest.raises(UnsafeFile, match="compare"):
            report(path.parent)
    assert not (path.parent / "report.html").exists()
