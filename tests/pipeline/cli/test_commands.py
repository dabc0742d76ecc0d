"""The commands, as a user types them."""

import csv
import html
import json
import logging
import re
import shlex
import subprocess
import sys
import typing

import numpy as np
import pytest
from conftest import ROOT, draw_tree

import features
import pipeline
from features import FeatureStore, RequestError
from features.options import ExtractOptions, PlanOptions, flags_of
from pipeline.cli import commands
from pipeline.cli.arguments.parser import make_parser
from pipeline.cli.commands import main


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_extract_train_compare_inspect(tree, here, capsys):
    assert main(["extract", "--data", "photos", "--backbone", "tiny", "--json"]) == 0
    result = capsys.readouterr()
    assert json.loads(result.out)["store"] == "cache/photos-tiny.h5" and json.loads(result.out)["rows"] == 32
    for line in (
        "train    16: blue 8, red 8",
        "weights  imagenet from Keras' download",
        "next     cached-features compare",
    ):
        assert line in result.err

    store = ["--store", "cache/photos-tiny.h5"]
    assert main(["train-head", *store, "--head", "dense", "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert trained["head"] == "dense" and set(trained["val"]) == set(trained["test"]) >= {
        "accuracy",
        "macro_f1",
        "roc_auc",
    }
    low, high = trained["intervals"]["accuracy"]
    assert 0 <= low <= trained["test"]["accuracy"] <= high <= 1
    assert sorted(path.name for path in (here / "runs/photos-tiny-dense").iterdir()) == [
        "SHA256SUMS", "head.json", "head.npz", "history.csv", "history.png", "novelty.npz", "predictions.csv", "predictions.npz", "run.json",
    ]  # fmt: skip

    assert main(["compare", *store, "--heads", "logistic,majority", "--repeats", "3", "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)["heads"]
    assert [head["head"] for head in compared] == ["logistic", "majority"]
    assert compared[0]["accuracy"] > compared[1]["accuracy"] == 0.5
    assert {"accuracy_interval", "macro_f1", "roc_auc", "fit_seconds", "predict_seconds"} <= set(compared[0])
    assert sorted(path.suffix or path.name for path in (here / "runs/photos-tiny-compare").iterdir()) == [
        ".csv",
        ".csv",
        ".json",
        ".md",
        ".npz",
        ".png",
        "SHA256SUMS",
    ]

    assert main(["inspect", "cache/photos-tiny.h5"]) == 0
    assert "layer    last: 3x3x6 float16" in capsys.readouterr().out


def test_inspect_names_the_first_skipped_files_and_all_as_json(tree, here, capsys):
    for number in range(7):
        (tree / f"train/red/broken{number}.png").write_bytes(b"no image %d" % number)
    assert main(["extract", "photos", "--backbone", "tiny", "--out", "s.h5", "--max-skipped", "0.5"]) == 0
    capsys.readouterr()
    assert main(["inspect", "s.h5"]) == 0
    told = capsys.readouterr().out
    assert told.count("train/red/broken") == 5 and "         train/red/broken0.png: " in told
    assert "and 2 more: cached-features inspect s.h5 --json" in told
    assert main(["inspect", "s.h5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["skipped"] == 7 and told["skipped_files"][6]["path"] == "train/red/broken6.png"
    assert told["skipped_files"][6]["reason"]


def test_predictions_of_test_rows_agree_with_the_metrics(tiny_store, here):
    run = pipeline.train_head(tiny_store, "logistic", out="run")
    with open("run/predictions.csv", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    with FeatureStore(tiny_store) as store:
        assert [row["path"] for row in table] == list(store.rows.paths)
    hits = [row["label"] == row["predicted"] for row in table if row["split"] == "test"]
    assert np.mean(hits) == run.test["accuracy"]
    folds = "a head fitted to the other folds, whose settings this row helped to choose"
    assert {(row["split"], row["predicted_by"]) for row in table} == {
        ("train", folds),
        ("val", folds),
        ("test", "the head of the run, which never saw this row"),
    }


def test_a_run_is_not_overwritten_unless_asked(tiny_store, here):
    for expected in ("runs/tiny-majority", "runs/tiny-majority-2"):
        assert pipeline.train_head(tiny_store, "majority").out == expected
    assert main(["train-head", "--store", str(tiny_store), "--head", "majority", "--out", "runs/tiny-majority"]) == 2
    assert main(["train-head", "--store", str(tiny_store), "--out", "runs/tiny-majority", "--overwrite"]) == 0
    assert json.loads((here / "runs/tiny-majority/run.json").read_text())["head"] == "logistic"
    (here / "mine").mkdir()
    (here / "mine/thesis.txt").write_text("important")
    for out in ("mine", "mine/thesis.txt"):
        assert main(["compare", "--store", str(tiny_store), "--heads", "majority", "--out", out, "--overwrite"]) == 2
    assert (here / "mine/thesis.txt").read_text() == "important"
    assert not (here / ".fits").exists()  # refused before heads are fitted


def test_repeats_draw_other_splits_of_the_same_sizes(tiny_store, here):
    from pipeline.training.splitting import draw_splits

    with FeatureStore(tiny_store) as store:
        drawn = draw_splits(store.rows, 3, seed=0)
        assert all((np.bincount(split) == np.bincount(store.rows.splits)).all() for split in drawn)
        assert len({(split == 2).tobytes() for split in drawn}) == 3  # the test rows differ, and not val alone


@pytest.mark.parametrize("repeats", ["1", "3"])
def test_a_head_that_cannot_be_fitted_is_a_row_of_the_comparison(tiny_store, here, capsys, repeats):
    asked = ["compare", "--store", str(tiny_store), "--repeats", repeats, "--set", "n_neighbors=500"]
    assert main([*asked, "--heads", "knn,majority", "--out", "c"]) == 0
    told = capsys.readouterr()
    (line,) = [line for line in told.err.splitlines() if line.startswith("warning")]
    assert "knn was not fitted: it cannot be fitted to these images: Expected n_neighbors" in line
    rows = told.out.splitlines()
    assert rows[2].startswith("| majority |") and rows[3].startswith("| knn | not fitted: it cannot be fitted")
    assert rows[2].count("|") == rows[3].count("|")
    written = json.loads((here / "c/compare.json").read_text())
    assert [head["head"] for head in written["heads"]] == ["majority"] and list(written["not_fitted"]) == ["knn"]
    with open(here / "c/compare.csv", encoding="utf-8") as file:
        first, last = csv.DictReader(file)
    assert (first["head"], first["not_fitted"]) == ("majority", "") and last["head"] == "knn"
    assert last["not_fitted"] == written["not_fitted"]["knn"] and last["accuracy"] == ""
    assert main(["report", "--run", "c"]) == 0
    assert "<b>knn</b> was not fitted: it cannot be" in (here / "c/report.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main([*asked, "--heads", "knn", "--out", "none"]) == 2
    assert "error    knn: it cannot be fitted to these images" in capsys.readouterr().err
    assert not (here / "none").exists()


def test_two_repeats_are_shown_without_intervals_and_tests(tiny_store, here, capsys):
    asked = ["--store", str(tiny_store), "--repeats", "2"]
    assert main(["compare", *asked, "--heads", "logistic,ridge", "--out", "c"]) == 0
    told = capsys.readouterr()
    assert "warning  --repeats must be 1 or at least 3" in told.err and "--repeats 3" in told.err
    assert told.out.count("(needs 3 repeats)") == 3 and "[" not in told.out.splitlines()[2]
    heads = json.loads((here / "c/compare.json").read_text())["heads"]
    assert [head["is_best"] for head in heads] == [True, False]
    assert {head["accuracy_interval"] for head in heads} == {head["p_value"] for head in heads} == {None}
    with open(here / "c/compare.csv", encoding="utf-8") as file:
        assert [row["accuracy_low"] for row in csv.DictReader(file)] == ["", ""]
    assert main(["probe", *asked, "--out", "p"]) == 0 and "(needs 3 repeats)" in capsys.readouterr().out
    assert main(["report", "--run", "c"]) == 0
    page = (here / "c/report.html").read_text(encoding="utf-8")
    assert page.count("needs 3 repeats") == 4 and "not distinguishable</span>" not in page
    assert pipeline.plot("c").axes[0].get_xlabel() == "test accuracy"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["extract", "--data", "none"], 2, "data must be a folder"),
        (["extract", "--data", "photos", "--backbone", "vgg"], 2, "Did you mean 'vgg16' or 'vgg19'?"),
        (["compare", "--store", "none.h5"], 2, "none.h5 is not there"),
        (["compare", "none.h5,other.h5"], 2, "none.h5 is not there"),
        (["verify", "none.h5"], 2, "none.h5 is not there"),
        (["report", "runs/none"], 2, "runs/none is not there"),
        (["predict", "runs/none", "photos"], 2, "runs/none is not there"),
        (["extract", "none.csv"], 2, "which does not exist"),
        (["extract", "photos", "--add", "none.csv"], 2, "got none.csv"),
        (["extract", "photos", "--corrections", "none.csv"], 2, "must be a CSV file that is there; got none.csv"),
        (["extract", "photos", "--weights", "none.h5"], 2, "--weights must be a file; got none.h5"),
        (["extract", "photos", "--backbone", "none.onnx"], 2, "backbone none.onnx is not there"),
        (["extract", "photos", "--backbone", "none.keras"], 2, "backbone none.keras is not there"),
        (["compare", "--store", "none.h5", "--heads", "svm"], 2, "head must be one of"),
        (["inspect", "none.h5"], 2, "none.h5 is not there"),
        (["extract", "--data", "photos", "--backbone", "resnet"], 2, "'resnet101' or 'resnet50' or 'resnet50_v2'?"),
        (["exract", "--data", "photos"], 2, "command must be one of audit, budget, compare, "),
        (["exract", "--data", "photos"], 2, "; got 'exract'. Did you mean 'extract'?"),
        (["compare", "--store", "s.h5", "--backbone", "x"], 2, "no option --backbone. It belongs to extract."),
        (["train-head", "--store", "s.h5", "--heads", "x"], 2, "It belongs to compare, budget. Did you mean --head?"),
        (["compare", "--store", "s.h5", "--sede=1"], 2, "compare has no option --sede. Did you mean --seed?"),
        (["compare", "--store", "s.h5", "--quite"], 2, "compare has no option --quite. Did you mean --quiet?"),
        (["compare", "s.h5", "--met", "accuracy"], 2, "compare has no option --met. Did you mean --metric?"),
        (["compare", "s.h5", "--se", "1"], 2, "compare has no option --se. Did you mean --seed or --select or --set?"),
        (["compare", "s.h5", "-q"], 2, "compare has no option -q. Did you mean --quiet?"),
        (["next", "runs/r", "photos", "--count", "20"], 2, "next has no option --count. Did you mean -n?"),
        (["next", "runs/r", "photos", "--n", "20"], 2, "next has no option --n. Did you mean -n?"),
        (["next", "runs/r", "photos", "-k", "20"], 2, "next has no option -k. It has --run, -n, --replay"),
        (["extract", "--data", "photos", "--workers", "0"], 2, "--workers must be at least 1; got 0."),
        (["compare", "--store", "s.h5", "--seed", "-1"], 2, "--seed must be between 0 and 4294967295; got -1."),
        (["lecture", "--data", "photos", "--seed", "-1"], 2, "--seed must be between 0 and 4294967295; got -1."),
        (["verify", "s.h5", "--seed", "-1"], 2, "--seed must be at least 0; got -1."),
        (["layers", "tiny", "--image-size", "0"], 2, "--image-size must be at least 8 for tiny; got 0."),
        (
            ["layers", "tiny", "--image-size", "big"],
            2,
            "--image-size must be a whole number; got 'big'. See cached-features layers --help",
        ),
        (["extract", "photos", "--max-skipped", "few"], 2, "--max-skipped must be a number; got 'few'."),
        (["compare", "s.h5", "--metric", "accurracy"], 2, "--metric must be one of accuracy, "),
        (["compare", "s.h5", "--metric", "accurracy"], 2, "; got 'accurracy'. Did you mean 'accuracy'?"),
        (["compare", "s.h5", "--metric"], 2, "--metric: expected one argument. See cached-features compare --help"),
        (["compare", "s.h5", "--quiet", "--verbose"], 2, "--verbose: not allowed with argument --quiet. See"),
        (["compare", "s.h5", "--repeats", "0"], 2, "--repeats must be at least 1; got 0."),
        (["export", "runs/r"], 2, "runs/r is not there."),
        (
            ["predict", "photos"],
            2,
            "images must be named after the run; got photos alone. Put a run before it: cached-features",
        ),
        (
            ["predict", "runs/r"],
            2,
            "images must be named; got none. For example: cached-features predict --run runs/r photos/",
        ),
        (
            ["next", "runs/r"],
            2,
            "images must be named; got none. For example: cached-features next --run runs/r photos/",
        ),
        (["next", "runs/r", "photos", "-n", "0"], 2, "-n must be at least 1; got 0. Leave it out for 50."),
        (
            ["probe", "--store", "s.h5", "--set", "zzz=1"],
            2,
            "setting of logistic must be one of C, class_weight, scale; got 'zzz'",
        ),
        (["compare", "--store", "s.h5", "--heads", "logistic", "--set", "C=nan"], 2, "C must be a number above 0"),
        (["compare", "--store", "s.h5", "--heads", "logistic", "--set", "C=True"], 2, "C must be a number above 0"),
    ],
)
def test_errors_are_one_line_and_an_exit_status(tree, here, capsys, arguments, status, message):
    assert main(arguments) == status
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error    ") and message in lines[0]


def test_results_below_a_file_are_a_wrong_request(tiny_store, here, capsys):
    (here / "notes.txt").touch()
    assert main(["train-head", str(tiny_store), "--head", "majority", "--out", "notes.txt/run"]) == 2
    assert "notes.txt: File exists. Check the path and its permissions." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "resumes"),
    [
        (["lecture", "--data", "photos"], True),
        (["compare", "--store", "s.h5"], True),
        (["next", "--run", "r", "photos"], True),
        (["next", "--run", "r", "--replay"], False),
        (["predict", "--run", "r", "photos"], False),
        (["predict", "--run", "r", "photos", "--out", "p.csv"], True),
        (["train-head", "--store", "s.h5"], False),
    ],
)
def test_an_interrupted_command_says_whether_it_resumes(capsys, monkeypatch, arguments, resumes):
    def interrupted(**options):
        raise KeyboardInterrupt

    monkeypatch.setitem(commands._COMMANDS, arguments[0], interrupted)
    assert main(arguments) == 130
    assert ("resumes from there" if resumes else "Nothing of it is kept") in capsys.readouterr().err


def test_probe_says_which_layer_to_take(tree, here, capsys):
    assert (
        main(["extract", "--data", "photos", "--backbone", "tiny", "--layers", "conv,relu,last", "--out", "s.h5"]) == 0
    )
    capsys.readouterr()
    assert main(["probe", "--store", "s.h5", "--repeats", "0"]) == 2
    assert "repeats must be at least 1" in capsys.readouterr().err
    assert main(["probe", "--store", "s.h5", "--repeats", "3", "--json", "--out", "p"]) == 0
    probed = json.loads(capsys.readouterr().out)
    accuracies = {layer["layer"]: layer["accuracy"] for layer in probed["layers"]}
    assert len(accuracies) == 4 and accuracies[probed["take"]] == max(
        accuracies[name] for name in ("conv", "relu", "last")
    )
    assert "Take " in (here / "p/probe.md").read_text() and (here / "p/probe.png").exists()


def test_a_setting_is_given_once(here, capsys):
    assert main(["compare", "--store", "s.h5", "--set", "C=1", "--set", "gamma=1", "--set", "C=2"]) == 2
    assert "--set C must be given once; got it twice. Give its values together: --set C=V,V" in capsys.readouterr().err


def test_no_views_are_refused_where_the_fit_with_all_is_kept(tiny_store, here, capsys):
    compare = ["compare", "--store", str(tiny_store), "--heads", "majority"]
    assert main(compare) == 0
    assert main([*compare, "--views", "0"]) == 2
    assert "--views must be at least 1; got 0" in capsys.readouterr().err


def told_next(capsys):
    """Return the last command that was told to be next, as the command line reads it: what was given alone."""
    said = [line.split("cached-features ")[1] for line in capsys.readouterr().err.splitlines() if "next  " in line]
    given = vars(make_parser().parse_args(shlex.split(said[-1])))
    return {name: value for name, value in given.items() if value not in (None, False) and name != "level"}


def test_the_command_after_a_plan_has_all_that_was_given(tree, here, capsys):
    tree.rename("my photos")
    options = {"data": "my photos", "backbone": "tiny", "layers": ("-2", "relu"), "out": "my store.h5", "seed": -1,
               "limit": 30, "retry_skipped": True, "max_skipped": 0.5, "dtype": "float32"}  # fmt: skip
    given = ["--data", "my photos", "--backbone", "tiny", "--layers=-2,relu", "--out", "my store.h5", "--seed=-1",
             "--limit", "30", "--retry-skipped", "--max-skipped", "0.5", "--dtype", "float32"]  # fmt: skip
    assert main(["extract", *given, "--plan-only", "--images", "1000", "--rate", "5"]) == 0
    assert told_next(capsys) == {"command": "extract", **options}


def test_the_next_command_keeps_what_it_takes_too(tree, here, capsys):
    assert main(["extract", "--data", "photos", "--backbone", "tiny", "--layers", "relu,last", "--out", "a b.h5"]) == 0
    assert told_next(capsys) == {"command": "compare", "store": "a b.h5"}
    given = ["--store", "a b.h5", "--seed", "3", "--select", "val", "--set", "C=1,10"]
    assert main(["probe", *given, "--repeats", "2", "--pool", "avg", "--out", "p"]) == 0
    kept = {"store": "a b.h5", "seed": 3, "select": "val", "settings": {"C": (1, 10)}}
    after = told_next(capsys)
    assert after.pop("layer") in (("relu",), ("last",))
    assert after == {"command": "compare", **kept, "repeats": 2, "pool": "avg"}
    assert main(["compare", *given, "--heads", "logistic,knn", "--set", "n_neighbors=3", "--layer", "last"]) == 0
    after = told_next(capsys)
    best = after.pop("head")
    kept["settings"] = {"C": (1, 10)} if best == "logistic" else {"n_neighbors": (3,)}
    assert after == {"command": "train-head", **kept, "layer": ("last",)}


def commands_on(page):
    """Return the commands that a page tells to type first, and all that it names."""
    text = page.read_text(encoding="utf-8").replace("<span>", "").replace("</span>", "")
    (first,) = re.findall(r"<pre>(.*?)</pre>", text, re.S)
    commands = re.findall('<code class="command">(.*?)</code>', first)
    return [html.unescape(line) for line in commands], html.unescape(text)


def test_the_page_carries_the_commands_that_the_terminal_tells(tiny_store, here, capsys):
    asked = [
        "--heads",
        "logistic,knn",
        "--metric",
        "roc_auc",
        "--set",
        "C=1,10",
        "--set",
        "n_neighbors=1,3",
        "--seed",
        "3",
    ]
    assert main(["compare", str(tiny_store), *asked, "--out", "my runs/c"]) == 0
    line = next(each for each in capsys.readouterr().err.splitlines() if each.startswith("next  "))
    train = line.removeprefix("next").strip()
    assert main(["report", "my runs/c"]) == 0
    (first, then), page = commands_on(here / "my runs/c/report.html")
    assert first == train and "--metric roc_auc" in train and "--seed 3" in train
    assert f"{train} --corrections corrections.csv</code>" in page
    few = "--heads logistic,knn --seed 3 --metric roc_auc --set C=1,10 --set n_neighbors=1,3 --repeats 5</code>"
    assert f"cached-features compare --store {tiny_store} {few}" in page
    capsys.readouterr()
    assert main(shlex.split(first)[1:]) == 0  # what is told can be typed
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == f"next     {then}"
    run = shlex.split(then)[3]
    assert main(["report", run]) == 0
    (again,), page = commands_on(here / run / "report.html")
    assert again == then and f"{train} --corrections corrections.csv</code>" in page


def test_the_page_tells_how_to_split_a_store_whose_groups_are_broken(here, capsys):
    draw_tree(here / "photos", {"x": 30}, splits=False)
    asked = ["extract", "photos", "--backbone", "tiny", "--out", "s.h5", "--column", r"of=([0-9])\.png"]
    assert main(asked) == 0
    assert main(["compare", "s.h5", "--heads", "nearest-mean", "--repeats", "3", "--group", "of", "--out", "c"]) == 0
    told = [line[9:] for line in capsys.readouterr().err.splitlines() if line[9:].startswith("cached-features")]
    assert main(["report", "c"]) == 0
    lines, _ = commands_on(here / "c/report.html")
    assert lines[:2] == told[-3:-1] and "--group of" in lines[0] and "--column" in lines[0]
    for line in lines[:2]:
        assert main(shlex.split(line)[1:]) == 0


def test_results_of_an_earlier_version_tell_the_commands_that_they_can(tiny_store, here):
    pipeline.compare(tiny_store, "knn,majority", metric="log_loss", out="c")
    told = json.loads((here / "c/compare.json").read_text())
    del told["asked"]
    (here / "c/compare.json").write_text(json.dumps(told))
    (here / "c/SHA256SUMS").unlink()
    assert main(["report", "c"]) == 0
    (first, _), _ = commands_on(here / "c/report.html")
    assert first == f"cached-features train-head --store {tiny_store} --head {told['take']} --metric log_loss"


def test_layers_are_listed(capsys):
    assert main(["layers", "tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"]["last"] == [3, 3, 6]


def test_several_layers_and_views_train_a_head(tree, here, capsys):
    options = ["--data", "photos", "--backbone", "tiny", "--layers", "relu,last", "--views", "2", "--augment", "hflip"]
    assert main(["extract", *options, "--out", "s.h5"]) == 0
    run = pipeline.train_head("s.h5", "logistic", layer="relu,last", out="r")
    assert run.layer == "relu+last" and run.views == 2
    with open("r/predictions.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 32
    assert pipeline.train_head("s.h5", "logistic", views=1, out="r1").views == 1
    assert main(["train-head", "--store", "s.h5", "--views", "3"]) == 2
    for views in ("1", "2"):  # neither is taken for the other by a comparison
        assert main(["compare", "--store", "s.h5", "--heads", "logistic", "--views", views]) == 0
        assert "from earlier runs" not in capsys.readouterr().err
    assert main(["compare", "--store", "s.h5", "--heads", "logistic", "--views", "2"]) == 0
    assert "from earlier runs" in capsys.readouterr().err


def test_average_and_maximum_are_scaled_each_by_itself(tiny_store):
    from pipeline.training.loading import read_features
    from pipeline.training.request import Request

    with FeatureStore(tiny_store) as store:
        channels = store.dataset("last").shape[-1]
        assert read_features(store, "logistic", Request(tiny_store, pool="avg+max")).widths == (channels, channels)
        assert read_features(store, "logistic", Request(tiny_store, pool="flatten")).widths == (
            store.read("last", "flatten").shape[1],
        )


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from pipeline.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([name for name in ('numpy', 'h5py', 'sklearn', 'tensorflow') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr.strip() == "[]" and "extract" in done.stdout


def test_functions_stay_functions_once_their_modules_are_imported():
    code = (
        "import pipeline, pipeline.reports.build, pipeline.deploy.predictor, pipeline.deploy.exporting\n"
        "print([name for name in pipeline.__all__ if getattr(pipeline, name).__name__ != name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_inspect_needs_no_tensorflow(tiny_store):
    code = f"import sys; from pipeline.__main__ import main; main(['inspect', {str(tiny_store)!r}]); print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "False"


def test_a_comparison_takes_what_earlier_ones_fitted(tiny_store, here, capsys, monkeypatch):
    def run(*options):
        assert main(["compare", "--store", str(tiny_store), "--json", *options]) == 0
        told = capsys.readouterr()
        return json.loads(told.out)["heads"], told.err

    (first,), said = run("--heads", "logistic")
    assert "from earlier runs" not in said
    both, said = run("--heads", "logistic,majority")
    assert "1 of 2 fits are from earlier runs" in said
    again = next(head for head in both if head["head"] == "logistic")
    assert {**again, "behind": 0.0, "p_value": None} == {**first, "behind": 0.0, "p_value": None}
    assert "from earlier runs" not in run("--heads", "logistic", "--fresh")[1]
    assert "from earlier runs" not in run("--heads", "logistic", "--seed", "1")[1]
    for changed in (["--select", "val"], ["--pool", "max"], ["--repeats", "2"], ["--set", "C=1"]):
        assert "from earlier runs" not in run("--heads", "logistic", *changed)[1]
    monkeypatch.setattr("pipeline.training.fits.fit_cache.own_source", lambda: "another version")
    assert "from earlier runs" not in run("--heads", "logistic")[1]
    for _ in range(2):  # what a class of somebody else's computes may change unseen
        assert "from earlier runs" not in run("--heads", "sklearn.naive_bayes.GaussianNB")[1]
    for kept in (here / "runs/.fits").iterdir():  # damaged: made anew
        kept.write_bytes(kept.read_bytes()[:100])
    assert "from earlier runs" not in run("--heads", "logistic")[1]


def test_a_misspelt_option_names_the_nearest(tiny_store, here):
    with pytest.raises(ValueError, match=r"compare has no option repeat\. Did you mean repeats\?"):
        pipeline.compare(tiny_store, repeat=3)
    with pytest.raises(RequestError, match=r"extract has no option xyz\. It has data, "):
        features.extract("photos", xyz=1)


def test_an_option_of_another_function_is_told_where_it_belongs():
    with pytest.raises(RequestError, match=r"compare has no option backbone\. It belongs to extract, plan_cost\.$"):
        pipeline.compare("s.h5", backbone="vgg16")
    with pytest.raises(
        RequestError, match=r"no option layers\. It belongs to extract, plan_cost\. Did you mean layer\?"
    ):
        pipeline.compare("s.h5", layers=["last"])
    with pytest.raises(
        RequestError,
        match=r"extract has no option repeats\. It belongs to audit, budget, compare, compare_bases, probe, lecture\.$",
    ):
        features.extract("photos", repeats=5)


def test_choices_are_those_of_the_code():
    from features import ConvFeatures, FeatureStore
    from features.engines.frozen_graph import Frozen
    from features.extraction.request import FeatureOptions
    from features.images.image_spec import COLOUR, DECODE, RESIZE_RULES
    from features.images.views import AUGMENT
    from features.pooling import EXTRACT_POOLS, POOLS
    from features.store.chunks import COMPRESSION
    from features.store.parts import LAYOUTS
    from features.store.provenance import FeatureSpec
    from pipeline.options import TrainingOptions

    declared = {name: typing.get_args(kind) for name, (kind, _) in flags_of(ExtractOptions).items()}
    assert set(typing.get_args(declared["resize"][0])) == set(RESIZE_RULES) and declared["augment"] == tuple(AUGMENT)
    assert typing.get_args(declared["decode"][0]) == DECODE and typing.get_args(declared["colour"][0]) == COLOUR
    assert typing.get_args(declared["compression"][0]) == COMPRESSION and declared["layout"] == LAYOUTS
    assert typing.get_args(declared["pool"][0]) == EXTRACT_POOLS
    assert typing.get_args(typing.get_args(flags_of(TrainingOptions)["pool"][0])[0]) == POOLS
    for told in (FeatureOptions, FeatureSpec, Frozen):
        assert f"    pool : {{{', '.join(map(repr, EXTRACT_POOLS))}}}\n" in told.__doc__
    for told in (FeatureStore.read, ConvFeatures):
        (line,) = re.findall(r" pool : {(.*)}\n", told.__doc__)
        assert set(line.split(", ")) == set(map(repr, POOLS))


def test_every_option_is_used(tiny_store):
    """The records behind the functions have each option, so that none is accepted and ignored."""
    from dataclasses import fields

    from features.extraction.request import ExtractRequest
    from pipeline.evaluation.decisions.aim import WAYS
    from pipeline.options import CompareOptions, ProbeOptions, TrainHeadOptions
    from pipeline.training.request import Request

    assert set(flags_of(PlanOptions)) == {each.name for each in fields(ExtractRequest)} - {"data"}
    asked = {each.name for each in fields(Request)}
    for options, own in (
        (CompareOptions, {"repeats", "exclude"}),
        (ProbeOptions, {"repeats"}),
        (TrainHeadOptions, {"tensorboard", "conformal", "positive", *WAYS}),  # the last of `Aim`
    ):
        assert set(flags_of(options)) - own <= asked


def test_results_become_json_and_frames(tiny_store, here):
    found = pipeline.compare(tiny_store, ["logistic", "majority"], out="c")
    kept = json.loads((here / "c/compare.json").read_text())
    assert json.loads(json.dumps(found.to_json())) == {**kept, "out": "c"}
    frame = found.to_frame()
    assert list(frame["head"]) == [head["head"] for head in found.heads] and frame["accuracy_low"].notna().all()
    run = pipeline.train_head(tiny_store, "logistic", out="r")
    assert json.loads(json.dumps(run.to_json())) == {**json.loads((here / "r/run.json").read_text()), "out": "r"}


def test_version_quiet_verbose_and_no_command(tiny_store, here, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"cached-features {features.__version__}\n"
    assert main([]) == 0 and "commands:" in capsys.readouterr().out
    train = ["train-head", "--store", str(tiny_store), "--head", "majority", "--out", "m", "--overwrite"]
    assert main([*train, "--quiet"]) == 0 and not capsys.readouterr().err
    assert main(["inspect", "gone.h5", "--quiet"]) == 2 and capsys.readouterr().err.startswith("error    gone.h5")
    assert main(train) == 0
    usual = capsys.readouterr().err.splitlines()
    assert main([*train, "--verbose"]) == 0
    verbose = capsys.readouterr().err.splitlines()
    assert len(verbose) >= len(usual) and all(re.match(r" +\d+\.\d\d s  ", line) for line in verbose)
    assert not logging.getLogger("cached_features").handlers


def test_quiet_shows_no_progress_and_verbose_what_is_kept_and_used_again(tree, here, capsys):
    def said(*arguments):
        assert main([*arguments]) == 0
        return capsys.readouterr().err

    extract = ["extract", "--data", "photos", "--backbone", "tiny", "--engine", "tensorflow", "--out", "s.h5"]
    compare = ["compare", "--store", "s.h5", "--heads", "majority"]
    told = said(*extract, "--verbose")
    assert re.search(r"threads  \d+ that decode; the engine has \d+ cores\n", told)
    assert re.search(r"part     s\.h5\.parts/part-\w+\.h5: 32 rows, 0\.0 MB\n", told)
    (here / "s.h5").unlink()
    assert not said(*extract, "--quiet")
    assert "part  " not in said(*extract) and "1/1 fits" in said(*compare)
    assert not said(*compare, "--fresh", "--quiet")
    assert re.search(r"kept     majority: runs/\.fits/\w+\.npz\n", said(*compare, "--verbose"))
    assert re.search(r"fitted   majority in 0\.\d\d s: runs/\.fits/\w+\.npz\n", said(*compare, "--fresh", "--verbose"))
