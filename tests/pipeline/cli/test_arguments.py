"""What a user types, in the forms that people try, and the errors that name what was meant."""

import csv
import json
import shutil

import h5py
import numpy as np
import pytest
from conftest import draw

import pipeline
from features import FeatureStore, RequestError
from pipeline.cli.arguments.parser import make_parser, read_arguments
from pipeline.cli.commands import main
from pipeline.cli.head_commands import stores_of
from pipeline.heads.registry import HEADS, find_head
from pipeline.options import HEAD_NAMES


def table(path):
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read(*words):
    given = read_arguments(list(words), "cached-features")
    return {name: value for name, value in given.items() if value not in (None, False, [])}


@pytest.mark.parametrize(
    ("words", "subject"),
    [
        (["extract", "photos", "--out", "s.h5"], {"data": "photos"}),
        (["extract", "--out", "s.h5", "photos"], {"data": "photos"}),
        (["compare", "s.h5", "--repeats", "3"], {"store": "s.h5"}),
        (["extract", "--add", "a, 1.csv", "p", "--add", "b.csv"], {"data": "p", "add": ["a, 1.csv", "b.csv"]}),
        (["train-head", "s.h5"], {"store": "s.h5"}),
        (["audit", "s.h5", "--run", "runs/c"], {"store": "s.h5", "run": "runs/c"}),
        (["report", "runs/c"], {"run": ["runs/c"]}),
        (["export", "runs/r", "--out", "m.keras"], {"run": "runs/r"}),
        (["predict", "runs/r", "new", "more"], {"run": "runs/r", "images": ["new", "more"]}),
        (["predict", "--run", "runs/r", "new"], {"run": "runs/r", "images": ["new"]}),
        (["predict", "runs/r", "--watch", "new"], {"run": "runs/r", "watch": "new"}),
    ],
)
def test_what_a_command_is_about_may_come_first_without_its_flag(words, subject):
    given = read(*words)
    assert {name: given[name] for name in subject} == subject


def test_a_subject_is_given_once():
    with pytest.raises(
        RequestError, match=r"compare must be given a store; got none\. For example: cached-features compare"
    ):
        read("compare", "--repeats", "3")
    with pytest.raises(RequestError, match=r"must be given one store, a\.h5, and else flags; got b\.h5, too"):
        read("train-head", "a.h5", "b.h5")
    with pytest.raises(RequestError, match=r"compare has no option --sede\. Did you mean --seed"):
        read("compare", "--sede", "3")


def test_a_subject_that_a_list_has_swallowed_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.h5").touch()
    with pytest.raises(
        RequestError,
        match=r"got none\. For example: s\.h5 was read as one of --heads; put it first: cached-features compare s\.h5",
    ):
        read("compare", "--heads", "logistic,knn", "s.h5")


