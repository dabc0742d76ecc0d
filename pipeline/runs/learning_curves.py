"""Learning curves of heads that are trained by epochs: as a table, a plot, and for TensorBoard."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

from features.errors import RequestError, called, missing_extra
from features.runtime.keras_runtime import import_keras

from ..heads.contract import Classifier
from ..heads.registry import HEADS, find_head
from ..heads.settings import Choice


def check_tensorboard(head: str) -> None:
    """Refuse TensorBoard logs if the head has no epochs or the package is missing."""
    if not find_head(head).searcher.by_epochs:
        able = " or ".join(name for name, each in HEADS.items() if each.searcher.by_epochs)
        raise RequestError(
            f"{called('tensorboard')} must be left out: {head} is not trained by epochs. Use another head: {able}"
        )
    if importlib.util.find_spec("tensorboard") is None:
        raise missing_extra("tensorboard", "tensorboard", called("tensorboard"))


def write_history(folder: Path, choice: Choice) -> None:
    """Write ``history.csv`` and ``history.png`` of a head that was trained by epochs."""
    from .plots import plot_history  # imports Matplotlib, which other heads need not wait for

    history = choice.history or {}
    with open(folder / "history.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["epoch", *history])
        table.writerows([epoch, *values] for epoch, values in enumerate(zip(*history.values(), strict=True), start=1))
    plot_history(history, choice.settings["epochs"]).savefig(folder / "history.png")


def log_history(folder: Path, head: Classifier, choice: Choice) -> None:
    """Write the learning curves of a head that was trained by epochs to a TensorBoard folder."""
    keras, model = import_keras(), head.model_
    assert model is not None
    model.compile(keras.optimizers.get(choice.settings["optimizer"]))  # the callback logs its learning rate
    model.optimizer.learning_rate = choice.settings["learning_rate"]
    log = keras.callbacks.TensorBoard(folder, write_graph=False)
    log.set_model(model)
    history = choice.history or {}
    for epoch, values in enumerate(zip(*history.values(), strict=True)):
        log.on_epoch_end(epoch, dict(zip(history, values, strict=True)))
    log.on_train_end()
