"""Near-copies across a split, figures without them, and how optimistic a split is."""

import csv
import json
import logging
import re
from dataclasses import replace

import numpy as np
import pytest
from conftest import draw
from samples import provenance_of, rows_of, write_store

import pipeline
from features import RequestError, extract
from features.splits import NEAR_COPIES, SPLITS
from features.store.provenance import Origin
from features.store.reader import FeatureStore
from pipeline.cli.commands import main
from pipeline.data.near_copies import Likeness, NearCopies
from pipeline.evaluation.metrics import METRICS, evaluate
from pipeline.leakage.audit_text import format_audit
from pipeline.leakage.exposure import count_clusters, several, with_and_without
from pipeline.leakage.optimism import compare_ways
from pipeline.training.request import Request
from pipeline.training.splitting import warn_of_near_copies

SETTINGS = {"C": (1.0,)}
SERIES = 6  # images of each object


def found_by(clusters):
    """Return clusters as found, with a likeness that nobody asks for."""
    nothing = Likeness(np.zeros((len(clusters), 1), np.float32), np.zeros(len(clusters), np.float32))
    return NearCopies(np.array(clusters), nothing)


def write_objects(path, seed=0, objects=40, spread=0.15):
    """Write a store of objects, each photographed several times; nothing in a photo but the object tells its class.

    Photos lie in random order, and a random quarter is the test split, so each object is on both sides.
    """
    random = np.random.default_rng(seed)
    of = random.permutation(np.repeat(np.arange(objects), SERIES))
    looks = random.exponential(1, (objects, 96))
    X = looks[of] + spread * random.standard_normal((len(of), 96))
    y = (of % 2).astype(np.int32)
    splits = random.permutation(np.resize([0, 0, 0, 1, 2], len(of))).astype(np.uint8)
    rows = rows_of(y, splits, 2)
    rows.columns["object"] = tuple(f"o{number:02d}" for number in of)
    made = replace(provenance_of({"last": (96,)}), origin=Origin("folder", "photos", "/photos"))
    write_store(path, {"last": X.astype(np.float16)}, rows, made)
    return rows, of


def test_a_test_image_is_exposed_by_a_cluster_that_reaches_into_train_or_val():
    splits = np.array([SPLITS[name] for name in ("test", "train", "test", "test", "val", "test", "train")])
    found = found_by([0, 0, 2, 2, 4, 4, 6])
    assert found.exposed(splits == SPLITS["test"]).tolist() == [True, False, False, False, False, True, False]
    rows = rows_of(np.array([0, 0, 1, 1, 0, 1, 1], np.int32), splits.astype(np.uint8), 2)
    rows.sha256[3] = rows.sha256[2]
    assert [each.tolist() for each in several(found)] == [[0, 1], [2, 3], [4, 5]]
    assert count_clusters(found, rows, splits) == {
        "images": 7, "clusters": 3, "images_in_clusters": 6, "largest": 2, "with_byte_copies": 1, "across_splits": 2,
        "across_labels": 1, "test_images": 4, "test_images_exposed": 2,
    }  # fmt: skip


def test_figures_with_and_without_are_those_of_the_images_themselves():
    splits = np.array([2, 0, 2, 2, 1, 2], np.uint8)
    labels = np.array([0, 0, 1, 0, 1, 1])
    probabilities = np.array(
        [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4]]
    )  # of rows 0, 2, 3 and 5: the last is wrong
    told = with_and_without(labels, [splits], [probabilities], found_by([0, 0, 2, 3, 4, 4]))  # 0 and 5 are exposed
    assert {name: held["images"] for name, held in told.items()} == {"all": 4, "without": 2, "exposed": 2}
    assert told["without"]["accuracy"] == 0.5 == told["exposed"]["accuracy"] and told["all"]["accuracy"] == 0.5
    expected = evaluate(labels[[2, 3]], probabilities[[1, 2]])
    assert told["without"]["log_loss"] == expected["log_loss"] and "accuracy" in told["without"]["intervals"]
    none = with_and_without(labels, [splits], [probabilities], found_by(range(6)))
    assert none["exposed"] is None and none["without"] == none["all"]
    twice = with_and_without(labels, [splits] * 2, [probabilities, probabilities[:, ::-1]], found_by(range(6)))
    assert twice["all"]["accuracy"] == 0.5 and twice["all"]["intervals"] == {}


