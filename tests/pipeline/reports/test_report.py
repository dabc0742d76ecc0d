"""The report: its numbers are those of the run, and what it cannot show it says."""

import base64
import csv
import io
import json
import re
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import HOSTILE_CLASSES
from PIL import Image
from sklearn.datasets import make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import auc, average_precision_score, roc_auc_score
from sklearn.model_selection import cross_val_predict

from features import FeatureStore, extract
from features.errors import UnsafeFile
from features.images.image_spec import ImageSpec
from features.pooling import pool_maps
from pipeline.cli.commands import main
from pipeline.data.training_data import Features, Part, Sample
from pipeline.heads.registry import find_head
from pipeline.reports import charts, curves
from pipeline.reports.analysis.class_activation import activation_maps
from pipeline.reports.analysis.label_issues import expected_errors, label_errors
from pipeline.reports.analysis.refitted_head import LINEAR
from pipeline.reports.build import gather
from pipeline.reports.page import render
from pipeline.reports.pictures.sprite import ACROSS, make_sprite
from pipeline.reports.run_results import load_run
from pipeline.runs.predictions import load_predictions
from pipeline.training.comparison import compare
from pipeline.training.fit import train_head
from pipeline.training.summary import recommended


@pytest.fixture(autouse=True)
def few_cells(monkeypatch):
    """Show where a head looked on the tiny base, whose map has 3 × 3 cells."""
    monkeypatch.setattr("pipeline.reports.pictures.gallery.FEWEST_CELLS", 3)


def three_classes(rows, seed=0):
    """Return labels and probabilities that know something of them."""
    random = np.random.default_rng(seed)
    y = random.integers(0, 3, rows)
    scores = random.normal(size=(rows, 3)) + 1.2 * np.eye(3)[y]
    return y, np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_areas_of_drawn_curves_are_the_scores(n_classes):
    pairs, areas, precisions = [], [], []
    for seed in (0, 1):
        y, p = three_classes(400, seed)
        if n_classes == 2:
            keep = y < 2
            y, p = y[keep], p[keep][:, :2] / p[keep][:, :2].sum(axis=1, keepdims=True)
        p = np.round(p, 1 + seed)  # ties, as knn has them
        labels = range(1, 2) if n_classes == 2 else range(3)
        areas.append(np.mean([roc_auc_score(y == k, p[:, k]) for k in labels]))
        precisions.append(np.mean([average_precision_score(y == k, p[:, k]) for k in labels]))
        pairs.append((y, p))
    assert auc(*curves.roc(pairs)) == pytest.approx(np.mean(areas), abs=1e-12)
    assert auc(*curves.precision_recall(pairs)) == pytest.approx(np.mean(precisions), abs=1e-12)
    assert auc(*curves.thin(curves.roc(pairs))) == pytest.approx(np.mean(areas), abs=1e-3)
    confidence, accuracy, counts = curves.reliability(pairs)
    assert counts.sum() == sum(len(y) for y, _ in pairs)
    right = sum(np.sum(p.argmax(axis=1) == y) for y, p in pairs)
    assert accuracy @ counts == pytest.approx(right) == np.trace(curves.confusion(pairs))
    assert (np.diff(confidence) > 0).all()


def test_the_curve_of_a_class_is_that_of_its_scores():
    y, p = three_classes(300)
    for label in range(3):
        assert auc(*curves.roc([(y, p)], label)) == pytest.approx(roc_auc_score(y == label, p[:, label]), abs=1e-12)
        area = auc(*curves.precision_recall([(y, p)], label))
        assert area == pytest.approx(average_precision_score(y == label, p[:, label]), abs=1e-12)
    assert curves.roc([(np.minimum(y, 1), p)], 2) is None


def test_the_calibration_error_of_a_class_is_that_of_its_bins():
    y = np.array([0, 0, 1, 1, 1])
    p = np.array([0.91, 0.92, 0.91, 0.31, 0.32])  # of the first class; two bins of fifteen
    whole = [(y, np.column_stack([p, 1 - p]))]
    parts = [(y[:2], whole[0][1][:2]), (y[2:], whole[0][1][2:])]
    # By hand: three rows of mean 0.91333, of which two are of the class; two of mean 0.315, of which none is.
    error = 3 / 5 * abs(2 / 3 - 2.74 / 3) + 2 / 5 * 0.315
    # 1 - p: 0.09, 0.08, 0.09 lie in bin 1 (from 0.0667 on), 0.69 and 0.68 in bin 10.
    for pairs in (whole, parts):
        assert curves.class_calibration(pairs) == pytest.approx([error, error])


