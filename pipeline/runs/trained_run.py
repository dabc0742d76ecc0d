"""A run read back: the head, what it reads of an image, and its classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import UnsafeFile
from features.store.provenance import Provenance

from ..heads.contract import Classifier
from .feature_spec import Reading
from .folders import read_run
from .head_file import load_head


@dataclass(frozen=True)
class Trained:
    """What ``train_head`` made.

    Attributes
    ----------
    folder : Path
    name : str
        Of the head.
    head : Classifier
    reading : Reading
    class_names : tuple of str
    store : Path
        Where the features were that the head was trained on.
    made : Provenance
        How they were made.
    settings : dict
        Chosen for the head.
    """

    folder: Path
    name: str
    head: Classifier
    reading: Reading
    class_names: tuple[str, ...]
    store: Path
    made: Provenance
    settings: dict[str, Any]

    def probabilities(self, X: np.ndarray) -> np.ndarray:
        """Return probabilities, (n_images, n_classes), of features as `reading` gives them."""
        try:
            return self.reading.probabilities(self.head, X, len(self.class_names))
        except (ValueError, IndexError) as error:
            raise UnsafeFile(
                f"the head of {self.folder} must fit its classes and what it reads; {error}. Train it again."
            ) from error


def load_trained(folder: str | Path, allow_joblib: bool = False) -> Trained:
    """Read a run back; see `load_head` and `read_run`."""
    told = read_run(folder)
    return Trained(
        folder=Path(folder),
        name=told["head"],
        head=load_head(folder, allow_joblib),
        reading=Reading.from_json(told["reading"], str(folder)),
        class_names=tuple(map(str, told["class_names"])),
        store=Path(told["store"]),
        made=Provenance.from_json(told["provenance"], f"{folder}/run.json"),
        settings=told.get("settings") or {},
    )
