"""Corrected labels are applied by content, never to test images unless told, and what they change is measured."""

import csv
import json

import numpy as np
import pytest
from samples import provenance_of, rows_of, write_store

import pipeline
from features import FeatureStore, extract
from features.errors import RequestError
from features.sources.lists.corrections import Corrections
from pipeline.cli.commands import main

N, PLANTED = 600, 60


def store_of(path, columns=None):
    """Write a store of two classes; of train and val, and of test, one in ten labels is wrong."""
    random = np.random.default_rng(4)
    true = (np.arange(N) % 2).astype(np.int32)
    X = random.normal(true[:, None] * 0.8, 1, (N, 8)).astype(np.float32)
    splits = random.permutation(np.repeat([0, 1, 2], [300, 60, 240])).astype(np.uint8)
    wrong = random.permutation(N)[:PLANTED]
    y = true.copy()
    y[wrong] = 1 - y[wrong]
    rows = rows_of(y, splits, 2)
    rows.columns.update(columns or {})
    return write_store(path, {"x": X}, rows, provenance_of({"x": (8,)}, "float32")), wrong, rows


def judge(path, rows, changed, dropped=(), kept=()):
    """Write a table of corrections."""
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "sha256", "old", "verdict", "new"])
        for verdict, some in (("change", changed), ("drop", dropped), ("keep", kept)):
            for row in some:
                new = str(1 - rows.labels[row]) if verdict == "change" else ""
                key = rows.sha256[row].tobytes().hex()
                table.writerow([rows.paths[row], key, str(rows.labels[row]), verdict, new])
    return path


def test_labels_of_train_and_val_are_corrected_and_test_is_left(tmp_path, said):
    store, wrong, rows = store_of(tmp_path / "s.h5")
    table = judge(tmp_path / "c.csv", rows, wrong[10:], wrong[:10])
    run = pipeline.train_head(store, "nearest-mean", corrections=table, out=tmp_path / "r")
    told, learn = run.corrections, rows.splits != 2
    assert told["changed"] == learn[wrong[10:]].sum() and told["dropped"] == learn[wrong[:10]].sum()
    assert told["spared"] == (~learn[wrong]).sum() and told["unknown"] == 0
    assert sum(map(sum, (each.values() for each in run.rows.values()))) == N - told["dropped"]
    assert run.rows["test"] == {str(k): int(np.sum(rows.labels[~learn] == k)) for k in (0, 1)}
    # The head is that of a store which never had these errors.
    y = rows.labels.copy()
    y[wrong] = np.where(learn[wrong], 1 - y[wrong], y[wrong])
    kept = np.ones(N, bool)
    kept[wrong[:10][learn[wrong[:10]]]] = False
    with FeatureStore(store) as opened:
        X = opened.read("x")
    clean = rows_of(y[kept], rows.splits[kept], 2)
    clean.sha256[:] = rows.sha256[kept]
    other = write_store(tmp_path / "clean.h5", {"x": X[kept]}, clean, provenance_of({"x": (8,)}, "float32"))
    same = pipeline.train_head(other, "nearest-mean", out=tmp_path / "same")
    assert run.test == same.test and run.settings == same.settings and told["after"]["value"] == run.test["accuracy"]
    before = pipeline.train_head(store, "nearest-mean", out=tmp_path / "before")
    assert told["before"]["value"] == before.test["accuracy"]
    assert told["before"]["interval"] == pytest.approx(before.intervals["accuracy"])
    assert 0 <= told["p_value"] <= 1 and told["gain"] == pytest.approx(run.test["accuracy"] - before.test["accuracy"])
    assert (tmp_path / "r/corrections.csv").read_bytes() == table.read_bytes()
    assert any(
        f"{told['changed']} changed, {told['dropped']} images dropped, {told['spared']} of test" in x for x in said
    )


def test_test_is_corrected_if_told_and_drawn_splits_need_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _, wrong, rows = store_of(tmp_path / "s.h5")
    judge(tmp_path / "c.csv", rows, wrong[10:], wrong[:10])
    given = ["compare", "--store", "s.h5", "--heads", "nearest-mean,majority", "--corrections", "c.csv", "--out", "r"]
    assert main([*given, "--repeats", "3"]) == 2
    assert "add --corrections-test" in capsys.readouterr().err
    assert main([*given, "--repeats", "3", "--corrections-test"]) == 0
    told = json.loads((tmp_path / "r/compare.json").read_text())
    assert told["corrections"]["spared"] == 0 and told["corrections"]["changed"] == 50
    assert told["corrections"]["head"] == "nearest-mean" and sum(told["rows"]["test"].values()) < 240
    assert told["corrections"]["after"]["value"] == told["heads"][0]["accuracy"]
    assert main(["train-head", "--store", "s.h5", "--corrections-test", "--out", "n"]) == 2
    assert "--corrections-test must go with --corrections" in capsys.readouterr().err