def test_several_stores_are_named_by_blanks_or_commas(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (
        ["a.h5", "b.h5"],
        ["--store", "a.h5", "b.h5"],
        ["a.h5,b.h5"],
        ["--store", "a.h5,b.h5"],
        ["a.h5,", "b.h5"],
        ["--store", "a.h5", "--store", "b.h5"],
    ):
        assert stores_of(read("compare", *words, "--heads", "knn")["store"]) == ["a.h5", "b.h5"]
    (tmp_path / "cats, dogs.h5").touch()
    assert stores_of(read("compare", "cats, dogs.h5")["store"]) == ["cats, dogs.h5"]


@pytest.mark.parametrize("flag", ["--quiet", "--verbose", "--json"])
def test_flags_of_all_commands_may_come_before_the_command(flag):
    assert read(flag, "compare", "s.h5") == read("compare", "s.h5", flag)
    assert read(flag, "predict", "predict", "new")["run"] == "predict"  # a folder may have a command's name


@pytest.mark.parametrize("words", [["logistic,knn"], ["logistic", "knn"], ["logistic,", "knn"], ["logistic knn"]])
def test_lists_are_separated_by_commas_or_blanks(words):
    assert read("compare", "--store", "s.h5", "--heads", *words)["heads"] == ("logistic", "knn")
    assert read("compare", "--store", "s.h5", "--exclude", *words)["exclude"] == ("logistic", "knn")
    assert read("extract", "photos", "--layers", *words)["layers"] == ("logistic", "knn")
    assert read("train-head", "s.h5", "--layer", *words)["layer"] == ("logistic", "knn")


def test_the_help_names_all_heads(capsys):
    assert tuple(HEADS) == HEAD_NAMES
    with pytest.raises(SystemExit):
        make_parser().parse_args(["compare", "--help"])
    told = capsys.readouterr().out
    assert all(name in told for name in ("logistic", "majority"))


def test_a_comparison_sorts_leaves_out_and_shows_details(tiny_store, tmp_path, capsys):
    asked = [
        "compare",
        str(tiny_store),
        "--heads",
        "majority,logistic,knn",
        "--exclude",
        "knn",
        "--out",
        str(tmp_path / "c"),
    ]
    assert main([*asked, "--sort", "head", "--details"]) == 0
    out = capsys.readouterr().out
    rows = [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("| ")]
    assert rows == ["head", "logistic", "majority"]
    assert "test images by true class (rows) and predicted class" in out
    blue = next(line for line in out.splitlines() if line.startswith("blue")).split()
    predictions = table(tmp_path / "c/predictions.csv")
    of_best = [row for row in predictions if row["head"] == "logistic" and row["label"] == "blue"]
    assert int(blue[1]) == sum(row["predicted"] == "blue" for row in of_best) and len(of_best) == 4
    assert main(["compare", str(tiny_store), "--sort", "speed"]) == 2
    assert "--sort must be one of accuracy" in capsys.readouterr().err
    assert main(["compare", str(tiny_store), "--heads", "knn", "--exclude", "knn"]) == 2
    assert "--exclude must leave a head" in capsys.readouterr().err


def test_predictions_of_a_comparison_give_its_accuracies(tiny_store, tmp_path):
    found = pipeline.compare(tiny_store, ["logistic", "knn"], repeats=3, out=tmp_path / "c")
    rows = table(tmp_path / "c/predictions.csv")
    with FeatureStore(tiny_store) as store:
        assert {row["path"] for row in rows} <= set(store.rows.paths)
    assert {row["head"] for row in rows} == {head["head"] for head in found.heads}
    for row in rows:
        chances = {name[2:-1]: float(value) for name, value in row.items() if name.startswith("p(")}
        assert row["predicted"] == max(chances, key=chances.get) and np.isclose(sum(chances.values()), 1, atol=1e-5)
        assert 1 <= int(row["tested_in_splits"]) <= 3


def test_details_of_a_trained_head(tiny_store, tmp_path, capsys):
    assert main(["train-head", str(tiny_store), "--head", "majority", "--details", "--out", str(tmp_path / "r")]) == 0
    out = capsys.readouterr().out
    assert "figures of each class on test images" in out and "0.500 [" in out


def test_the_page_is_opened_when_asked_for(tiny_store, tmp_path, capsys, monkeypatch):
    pipeline.compare(tiny_store, "majority", out=tmp_path / "c")
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or False)
    assert main(["report", str(tmp_path / "c"), "--open"]) == 0
    assert opened == [(tmp_path / "c/report.html").as_uri()]
    assert "no browser could be started" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["images", "run", "model", "stores", "s.h5.parts", "other HDF5"])