def test_the_difference_between_two_ways_is_resampled_by_whole_groups():
    random = np.random.default_rng(0)
    groups = [f"g{number}" for number in np.repeat(np.arange(60), 10)]
    y = random.integers(0, 2, 600)
    right = np.where(y[:, None] == np.arange(2), 0.8, 0.2)
    wrong_groups = np.repeat(random.random(60) < 0.3, 10)  # the second way fails whole groups
    second = np.where(wrong_groups[:, None], right[:, ::-1], right)
    found = compare_ways(y, [right], [second], groups)["accuracy"]
    share = wrong_groups.mean()
    assert (found["random"], found["grouped"], found["difference"]) == (1, 1 - share, pytest.approx(share))
    half = 1.96 * np.sqrt(share * (1 - share) / 60)  # of a share of 60 groups, by the normal distribution
    np.testing.assert_allclose(found["interval"], [share - half, share + half], atol=0.02)
    few = compare_ways(y[:20], [right[:20]], [np.vstack([right[:10], right[10:20, ::-1]])], groups[:20])["accuracy"]
    half = 12.706205 / 2  # Student's t(0.975) of one degree of freedom, times the standard error of two groups
    np.testing.assert_allclose(few["interval"], [0.5 - half, 0.5 + half], rtol=0.1)
    same = compare_ways(y, [second], [second], groups)["log_loss"]
    assert same["difference"] == 0 and same["interval"] == [0, 0]
    assert compare_ways(y, [right, second], [second, second], groups)["accuracy"]["difference"] == pytest.approx(
        share / 2
    )