@pytest.mark.parametrize("pool", ["avg", "max", "avg+max", "flatten"])
@pytest.mark.parametrize("name", LINEAR)
def test_the_mean_of_an_activation_map_is_the_score(name, pool):
    random = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 20)
    maps = np.maximum(random.normal(size=(60, 3, 3, 5)) + 0.5 * np.eye(5)[y][:, None, None], 0).astype(np.float32)
    X = pool_maps(maps, pool)
    for classes in (y, np.minimum(y, 1)):
        sample = Sample(
            Features(X, (X.shape[1],), 1, (Part("last", pool),)), classes, np.arange(60) % 5 == 0, np.arange(60) % 5
        )
        search = find_head(name).search(sample, find_head(name).grid)
        settings = {key: values[-1] for key, values in find_head(name).grid.items()}
        fitted = search.fit(settings, sample.everything)
        coef, intercept = fitted.coefficients(3)
        scores = activation_maps(maps, coef, pool).mean(axis=(1, 2)) + intercept
        expected = fitted.decision_function(X)
        found = scores[:, 1] if expected.ndim == 1 else scores
        np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_flipped_labels_are_doubted_first():
    X, y = make_blobs(400, 10, centers=3, center_box=(-4, 4), random_state=0)
    wrong = np.array([3, 77, 205])
    given = y.copy()
    given[wrong] = (given[wrong] + 1) % 3
    p = cross_val_predict(LogisticRegression(), X, given, method="predict_proba")
    found = label_errors(given, p)
    assert {each.row for each in found[:3]} == set(wrong.tolist())
    assert all(each.suggested == y[each.row] and each.likelier > each.given for each in found[:3])
    p[77] = np.nan  # nobody has said anything of it
    assert 77 not in {each.row for each in label_errors(given, p)}


def test_rows_are_doubted_by_how_much_likelier_another_class_is_even_if_no_class_is_sure():
    y = np.array([0, 0, 0, 1, 1, 1])
    p = np.array([[0.9, 0.1, 0], [0.3, 0.4, 0.3], [0.2, 0.1, 0.7], [0.5, 0.5, 0], [0.35, 0.25, 0.4], [np.nan] * 3])
    found = label_errors(y, p)
    assert [(each.row, each.suggested) for each in found] == [(2, 2), (4, 2), (1, 1)]  # a tie is no doubt
    assert [(each.given, each.likelier) for each in found] == [(0.2, 0.7), (0.25, 0.4), (0.3, 0.4)]


def test_as_many_errors_are_expected_as_cleanlab_expects():
    """Off the diagonal of ``cleanlab.count.estimate_joint`` (cleanlab 2.9.0, in whole rows), times the number of rows."""
    X, y = make_blobs(300, 3, centers=4, cluster_std=2.5, random_state=1)
    given = y.copy()
    given[::9] = (given[::9] + 1) % 4
    p = cross_val_predict(LogisticRegression(), X, given, method="predict_proba")
    p[5] = np.nan
    assert expected_errors(given, p) == pytest.approx(36, abs=0.6)
    assert expected_errors(y[:0], p[:0]) == 0
    assert expected_errors(np.array([0, 1]), np.array([[1.0, 0, 0], [0, 1, 0]])) == 0  # a class without a row