def test_what_is_no_store_is_said_to_be_so(tiny_store, tmp_path, what, capsys):
    given = tmp_path / ("s.h5.parts" if what == "s.h5.parts" else "given")
    if what == "images":
        draw(given / "a/0.png", 0)
    elif what == "stores":
        for name in ("a.h5", "b.h5"):
            (given / name).parent.mkdir(exist_ok=True)
            shutil.copy(tiny_store, given / name)
    elif what == "s.h5.parts":
        given.mkdir()
    elif what == "other HDF5":
        h5py.File(given, "w").close()
    elif what == "run":
        pipeline.compare(tiny_store, "majority", out=given)
    else:
        given.write_bytes(b"PK\x03\x04 not HDF5")
    capsys.readouterr()
    assert main(["compare", str(given)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    expected = {
        "images": "which is a folder. Of images, make a store first",
        "run": f"a folder of results. They were made of --store {tiny_store}",
        "model": "no HDF5",
        "stores": f"a folder that holds stores. Name one of these: {given}/a.h5, {given}/b.h5",
        "s.h5.parts": f"the folder of a store's parts. Name the store: {tmp_path}/s.h5",
        "other HDF5": "is an HDF5 file, but not a feature store",
    }
    assert what == "other HDF5" or "--store must be a feature store" in line
    assert expected[what] in line and "errno" not in line


def test_a_comparison_given_to_predict_names_the_command_that_trains_the_head_to_take(tiny_store, tmp_path, capsys):
    found = pipeline.compare(tiny_store, "knn,nearest-mean", out=tmp_path / "c")
    assert found.take == found.recommended["head"] == "nearest-mean" and found.best["head"] == "knn"
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "c"), "new"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is a comparison, which keeps none. Train the one to take:" in line
    assert "train-head --store" in line and "--head nearest-mean" in line
    assert main(["predict", str(tmp_path), "new"]) == 2
    assert "holds no trained head." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report", "s.h5"], "s.h5 holds neither. Make one: cached-features compare --store s.h5"),
        (["predict", "s.h5", "new"], "Make one: cached-features train-head --store s.h5"),
        (["serve", "s.h5"], "Make one: cached-features train-head --store s.h5"),
        (["report", "runs"], "runs holds neither. In it are runs/knn."),
        (["predict", "runs", "new"], "runs holds no trained head. In it are runs/knn."),
        (["predict", "runs/knn", "new/list.csv"], "tail -n +2 | cached-features predict --run runs/knn -"),
        (["report", "runs/knm"], "runs/knm is not there. Did you mean runs/knn?"),
        (["predict", "runs/knm", "new"], "Did you mean runs/knn?"),
        (["predict", "runs/knn", "nwe"], "got nwe. Did you mean new?"),
        (["extract", "nwe", "--backbone", "tiny"], "which does not exist. Did you mean new?"),
        (["compare", "t.h5"], "t.h5 is not there. Did you mean s.h5?"),
        (["compare", "other.h5"], "is not there. Create it: cached-features extract --out other.h5 --data SOURCE"),
    ],
)
def test_the_remedy_for_a_wrong_path_names_what_is_there(words, message, tiny_store, tmp_path, monkeypatch, capsys):
    if words[0] == "serve":
        pytest.importorskip("starlette", reason="the extra serve is not installed")
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny_store, "s.h5")
    (tmp_path / "new").mkdir()
    (tmp_path / "new/list.csv").touch()
    pipeline.train_head("s.h5", "knn", out="runs/knn")
    capsys.readouterr()
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_layer_that_is_not_stored_is_told_from_a_misspelt_one(tiny_store):
    with pytest.raises(
        RequestError, match=r"one of those stored: last; got 'lasst'\. Did you mean 'last'\? If it is another"
    ):
        pipeline.train_head(tiny_store, layer="lasst")
    with pytest.raises(
        RequestError, match=r"got 'conv'\. If it is another layer of tiny .*it was not extracted: features\.extract"
    ):
        pipeline.train_head(tiny_store, layer="conv")


def test_scikit_learns_own_names_are_told_with_their_dots():
    with pytest.raises(RequestError, match=r"scikit-learn's has the name sklearn\.naive_bayes\.GaussianNB"):
        find_head("GaussianNB")
    with pytest.raises(RequestError, match=r"sklearn\.ensemble\.RandomForestClassifier"):
        find_head("random-forest-classifier")


def test_all_heads_are_named_in_one_word(tiny_store, tmp_path):
    others = [name for name in HEADS if name not in ("majority", "knn")]
    found = pipeline.compare(tiny_store, "all", exclude=others, out=tmp_path / "c")
    assert {head["head"] for head in found.heads} == {"majority", "knn"}


def test_exclude_is_part_of_the_request_in_python(tiny_store, tmp_path):
    found = pipeline.compare(tiny_store, ["majority", "knn"], exclude="knn", out=tmp_path / "c")
    assert [head["head"] for head in found.heads] == ["majority"]
    assert json.loads((tmp_path / "c/compare.json").read_text())["heads"][0]["head"] == "majority"
    with pytest.raises(RequestError, match=r"exclude must be one of knn, majority; got 'knm'\. Did you mean 'knn'"):
        pipeline.compare(tiny_store, ["majority", "knn"], exclude="knm")