def test_an_audit_finds_objects_in_train_and_test_and_how_much_they_flatter(tmp_path):
    rows, of = write_objects(tmp_path / "s.h5")
    found = pipeline.audit(tmp_path / "s.h5", settings=SETTINGS, out=tmp_path / "runs/a")
    assert found.counts["clusters"] == 40 and found.counts["images_in_clusters"] == len(of)
    assert found.counts["test_images_exposed"] == found.counts["test_images"] == 48
    assert found.figures["logistic"]["without"] is None and found.figures["logistic"]["all"]["accuracy"] > 0.95
    optimism = found.optimism
    assert (optimism["group"], optimism["groups"], optimism["folds"]) == (NEAR_COPIES, 40, 5)
    accuracy = optimism["accuracy"]
    assert accuracy["random"] > 0.95 and accuracy["grouped"] < 0.75  # nothing but the object tells its class
    assert accuracy["interval"][0] > 0.1 and found.series["p_value"] > 1e-6
    named = pipeline.audit(tmp_path / "s.h5", settings=SETTINGS, group="object", out=tmp_path / "runs/b").optimism
    assert named["group"] == "object" and named["groups"] == 40
    assert json.loads((tmp_path / "runs/a/audit.json").read_text()) == {
        name: value for name, value in found.to_json().items() if name != "out"
    }
    with open(tmp_path / "runs/a/pairs.csv", newline="") as file:
        pairs = list(csv.DictReader(file))
    assert len(pairs) == 48 and {each["split"] for each in pairs} == {"test"}
    assert all(of[int(each["path"])] == of[int(each["nearest"])] for each in pairs)
    assert "test" not in {each["nearest_split"] for each in pairs}
    with open(tmp_path / "runs/a/groups.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["path"] for line in lines] == list(rows.paths) and lines[3]["object"] == rows.columns["object"][3]
    assert all(of[int(line["path"])] == of[int(line[NEAR_COPIES])] for line in lines)
    with open(tmp_path / "runs/a/clusters.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(of)


def test_an_audit_of_a_comparison_shows_its_heads_and_fits_none(tmp_path, capsys):
    write_objects(tmp_path / "s.h5", spread=3)  # photos of an object are not alike
    pipeline.compare(tmp_path / "s.h5", ["majority", "nearest-mean"], out=tmp_path / "runs/c")
    out = str(tmp_path / "runs/a")
    command = ["audit", "--store", str(tmp_path / "s.h5"), "--run", str(tmp_path / "runs/c"), "--out", out]
    assert main([*command, "--repeats", "0", "--json"]) == 0
    told, messages = capsys.readouterr()
    found = json.loads(told)
    assert set(found["figures"]) == {"majority", "nearest-mean"} and found["optimism"] is None
    assert (
        found["counts"]["clusters"] == 0 and "repeats 5" in messages and "near-copies" not in messages.split("next")[-1]
    )
    assert main([*command, "--overwrite"]) == 0
    assert "| majority | all | 48 |" in capsys.readouterr().out
    write_objects(tmp_path / "other.h5", objects=20)
    with pytest.raises(RequestError, match=r"run must be a run of this store as it is; .* 240 other images.*other\.h5"):
        pipeline.audit(tmp_path / "other.h5", run=tmp_path / "runs/c", out=tmp_path / "runs/d")
    with pytest.raises(RequestError, match="repeats must be at least 0; got -1"):
        pipeline.audit(tmp_path / "s.h5", repeats=-1)
    with pytest.raises(RequestError, match="group must be one of object; got 'objekt'"):
        pipeline.audit(tmp_path / "s.h5", group="objekt")


def test_an_audit_of_a_run_has_the_images_and_labels_that_the_run_corrected(tmp_path):
    store = tmp_path / "s.h5"
    rows, _ = write_objects(store, spread=3)
    pipeline.compare(store, ["nearest-mean"], out=tmp_path / "plain")
    dropped, changed = np.flatnonzero(rows.splits == 0)[:2], np.flatnonzero(rows.splits == 2)[:9]
    with open(tmp_path / "c.csv", "w") as file:
        file.write("sha256,old,verdict,new\n")
        for some, verdict in ((dropped, "drop"), (changed, "change")):
            for row in some:
                old = int(rows.labels[row])
                file.write(f"{rows.sha256[row].tobytes().hex()},{old},{verdict},{1 - old}\n")
    corrected = {"corrections": tmp_path / "c.csv", "corrections_test": True}
    run = pipeline.compare(store, ["nearest-mean"], **corrected, out=tmp_path / "corrected")
    found = pipeline.audit(store, run=run.out, repeats=0, out=tmp_path / "a")
    assert found.figures["nearest-mean"]["all"]["accuracy"] == run.heads[0]["accuracy"]
    assert found.counts["images"] == len(rows) - 2 and run.corrections["changed"] == 9
    rows.labels[changed] = 1 - rows.labels[changed]
    with FeatureStore(store) as opened:
        X, made = opened.read("last"), opened.made
    other = write_store(tmp_path / "other.h5", {"last": X.astype(np.float16)}, rows, made)
    with pytest.raises(RequestError, match=r"predictions of other labels of its images\. Run it again: .*other\.h5'\)"):
        pipeline.audit(other, run=tmp_path / "plain", repeats=0, out=tmp_path / "b")


def test_an_audit_tells_in_sentences_what_it_found_and_what_to_do():
    figures = {
        name: {"images": n, "intervals": {}, **dict.fromkeys([each.name for each in METRICS], value)}
        for name, n, value in (("all", 200, 0.95), ("without", 193, 0.94), ("exposed", 7, 1.0))
    }
    counts = {
        "images": 1400, "clusters": 12, "images_in_clusters": 30, "largest": 4, "with_byte_copies": 1, "across_splits": 5,
        "across_labels": 2, "test_images": 200, "test_images_exposed": 7,
    }  # fmt: skip
    told = {
        "counts": counts,
        "figures": {"logistic": figures},
        "optimism": None,
        "metric": "accuracy",
        "head": "logistic",
    }
    told |= {"group": NEAR_COPIES, "store": "s.h5"}
    sentences = format_audit(told).split("\n\n")[0].split("\n")
    assert sentences == [
        "12 clusters of near-copies with 30 of 1,400 images, the largest 4: re-encoded or resized files, crops, mirror images, "
        "frames of a burst.",
        "In 1 cluster, a file occurs more than once.",
        "In 2 clusters, images have different labels, not all of which can be right: see clusters.csv.",
        "On two sides of the split: 5 clusters. 7 of 200 test images have a near-copy in train or val.",
        "Without such images, accuracy of logistic on test is 0.940; with them, 0.950.",
        "For figures of images unlike those learned from, keep near-copies on one side: pipeline.compare(store='s.h5', "
        "group='near-copies', repeats=5)",
    ]
    grouped = {"difference": 0.05, "random": 0.95, "grouped": 0.9, "interval": [0.01, 0.09]}
    flattered = {"group": "object", "groups": 40, "folds": 5, "repeats": 1, "accuracy": grouped}
    assert (
        "On groups (object) that it has not seen, accuracy of logistic is 0.900, not 0.950 as image by image: a difference of "
        "0.050 [0.010, 0.090], beyond what chance gives."
    ) in format_audit({**told, "optimism": flattered})
    nothing = dict.fromkeys(counts, 0) | {"images": 1400, "test_images": 200, "largest": 1}
    assert format_audit({**told, "counts": nothing, "group": None}).split("\n")[:2] == [
        "No image has a near-copy among the 1,400 images.",
        "The split needs no change for near-copies.",
    ]


def test_a_search_for_near_copies_says_that_it_found_none(tmp_path, said):
    y = np.arange(80, dtype=np.int32) % 2
    values = np.random.default_rng(0).normal(size=(80, 64)).astype(np.float32)
    rows = rows_of(y, np.resize([0, 0, 1, 2], 80).astype(np.uint8), 2)
    write_store(tmp_path / "s.h5", {"a": values}, rows, provenance_of({"a": (64,)}, "float32"))
    with FeatureStore(tmp_path / "s.h5") as store:
        assert warn_of_near_copies(store, Request(tmp_path / "s.h5")) == 0
    assert said[-1] == "copies   none of 20 test images has a near-copy in train or val"


def test_extract_audit_report_and_compare_find_the_same_near_copies(tmp_path, caplog):
    """Whatever layer or pooling a run has; the report of one split counts as the line of extract does."""
    random, classes = np.random.default_rng(0), np.arange(240, dtype=np.int32) % 2
    rows = rows_of(classes, random.permutation(np.resize(np.array([0, 0, 1, 2], np.uint8), 240)), 2)
    first, last = random.exponential(1, (240, 4, 4, 8)), random.exponential(1, (240, 96))
    last[200:] = last[:40] + 0.05 * random.standard_normal((40, 96))  # in the first layer, they are no copies
    features = {"first": first.astype(np.float16), "last": last.astype(np.float16)}
    made = replace(provenance_of({"first": (4, 4, 8), "last": (96,)}), origin=Origin("folder", "photos", "/photos"))
    write_store(tmp_path / "s.h5", features, rows, made)
    found = pipeline.audit(tmp_path / "s.h5", layer=["first"], repeats=0, settings=SETTINGS, out=tmp_path / "a").counts
    exposed = found["test_images_exposed"]
    assert found["clusters"] == 40 and 0 < exposed < 60
    with FeatureStore(tmp_path / "s.h5") as store:
        assert warn_of_near_copies(store, Request(tmp_path / "s.h5")) == exposed
    pipeline.compare(
        tmp_path / "s.h5", ["logistic"], layer=["first"], pool="max", settings=SETTINGS, out=tmp_path / "c"
    )
    assert f"{exposed} of 60 test images have a near-copy in train or val" in page_of(tmp_path / "c")
    with caplog.at_level(logging.INFO):
        asked = {"layer": ["first"], "group": NEAR_COPIES, "repeats": 3}
        pipeline.compare(tmp_path / "s.h5", ["majority"], **asked, out=tmp_path / "d")
    assert "groups   200 of near-copies" in caplog.text


def test_near_copies_are_groups_of_a_comparison(tmp_path):
    """As if the column of objects had been named; workers of a cluster are sent them."""
    rows, of = write_objects(tmp_path / "s.h5")
    compared = {}
    for group in (NEAR_COPIES, "object"):
        out = tmp_path / "runs" / group
        compared[group] = pipeline.compare(
            tmp_path / "s.h5", ["logistic"], settings=SETTINGS, group=group, repeats=3, out=out
        )
        with np.load(out / "predictions.npz") as kept:
            for split in kept["splits"]:
                assert all(len(set(split[of == each])) == 1 for each in range(40))
        assert compared[group].heads[0]["accuracy"] < 0.8
    again = pipeline.compare(
        tmp_path / "s.h5", ["logistic"], settings=SETTINGS, group=NEAR_COPIES, repeats=3, out=tmp_path / "runs/again"
    )
    assert again.heads[0]["accuracies"] == compared[NEAR_COPIES].heads[0]["accuracies"]
    assert "No test image has a near-copy in train or val" in page_of(tmp_path / "runs" / NEAR_COPIES)
    pipeline.compare(tmp_path / "s.h5", ["logistic"], settings=SETTINGS, out=tmp_path / "runs/random")
    page = page_of(tmp_path / "runs/random")
    assert "48 of 48 test images have a near-copy in train or val" in page
    tested = len(set(of[rows.splits == SPLITS["test"]]))  # objects, of all of which others are in train or val
    assert f"The first 12 of {tested} clusters" in page
    cells = re.search(r'<th scope="row">logistic</th>((<td class="num">[^<]*</td>){3})</tr></tbody>', page)[1]
    assert re.findall(r">([^<>]+)<", cells)[1] == "–"  # without near-copies, no test image is left


def page_of(run):
    """Return the text of a run's report, with single blanks."""
    return " ".join(re.sub(r"</?strong>", "", pipeline.report(run).path.read_text(encoding="utf-8")).split())


def test_a_split_that_breaks_near_copies_and_extract_say_what_to_do(tmp_path):
    write_objects(tmp_path / "s.h5")
    with pytest.raises(RequestError, match=r"must keep each cluster of near-copies in one split; 38 of 40 .*repeats=5"):
        pipeline.train_head(tmp_path / "s.h5", group=NEAR_COPIES, out=tmp_path / "r")
    (tmp_path / "m.csv").write_text("path,label\n")
    (tmp_path / "photos/a").mkdir(parents=True)
    (tmp_path / "photos/b").mkdir()
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / "photos" / name).touch()
    with pytest.raises(RequestError, match=r"got 'near-copies', which are found in features.*pipeline\.compare"):
        extract(str(tmp_path / "photos"), backbone="tiny", group=NEAR_COPIES, out=tmp_path / "t.h5")


def test_extract_warns_of_series_once_there_are_features(tmp_path, capsys):
    """Of 24 colours six images each, that stand together in the list; a group ends the warning, as does nothing computed."""
    random = np.random.default_rng(0)
    lines = ["path,label,object"]
    for number in range(144):
        if number % SERIES == 0:
            colour = tuple(random.integers(0, 128, 3).tolist())
        draw(tmp_path / f"{number}.png", number, colour)
        lines.append(f"{number}.png,{'ab'[number // SERIES % 2]},{number // SERIES}")
    (tmp_path / "m.csv").write_text("\n".join(lines))

    def told(*more, out="s.h5"):
        asked = ["extract", "--data", str(tmp_path / "m.csv"), "--backbone", "tiny", "--engine", "tensorflow"]
        assert main([*asked, "--out", str(tmp_path / out), *more]) == 0
        return capsys.readouterr().err

    assert "warning  the images come in series" in told() and "--group, or see how much" in told(out="again.h5")
    assert "come in series" not in told() and "come in series" not in told("--group", "object", out="grouped.h5")


def test_a_store_in_series_is_warned_of_once_unless_a_group_is_named(tmp_path, caplog):
    random = np.random.default_rng(0)
    looks = np.repeat(random.exponential(1, (40, 96)), SERIES, axis=0)
    X = looks + 0.5 * random.standard_normal(looks.shape)
    rows = rows_of(
        (np.arange(len(X)) // SERIES % 2).astype(np.int32), np.resize([0, 0, 1, 2], len(X)).astype(np.uint8), 2
    )
    rows.columns["object"] = tuple(str(number // (4 * SERIES)) for number in range(len(X)))
    write_store(tmp_path / "s.h5", {"last": X.astype(np.float16)}, rows, provenance_of({"last": (96,)}))

    def warned(store="s.h5", **options):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            pipeline.compare(tmp_path / store, ["majority"], repeats=3, **options)
        return sum("come in series" in record.getMessage() for record in caplog.records)

    assert warned(out=tmp_path / "a") == 1 and "group=..." in caplog.text and "pipeline.audit(" in caplog.text
    assert warned(out=tmp_path / "b", group="object") == 0
    write_objects(tmp_path / "random.h5")
    assert warned("random.h5", out=tmp_path / "c") == 0