def test_all_doubted_labels_are_written_beside_the_page(tree, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    paths = sorted((tree / "train").rglob("*.png"))
    for one, other in zip(paths[:3], paths[-3:], strict=True):  # the label is the folder's name
        one.rename(other.with_name(f"swapped-{one.name}"))
    extract("photos", backbone="tiny", out="s.h5", batch_size=8)
    compare("s.h5", ["logistic"], out="c")
    monkeypatch.setattr("pipeline.reports.pictures.gallery.SUSPECTS", 1)  # cards on the page
    assert main(["report", "--run", "c", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["labels"] == "c/report-doubted-labels.csv"
    with open(told["labels"], newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert len(table) > 1 and any(Path(row["path"]).name.startswith("swapped-") for row in table)
    assert all(float(row["p(suggested)"]) > float(row["p(label)"]) for row in table)
    assert {(row["label"], row["suggested"]) for row in table} <= {("red", "blue"), ("blue", "red")}
    page = Path("c/report.html").read_text(encoding="utf-8")
    assert (
        f"{len(table)} have a class that is likelier than their label" in page
        and "the most likely errors first" in page
        and "-doubted-labels.csv" in page
    )
    with monkeypatch.context() as full:  # the page is written, its table is not: one of an earlier page is gone
        full.setattr("pipeline.reports.build.write_suspects", Mock(side_effect=OSError(28, "No space left", "x.csv")))
        assert main(["report", "--run", "c"]) == 1 and not Path(told["labels"]).exists()
    assert main(["report", "--run", "c"]) == 0 and Path(told["labels"]).exists()
    Path("s.h5").unlink()  # without features nobody doubts, and the table of an earlier page would mislead
    assert main(["report", "--run", "c"]) == 0 and not Path(told["labels"]).exists()
    Path(told["labels"]).write_text("my own notes")
    assert main(["report", "--run", "c"]) == 2 and Path(told["labels"]).read_text() == "my own notes"


def test_the_page_is_made_of_the_run(hostile_run, capsys):
    assert main(["report", "--run", str(hostile_run), "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["left_out"] == {} and Path(done["report"]) == hostile_run / "report.html"
    html = (hostile_run / "report.html").read_text(encoding="utf-8")
    assert done["bytes"] == len(html.encode())
    compared = json.loads((hostile_run / "compare.json").read_text(encoding="utf-8"))
    page = gather(load_run(hostile_run))
    for row, head in zip(page["leaderboard"]["rows"], compared["heads"], strict=True):
        assert row["head"] == head["head"] and row["accuracy"] == head["accuracy"]
        assert f"{head['accuracy_interval'][0]:.3f} – {head['accuracy_interval'][1]:.3f}" in html
    (copies,) = page["copies"]["groups"]
    assert {card["path"] for card in copies} >= {"copy.png"} and {card["split"] for card in copies} == {"train", "test"}
    assert page["linear"]["of_run"] and page["linear"]["distance"] < 1e-6
    assert all("copy.png" not in (a["path"], b["path"]) for a, b in (pair["cards"] for pair in page["closest"]["pairs"])
               if {a["path"], b["path"]} == {card["path"] for card in copies})  # fmt: skip
    assert "\x00" not in html and not re.search(r"(src|href)=\"?(https?:)?//", html)
    told = json.loads(re.search(r'id="page-data">(.*?)</script>', html, re.S)[1])
    assert set(told["classes"]) == set(HOSTILE_CLASSES) and len(told["points"]) == 33
    kept = load_predictions(hostile_run)
    for head in told["heads"]:
        ((y, p),) = kept.pairs(head["name"])
        assert head["predicted"] == p.argmax(axis=1).tolist()
        assert [told["label"][image] for image in told["tested"]] == y.tolist()


def test_only_an_earlier_report_is_replaced(hostile_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis.html").write_text("important")
    (tmp_path / "thesis.tex").write_text("important")
    (tmp_path / "folder.html").mkdir()
    for name, message in (
        ("thesis.tex", "out must end in .html"),
        ("thesis.html", "must be an earlier report"),
        ("folder.html", "must be an earlier report"),
    ):
        assert main(["report", "--run", str(hostile_run), "--out", name]) == 2
        told = capsys.readouterr().err
        assert message in told and "--out" in told
    assert {(tmp_path / name).read_text() for name in ("thesis.html", "thesis.tex")} == {"important"}
    for _ in range(2):
        assert main(["report", "--run", str(hostile_run), "--out", "new.html"]) == 0


def test_mistakes_are_those_of_the_kept_probabilities(hostile_run):
    page, kept = gather(load_run(hostile_run)), load_predictions(hostile_run)
    for each in page["details"]:
        ((y, p),) = kept.pairs(each["head"]["head"])
        assert each["mistakes"]["count"] == np.sum(p.argmax(axis=1) != y)
        chances = [card["chance"] for card in each["mistakes"]["cards"]]
        assert chances == sorted(p[p.argmax(axis=1) != y].max(axis=1), reverse=True)[: len(chances)]


def test_repeats_a_trained_head_and_what_cannot_be_shown(tiny_store, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    compare(tiny_store, ["rbf-svm", "majority"], repeats=3, out="runs/three")
    page = gather(load_run(Path("runs/three")))
    assert page["n_splits"] == 3 and not page["linear"]["of_run"] and "groups" in page["attention"]
    assert page["details"][0]["mistakes"]["tested"] > 8  # more than one split's test rows

    train_head(tiny_store, "dense", out="runs/dense")
    assert main(["report", "--run", "runs/dense", "--out", "dense.html"]) == 0
    run = json.loads(Path("runs/dense/run.json").read_text())
    page = gather(load_run(Path("runs/dense")))
    assert page["leaderboard"]["rows"][0]["accuracy"] == run["test"]["accuracy"]
    assert [each["head"] for each in page["histories"]] == ["dense"]
    assert page["attention"]["pool"] == "avg"  # of the logistic regression that is fitted for want of a linear head

    with FeatureStore(tiny_store) as store:
        source = store.provenance["source"]["root"]
    extract(source, backbone="tiny", out="pooled.h5", pool="avg", batch_size=8)
    compare("pooled.h5", ["logistic"], out="runs/pooled")
    assert "pooled over space" in gather(load_run(Path("runs/pooled")))["attention"]["why"]
    Path("pooled.h5").unlink()
    assert main(["report", "--run", "runs/pooled"]) == 0 and "pooled.h5 is not there" in capsys.readouterr().err
    shutil.copy(tiny_store, "pooled.h5")
    assert main(["report", "--run", "runs/pooled"]) == 0 and "has changed since the run" in capsys.readouterr().err
    assert main(["report", "--run", "runs"]) == 2
    Path("runs/three/predictions.npz").unlink()
    assert main(["report", "--run", "runs/three"]) == 2 and "Run the same compare" in capsys.readouterr().err


def test_a_run_of_an_earlier_version_is_read(tiny_store, tmp_path):
    """Its results tell in the texts for people alone which layers and pools the features came from."""
    for head, pool in (("logistic", "avg+max"), ("rbf-svm", None)):
        folder = tmp_path / head
        train_head(tiny_store, head, pool=pool, out=folder)
        today = gather(load_run(folder))
        (folder / "SHA256SUMS").unlink()
        with np.load(folder / "predictions.npz") as file:
            held = {name: file[name] for name in file}
        told = json.loads(str(held.pop("told")))
        assert all(each.pop("parts") for each in told[head])
        np.savez(folder / "predictions.npz", told=json.dumps(told), **held)
        earlier = gather(load_run(folder))
        assert render(earlier) == render(today) and "groups" in earlier["attention"]


def test_many_images_and_classes_are_bounded(hostile_run):
    html = render(gather(load_run(hostile_run), points=10, matrix_classes=1))
    assert "10 of 33 images, drawn at random" in html and html.count("<use href") == len(HOSTILE_CLASSES)
    assert "predicted as" in html and 'class="matrix' not in html


def test_a_changed_or_missing_file_is_not_shown_as_another(tiny_store, tmp_path):
    from pipeline.reports.pictures.thumbnails import Thumbnails

    with FeatureStore(tiny_store) as store:
        rows, root = store.rows, Path(store.provenance["source"]["root"])
    for row in (0, 1):
        (tmp_path / rows.paths[row]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / rows.paths[0], tmp_path / rows.paths[row])
    thumbnails = Thumbnails(tmp_path, rows, ImageSpec(16))
    assert [each is not None for each in thumbnails.pixels([0, 1, 2], 32)] == [True, False, False]
    found = [thumbnails.of(row, 32) for row in (0, 1, 2)]
    assert [bool(each) for each in found] == [True, False, False]
    assert "has changed" in thumbnails.missing[rows.paths[1]] and "cannot be read" in thumbnails.missing[rows.paths[2]]
    assert Image.open(io.BytesIO(base64.b64decode(found[0].split(",")[1]))).size == (32, 32)


def test_maps_of_few_cells_are_left_out(hostile_run, monkeypatch):
    monkeypatch.setattr("pipeline.reports.pictures.gallery.FEWEST_CELLS", 4)
    assert "3 × 3 cells, too few" in gather(load_run(hostile_run))["attention"]["why"]


def test_a_sprite_has_each_image_once_at_its_place():
    images = [np.full((8, 8, 3), shade % 256, np.uint8) if shade % 7 else None for shade in range(1100)]
    made = make_sprite(images, 8)
    usable = [number for number, each in enumerate(images) if each is not None]
    assert [made.places[number] for number in usable] == list(range(len(usable))) and len(made.sheets) == 1
    assert all(made.places[number] == -1 for number in range(0, 1100, 7))
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(made.sheets[0].split(",")[1]))))
    for number in usable[::50]:
        row, column = divmod(made.places[number], ACROSS)
        assert abs(int(sheet[row * 8 + 4, column * 8 + 4, 0]) - images[number][0, 0, 0]) <= 6


def test_the_head_to_take_is_the_simplest_that_is_not_distinguishable():
    def head(name, p_value, seconds, is_best=False):
        return {"head": name, "p_value": p_value, "fit_seconds": seconds, "is_best": is_best}

    vote, knn = head("vote", None, 9.0, True), head("knn", 0.5, 0.1)
    logistic, ridge, mean = head("logistic", 0.4, 3.0), head("ridge", 0.3, 1.0), head("nearest-mean", 0.01, 0.1)
    baseline = head("majority", 0.2, 0.0)
    assert recommended([vote, knn, logistic, ridge, mean, baseline]) is ridge
    assert recommended([vote, knn, mean]) is knn and recommended([vote, mean]) is vote
    assert recommended([head("majority", None, 0.0, True), logistic])["head"] == "majority"
    assert recommended([vote, head("sklearn.naive_bayes.GaussianNB", 0.9, 0.0)]) is vote


def test_the_page_says_what_the_head_to_take_may_cost(tiny_store, tmp_path, monkeypatch):
    run = load_run(Path(compare(tiny_store, ["logistic", "knn"], out=tmp_path / "c").out))
    monkeypatch.setattr("pipeline.reports.build.recommended", lambda heads: heads[1])
    run.heads[1].update(p_value=0.2, behind_interval=[-0.012, 0.034])
    told = "it may cost up to 3.4 points of accuracy (95 %: -1.2 to 3.4)"
    assert f"(Holm, 5&nbsp;%); {told}." in render(gather(run))
    run.heads[1]["behind_interval"] = None  # of earlier versions, on one split
    assert "it may cost" not in render(gather(run))


def test_paths_are_links_where_the_page_lies_with_the_images(tiny_store, tmp_path):
    compare(tiny_store, ["majority"], out=tmp_path / "c")
    run = load_run(tmp_path / "c")
    with FeatureStore(tiny_store) as store:
        root = Path(store.provenance["source"]["root"])
    assert gather(run)["data"]["link"] is None
    assert gather(run, folder=root)["data"]["link"] == "./"
    assert gather(run, folder=root.parent)["data"]["link"] == f"./{root.name}/"


@pytest.mark.parametrize("told", [{}, {"provenance": None}, {"layers": []}, {"layers": [{"accuracy": 1}]}])
def test_a_neighbours_probe_that_is_none_is_one_clear_error(tiny_store, tmp_path, told):
    train_head(tiny_store, "nearest-mean", out=tmp_path / "run")
    made = json.loads((tmp_path / "run/run.json").read_text())["provenance"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/probe.json").write_text(json.dumps({"provenance": made, "metric": "accuracy"} | told))
    with pytest.raises(UnsafeFile, match=r"probe\.json must be what probe writes; .* Run probe again, or delete it\."):
        gather(load_run(tmp_path / "run"))


@pytest.mark.parametrize(("low", "digits"), [(0.5, 1), (0.86, 3)])
def test_the_title_of_the_upright_axis_has_its_own_space_beside_the_ticks(low, digits):
    box = charts.frame((1, 10), (low, low + 0.11 if digits == 3 else 1), ("seconds", "test accuracy"), log=True)
    texts = [text for _, text in box.y.ticks]
    assert {len(text) for text in texts} == {digits + 2}
    assert box.x.start - 7 - 6.1 * (digits + 2) >= 15  # where the title's letters end, as charts.html places it
    assert box.x.end == charts.WIDTH - charts.RIGHT
