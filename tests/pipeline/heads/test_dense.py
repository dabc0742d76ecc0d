"""Dense heads: alone, side by side, and streamed from the store."""

import json

import numpy as np
import pytest
from samples import blobs, provenance_of, rows_of, write_store

import pipeline
from features.errors import RequestError
from features.runtime.keras_runtime import import_keras
from pipeline.cli.commands import main
from pipeline.data.row_blocks import Stored, blocks, shuffled_blocks
from pipeline.heads.dense import trainer
from pipeline.heads.dense.config import Recipe, Schedule
from pipeline.heads.dense.search import train_heads
from pipeline.heads.registry import check_heads, find_head
from pipeline.reports.build import _provenance
from pipeline.reports.run_results import load_run


def post_relu(rows=200, features=30, n_classes=2, seed=0):
    """Return X of post-ReLU kind and the classes of its rows, which overlap."""
    random = np.random.default_rng(seed)
    y = np.arange(rows) % n_classes
    X = random.exponential(1.0, (rows, features)).astype(np.float32)
    X[np.arange(rows), y] += 2
    return X, y


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("optimizer", ["rmsprop", "adam", "sgd"])
def test_trains_as_keras_own_loop_does(n_classes, optimizer):
    """Against `model.fit` from the same start on the same batches: all rows are one."""
    keras = import_keras()
    X, y = post_relu(n_classes=n_classes)
    schedule = Schedule(epochs=5, batch_size=len(X), optimizer=optimizer)
    start = Schedule(epochs=1, batch_size=len(X), optimizer="sgd")
    recipe, rows = Recipe("8-6", 0.0, 0.05), np.arange(len(X))
    (ours,) = train_heads([recipe], schedule, X, y, rows)
    (theirs,) = train_heads([Recipe("8-6", 0.0, 1e-30)], start, X, y, rows)  # has not moved
    loss = "binary_crossentropy" if n_classes == 2 else "sparse_categorical_crossentropy"
    made = {"rmsprop": keras.optimizers.RMSprop, "adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}[optimizer]
    theirs.model.compile(made(0.05), loss, metrics=["accuracy"])
    history = theirs.model.fit(X, y, len(X), epochs=5, verbose=0).history
    np.testing.assert_allclose(ours.history["loss"], history["loss"], rtol=1e-4)
    np.testing.assert_allclose(ours.history["accuracy"], history["accuracy"], atol=0.02)
    for one, other in zip(ours.model.get_weights(), theirs.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_weights_decay_as_keras_own_adamw_lets_them():
    """Kernels and not biases, by the rate times the decay in each step."""
    keras = import_keras()
    X, y = post_relu()
    recipe, rows = Recipe("8-6", 0.0, 0.05, weight_decay=2.0), np.arange(len(X))
    (ours,) = train_heads([recipe], Schedule(epochs=5, batch_size=len(X), optimizer="adam"), X, y, rows)
    start = Schedule(epochs=1, batch_size=len(X), optimizer="sgd")
    (theirs,) = train_heads([Recipe("8-6", 0.0, 1e-30)], start, X, y, rows)  # has not moved
    optimizer = keras.optimizers.AdamW(0.05, weight_decay=2.0)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    theirs.model.compile(optimizer, "binary_crossentropy")
    theirs.model.fit(X, y, len(X), epochs=5, verbose=0)
    for one, other in zip(ours.model.get_weights(), theirs.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("large", [0, 1 << 17])
def test_heads_side_by_side_are_what_each_is_alone(large, monkeypatch):
    """Compiled, as wide heads are, and not."""
    monkeypatch.setattr(trainer, "LARGE", large)
    trainer.find_bank.cache_clear()
    X, y = post_relu()
    fit, look = np.arange(150), np.arange(150, 200)
    recipes = [
        Recipe(), Recipe("none", learning_rate=0.01), Recipe("20-5", 0.5, 0.003), Recipe(class_weight="balanced"), Recipe(weight_decay=3.0),
    ]  # fmt: skip
    together = train_heads(recipes, Schedule(epochs=6), X, y, fit, look)
    for recipe, one in zip(recipes, together, strict=True):
        (alone,) = train_heads([recipe], Schedule(epochs=6), X, y, fit, look)
        assert one.best_epoch == alone.best_epoch
        np.testing.assert_allclose(one.history["val_loss"], alone.history["val_loss"], rtol=1e-3)
        np.testing.assert_allclose(one.model(X), alone.model(X), atol=1e-3)


def test_keeps_the_epoch_with_the_lowest_validation_loss_and_stops():
    X, y = post_relu(seed=1)
    fit, look = np.arange(60), np.arange(60, 200)
    schedule = Schedule(epochs=200, patience=5, optimizer="adam")
    (best,) = train_heads([Recipe("64", learning_rate=0.01)], schedule, X, y, fit, look)
    losses = best.history["val_loss"]
    assert len(losses) < 200 and best.best_epoch == np.argmin(losses) + 1 == len(losses) - 5
    p = np.asarray(best.model(X[look])).ravel()
    loss = -np.mean(np.log(np.where(y[look] == 1, p, 1 - p)))
    assert loss == pytest.approx(min(losses), rel=1e-4)


def test_balanced_classes_weigh_the_same():
    X, y = post_relu(400)
    rare = np.flatnonzero((y == 0) | (np.arange(400) % 40 == 1))  # one in twenty
    recipes = [Recipe(class_weight=each) for each in ("none", "balanced")]
    plain, balanced = train_heads(recipes, Schedule(epochs=30), X, y, rare)
    found = [float(np.mean(np.asarray(each.model(X[y == 1])) > 0.5)) for each in (plain, balanced)]
    assert found[1] > found[0] + 0.2


def test_a_stored_matrix_gives_every_row_once_within_its_memory():
    X, y = post_relu(1000)
    read: list[int] = []

    def count(rows):
        read.append(len(rows))
        return X[rows]

    stored, rows = Stored(X.shape, count, 256), np.arange(0, 1000, 3)
    seen = [
        (taken[order], values[order])
        for values, taken, order in shuffled_blocks(stored, rows, 20, np.random.default_rng(0))
    ]
    numbers = np.concatenate([taken for taken, _ in seen])
    np.testing.assert_array_equal(np.sort(numbers), rows)
    assert not np.array_equal(numbers, rows) and max(read) <= 256
    assert seen[0][0].max() > rows[300]  # a block is drawn from all of the rows
    np.testing.assert_array_equal(np.concatenate([values for _, values in seen]), X[numbers])
    np.testing.assert_array_equal(np.concatenate([taken for _, taken, _ in blocks(stored, rows)]), rows)
    recipe, schedule = Recipe("none", learning_rate=0.01), Schedule(epochs=5)
    (streamed,) = train_heads([recipe], schedule, stored, y, rows, np.arange(1, 1000, 3))
    (whole,) = train_heads([recipe], schedule, X, y, rows, np.arange(1, 1000, 3))
    np.testing.assert_allclose(streamed.history["val_loss"], whole.history["val_loss"], atol=0.05)


def test_more_than_the_memory_is_streamed_to_dense_heads(tiny_store, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = ["--store", str(tiny_store), "--pool", "flatten"]
    assert main(["train-head", *store, "--head", "dense", "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert main(["train-head", *store, "--head", "dense", "--json", "--memory", "4e-6"]) == 0
    said = capsys.readouterr()
    assert "rows at a time from the store" in said.err
    assert json.loads(said.out)["val"]["accuracy"] == pytest.approx(whole["val"]["accuracy"], abs=0.3)


def test_settings_are_tried_as_given_and_nonsense_is_refused(tiny_store, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["train-head", "--store", str(tiny_store), "--head", "mlp", "--json", "--tensorboard", "logs"]
    given = ["--set", "units=8,16-4", "--set", "learning_rate=0.01", "--set", "epochs=2", "--set", "dropout=0"]
    assert main([*command, *given]) == 0
    run = json.loads(capsys.readouterr().out)
    assert {(each["units"], each["epochs"]) for each in run["tried"]} == {("8", 1), ("8", 2), ("16-4", 1), ("16-4", 2)}
    assert list(tmp_path.glob("logs/*/*/events*"))
    assert find_head("sklearn.ensemble.RandomForestClassifier", {"n_estimators": (3,)}).grid == {"n_estimators": (3,)}
    for wrong in ("units=-3", "dropout=1", "learning_rate=0", "optimizer=adamw", "class_weight=some", "epochs=1.5"):
        assert main([*command, "--set", wrong]) == 2
        assert f"{wrong.split('=')[0]} must be" in capsys.readouterr().err
    with pytest.raises(RequestError, match="setting of logistic must be one of C, class_weight, scale; got 'c'"):
        check_heads(["logistic"], {"c": (1,)})
    with pytest.raises(RequestError, match="scale must be one of"):
        find_head("logistic", {"scale": ("none",)})
    assert main(["train-head", "--store", str(tiny_store), "--tensorboard", "logs"]) == 2


def test_a_run_and_its_page_say_that_val_chose_the_settings_of_a_dense_head(tiny_store, tmp_path):
    few = {"settings": {"epochs": (2,)}}
    run = pipeline.train_head(tiny_store, "dense", **few, out=tmp_path / "r")
    assert run.select == "val" and pipeline.train_head(tiny_store, "nearest-mean", out=tmp_path / "n").select == "cv"
    pipeline.compare(tiny_store, ["dense", "nearest-mean"], **few, out=tmp_path / "c")
    told = {name: dict(_provenance(load_run(tmp_path / name)))["settings chosen by"] for name in "rnc"}
    folds, look = "five-fold cross-validation", "a look at val"
    assert told == {"r": look, "n": folds, "c": f"{folds}; of dense {look}"}


def test_cross_validation_is_advised_only_to_heads_that_can_choose_by_it(tmp_path):
    X, y, splits = blobs(2)
    splits[(splits == 1) & (y == 1)] = 0  # val has one class
    store = write_store(tmp_path / "s.h5", {"x": X}, rows_of(y, splits, 2), provenance_of({"x": (12,)}, "float32"))
    for head, advised in (("dense", False), ("logistic", True)):
        with pytest.raises(RequestError, match="they have one class") as raised:
            pipeline.train_head(store, head, select="val", metric="roc_auc", out=tmp_path / head)
        assert ("select='cv'" in str(raised.value)) is advised and "metric='log_loss'" in str(raised.value)
