"""Folders of results below ``runs/``: whole or not there, and the fitted heads in them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import joblib
import numpy as np

from features.errors import RequestError

from .dense import DenseHead
from .heads import Classifier

RESULTS = (
    "run.json",
    "compare.json",
    "probe.json",
    "lecture.json",
)  # a folder that holds one of these may be overwritten


def run_folder(out: str | Path | None, name: str, overwrite: bool) -> Path:
    """Return the folder for a run, refusing one that is taken; without `out` a free name below ``runs/``."""
    if out is not None:
        if Path(out).exists() and not overwrite:
            raise RequestError(f"out must be a new folder; {out} is there. Choose another, or replace it: --overwrite")
        return Path(out)
    folder, number = Path("runs") / name, 1
    while folder.exists() and not overwrite:
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return folder


@contextmanager
def whole_folder(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """Give a folder to write into that appears as `folder` only once it is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as place:
        unfinished = Path(place) / "run"
        unfinished.mkdir()
        yield unfinished
        if overwrite and folder.exists():
            if not any((folder / name).exists() for name in RESULTS):
                raise RequestError(
                    f"{folder} must be an earlier run to be replaced; it is something else. Choose another --out"
                )
            shutil.move(folder, Path(place) / "replaced")
        os.replace(unfinished, folder)


def save_head(estimator: Classifier, folder: Path) -> None:
    """Save a fitted head: ``head.keras`` with its classes beside it, or ``head.joblib``."""
    if isinstance(estimator, DenseHead):
        estimator.model_.save(folder / "head.keras")
        (folder / "classes.json").write_text(json.dumps(estimator.classes_.tolist()), encoding="utf-8")
    else:
        joblib.dump(estimator, folder / "head.joblib")


def load_head(folder: str | Path) -> Classifier:
    """Load the head of a run of your own: ``head.joblib`` is a pickle, which can run code."""
    folder = Path(folder)
    if (folder / "head.keras").exists():
        from features.runtime import import_keras

        classes = np.array(json.loads((folder / "classes.json").read_text(encoding="utf-8")))
        return DenseHead(import_keras().saving.load_model(folder / "head.keras"), classes)
    if not (folder / "head.joblib").exists():
        raise RequestError(f"{folder} holds no trained head. Train one: python -m pipeline train-head --store STORE.h5")
    return joblib.load(folder / "head.joblib")
