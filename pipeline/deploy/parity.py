"""Comparison of an exported model with its run, on the image files of the store."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from features.engines.runtimes.onnxruntime_engine import import_onnxruntime
from features.errors import ParityError, RequestError, UnreadableImage, command, counted
from features.images.decoding import decode_whole, is_reduced, read_bytes
from features.images.image_spec import ImageSpec
from features.runtime.keras_runtime import import_keras
from features.runtime.log import log
from features.runtime.progress import Progress
from features.sources.file_names import named_file
from features.store.reader import FeatureStore

from ..evaluation.decisions.class_sets import ClassSets
from ..runs.trained_run import Trained

# Largest allowed difference of a probability. Observed: 1e-5 with VGG16, 2e-4 in ONNX, whose converter removes the rounding
# to float16, and 2e-3 with the tests' base of random weights.
TOLERANCE = 5e-3
# For features computed in bfloat16, since the model computes in float32 (observed: 2e-2), and of JPEGs decoded at a reduced
# size, since the model gets them decoded in full (observed: 1e-2).
ROUGH_TOLERANCE = 5e-2
_DISTANCE = 1e-6  # rounding of 1 - cosine in float32
BATCH = 8
_ONLY = "probabilities"  # the output of a model with one

Run = Callable[[np.ndarray], dict[str, np.ndarray]]  # images to outputs by name


def open_model(path: Path, form: str) -> Run:
    """Return a written model as a function from images to its outputs, by name; a single one is ``probabilities``."""
    if form == "onnx":
        session = import_onnxruntime().InferenceSession(path, providers=["CPUExecutionProvider"])
        (needed,), names = session.get_inputs(), [each.name for each in session.get_outputs()]
        named = names if len(names) > 1 else [_ONLY]
        return lambda images: dict(zip(named, session.run(None, {needed.name: images}), strict=True))
    keras = import_keras()
    if form == "keras":
        model = keras.saving.load_model(path, compile=False)
        return lambda images: _by_name(model(images))
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    return lambda images: _by_name(loaded.serve(images))


def _by_name(found: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(each) for name, each in (found if isinstance(found, dict) else {_ONLY: found}).items()}


def compare(path: Path, form: str, trained: Trained, spec: ImageSpec, rows: int, batch: int) -> dict[str, Any]:
    """Compare a written model on the store's image files, read as `spec` says, with the head on their stored features.

    Raises
    ------
    RequestError
        If the store or its images are missing, have changed, or are larger than `spec` allows.
    ParityError
        If outputs differ by more than rounding explains.
    """
    computed = open_model(path, form)
    with FeatureStore(trained.store) as store:
        if store.made.spec != trained.made.spec:
            raise RequestError(
                f"{trained.store} must be the store that the head was trained on; it has been rebuilt with other settings. "
                "Train the head again."
            )
        every = np.flatnonzero(store.rows.views == 0)
        chosen = np.sort(np.random.default_rng(0).permutation(every)[: rows or None])
        X = trained.reading.of_store(store, chosen)
        expected = trained.probabilities(X)
        outputs = list(_predict(computed, store, chosen, spec, batch))
        found = np.stack([each[_ONLY] for each in outputs])
        bounds = np.array([ROUGH_TOLERANCE if _is_rough(store, row, spec) else TOLERANCE for row in chosen])
    differences, ahead = np.abs(found - expected).max(axis=1), np.diff(np.sort(expected)[:, -2:])[:, 0]
    same = found.argmax(axis=1) == expected.argmax(axis=1)
    parity = {
        "rows": len(chosen),
        "same_class": int(same.sum()),
        "largest_difference": float(differences.max()),
        "bound": float(bounds.max()),
        "smallest_margin": float(ahead.min()),
    }
    if trained.sets is not None:
        parity["same_set"] = _count_sets(trained.sets, expected, outputs, differences)
    if "novelty" in outputs[0]:
        parity["novelty_difference"] = _compare_novelty(trained, X, outputs, bounds)
    log.info(
        f"parity   {same.sum()} of {len(chosen)} stored images have the same class; probabilities differ by at most "
        f"{differences.max():.1e} (allowed {bounds.max():.0e})"
    )
    # Two classes whose probabilities differ by less than the rounding error may swap.
    if (differences > bounds).any() or not (same | (ahead < 2 * differences)).all():
        worst = int((differences - bounds).argmax())
        raise ParityError(
            f"the model must give the probabilities of {trained.name} within {bounds[worst]:.0e}; it differs by "
            f"{differences[worst]:.1e} on {store.rows.paths[chosen[worst]]}. Nothing was written; use {command('predict')}"
        )
    return parity


def _count_sets(
    sets: ClassSets, expected: np.ndarray, outputs: list[dict[str, np.ndarray]], differences: np.ndarray
) -> int:
    """Return how many images have the same set of classes as in the run; only rounding of a probability may change it."""
    apart = np.stack([each["set"] for each in outputs]).astype(bool) != sets.hold(expected)
    near = abs(expected - np.array(list(sets.least.values()))) <= 2 * differences[:, None]
    if (apart & ~near).any():
        raise ParityError(
            f"the model must give the same sets of classes as the run; it does not for {(apart & ~near).any(axis=1).sum()} "
            f"of {counted(len(apart), 'image')}. Nothing was written; use {command('predict')}"
        )
    return int(np.sum(~apart.any(axis=1)))


def _compare_novelty(
    trained: Trained, X: np.ndarray, outputs: list[dict[str, np.ndarray]], bounds: np.ndarray
) -> float:
    """Return by how much novelty differs from the run's; its scale is the threshold, so the bound is ten times a probability's.

    Where the threshold itself is near the rounding of a distance, as of images that are nearly equal, that is allowed, too.
    """
    assert trained.novelty is not None
    bounds = 10 * bounds + _DISTANCE / trained.novelty.threshold
    apart = np.abs(np.array([each["novelty"] for each in outputs]) - trained.unlike(X))
    if (apart > bounds).any():
        raise ParityError(
            f"the model must give the novelty of the run within {bounds.max():.0e}; it differs by {apart.max():.1e}. Nothing was "
            f"written; use {command('predict')}"
        )
    return float(apart.max())


def _predict(
    computed: Run, store: FeatureStore, rows: np.ndarray, spec: ImageSpec, size: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yield a model's outputs for the files of some rows; consecutive images of one size form batches."""
    with Progress(len(rows), "images") as progress:
        for _, images in itertools.groupby((_image(store, row, spec) for row in rows), key=np.shape):
            for batch in _batches(images, size):
                found = computed(np.stack(batch))
                yield from ({name: each[place] for name, each in found.items()} for place in range(len(batch)))
                progress.update(len(batch))


def _batches(images: Iterator[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    while batch := list(itertools.islice(images, size)):
        yield batch


def _is_rough(store: FeatureStore, row: int, spec: ImageSpec) -> bool:
    """Return whether a row's stored features are less like the model's; see ``ROUGH_TOLERANCE``."""
    reduced = spec.decode == "scaled" and is_reduced(_read(store, row), spec)
    return store.made.spec.engine.precision == "bfloat16" or reduced


def _image(store: FeatureStore, row: int, spec: ImageSpec) -> np.ndarray:
    try:
        return decode_whole(_read(store, row), spec)
    except UnreadableImage as error:
        raise RequestError(
            f"{store.rows.paths[row]} must be readable to compare the model with the run; it has {error}"
        ) from error


def _read(store: FeatureStore, row: int) -> bytes:
    file = named_file(Path(store.provenance["source"]["root"]), store.rows.paths[row])
    try:
        data = read_bytes(file)
    except UnreadableImage as error:
        raise RequestError(
            f"the store's images must be available to compare the model with the run; {file} {error}. Restore them."
        ) from error
    if hashlib.sha256(data).digest() != store.rows.sha256[row].tobytes():
        raise RequestError(f"{file} must be unchanged since the store was made; it has changed. Extract again.")
    return data