def test_a_page_shows_the_images_that_are_left(tiny_store, tmp_path):
    with FeatureStore(tiny_store) as opened:
        rows = opened.rows
    learn = np.flatnonzero(rows.splits == 0)
    with open(tmp_path / "c.csv", "w") as file:
        file.write("sha256,old,verdict,new\n")
        for row, verdict in zip(learn[:3], ("drop,", "change,red", "keep,"), strict=True):
            file.write(f"{rows.sha256[row].tobytes().hex()},{rows.class_names[rows.labels[row]]},{verdict}\n")
    run = pipeline.train_head(tiny_store, "logistic", corrections=tmp_path / "c.csv", out=tmp_path / "r")
    assert run.corrections["changed"] == run.corrections["dropped"] == 1
    written = pipeline.report(run.out)
    text = written.path.read_text()
    assert set(written.left_out) == {"attention"}  # of maps of 3 x 3 cells
    assert rows.paths[learn[0]] not in text and rows.paths[learn[1]] in text
    assert "1 label was changed" in " ".join(text.split()) and "1 image was dropped" in " ".join(text.split())
    (tmp_path / "r/corrections.csv").write_text("sha256,old,verdict,new\n")
    left_out = pipeline.report(run.out).left_out
    del left_out["attention"]  # its maps are small
    assert left_out and all("corrections.csv must be the file" in why for why in left_out.values())


def test_near_copies_and_groups_are_those_of_the_images_that_are_left(tmp_path, said):
    patients = tuple(str(number // 3) for number in range(N))
    store, wrong, rows = store_of(tmp_path / "s.h5", {"patient": patients})
    table = judge(tmp_path / "c.csv", rows, wrong[10:], wrong[:10])
    for group in ("patient", "near-copies"):
        options = {"repeats": 3, "corrections_test": True, "group": group}
        found = pipeline.compare(store, ["nearest-mean"], corrections=table, out=tmp_path / group, **options)
        assert found.corrections["dropped"] == 10 and found.heads[0]["accuracy"] > 0.8
        assert sum(f" of {group}; each stays on one side" in line for line in said) == 1


LINES = {
    "must have the columns sha256, old, verdict, new; verdict is missing": "sha256,old,new\n",
    "must name an image by the SHA-256 of its file; got 'ab'": "sha256,old,verdict,new\nab,0,keep,\n",
    "must say keep, change, drop; got 'delete'": f"sha256,old,verdict,new\n{'00' * 32},0,delete,\n",
    "must say to which class": f"sha256,old,verdict,new\n{'00' * 32},0,change,\n",
    "must judge an image once": f"sha256,old,verdict,new\n{'00' * 32},0,drop,\n{'00' * 32},0,keep,\n",
    "must change labels to classes there are": f"sha256,old,verdict,new\n{'00' * 32},0,change,cat\n",
    "must judge the labels that images have": f"sha256,old,verdict,new\n{'00' * 32},cat,drop,\n",
}


@pytest.mark.parametrize("message", LINES)
def test_a_table_that_does_not_fit_is_refused(message, tmp_path):
    store, _, _ = store_of(tmp_path / "s.h5")
    (tmp_path / "c.csv").write_text(LINES[message])
    with pytest.raises(RequestError, match=message):
        pipeline.train_head(store, "nearest-mean", corrections=tmp_path / "c.csv", out=tmp_path / "r")
    with pytest.raises(RequestError, match="corrections must be a CSV file that is there; got"):
        Corrections.read(tmp_path / "none.csv")


def test_an_empty_table_changes_nothing(tmp_path):
    store, _, rows = store_of(tmp_path / "s.h5")
    table = judge(tmp_path / "c.csv", rows, (), (), [0, 1, 2])
    run = pipeline.train_head(store, "nearest-mean", corrections=table, out=tmp_path / "r")
    told = run.corrections
    assert told["changed"] == told["dropped"] == told["gain"] == 0 and told["p_value"] == 1


def test_extract_corrects_a_source_without_computing_again(tree, tmp_path, said):
    first = extract(str(tree), backbone="tiny", out=tmp_path / "s.h5", batch_size=8)
    with FeatureStore(first.path) as opened:
        rows = opened.rows
    learn, test = np.flatnonzero(rows.splits == 0), np.flatnonzero(rows.splits == 2)
    with open(tmp_path / "c.csv", "w") as file:
        file.write("sha256,old,verdict,new\n")
        dropped = [(row, "drop,") for row in (learn[0], *learn[2:6])]  # more than a tenth of all
        for row, verdict in (*dropped, (learn[1], "change,red"), (test[0], "change,red")):
            file.write(f"{rows.sha256[row].tobytes().hex()},{rows.class_names[rows.labels[row]]},{verdict}\n")
    options = {"backbone": "tiny", "out": tmp_path / "s.h5", "batch_size": 8, "corrections": tmp_path / "c.csv"}
    again = extract(str(tree), **options)
    assert again.computed == 0 and again.rows == first.rows - 5
    assert any("5 images dropped" in line for line in said) and not any("are not in" in line for line in said)
    with FeatureStore(again.path) as opened:
        held = dict(zip(opened.rows.paths, opened.rows.labels.tolist(), strict=True))
    assert rows.paths[learn[0]] not in held and held[rows.paths[learn[1]]] == 1 and held[rows.paths[test[0]]] == 0
    extract(str(tree), corrections_test=True, **options)
    with FeatureStore(again.path) as opened:
        assert dict(zip(opened.rows.paths, opened.rows.labels.tolist(), strict=True))[rows.paths[test[0]]] == 1
    with pytest.raises(RequestError, match="corrections_test must go with corrections"):
        extract(str(tree), backbone="tiny", out=tmp_path / "n.h5", corrections_test=True)
