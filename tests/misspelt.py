"""Misspelt options of the public functions. mypy checks this file: an ignore that it does not need is an error, so each is found."""

from pathlib import Path

import features
import pipeline


def misspelt_extract(data: Path) -> None:
    features.extract(data, bakbone="vgg16")  # type: ignore[call-arg]


def misspelt_compare(store: Path) -> None:
    pipeline.compare(store, repeat=3)  # type: ignore[call-arg]


def misspelt_train_head(store: Path) -> None:
    pipeline.train_head(store, metrics="accuracy")  # type: ignore[call-arg]


def misspelt_predict(run: Path) -> None:
    pipeline.predict(run, ["new"], weight="w.h5")  # type: ignore[call-arg]


def misspelt_export(run: Path) -> None:
    pipeline.export(run, "m.keras", row=4)  # type: ignore[call-arg]


def misspelt_report(run: Path) -> None:
    pipeline.report(run, point=10)  # type: ignore[call-arg]
