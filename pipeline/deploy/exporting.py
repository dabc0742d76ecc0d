"""Export of a trained head and its base as one model, checked against the run before it gets its final name."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from features.backbones.base import Base
from features.backbones.onnx.packaged import PACKAGED
from features.backbones.weights import LICENCES
from features.engines.runtimes.onnxruntime_engine import import_onnxruntime
from features.errors import ParityError, RequestError, UnreadableImage, called, command, missing_extra, option
from features.extraction.recompute import prepare_again
from features.images.decoding import decode_whole, is_reduced, read_bytes
from features.options import takes
from features.runtime.atomic import written_whole
from features.runtime.keras_runtime import import_keras, quiet
from features.runtime.log import log
from features.runtime.progress import Progress
from features.sources.file_names import named_file
from features.store.reader import FeatureStore

from ..evaluation.decisions.class_sets import ClassSets
from ..options import ExportOptions
from ..runs.checksums import sums_of
from ..runs.folders import read_run
from ..runs.trained_run import Trained, load_trained
from .graphs.keras_model import build_model
from .model_card import format_card

# Largest allowed difference of a probability. Observed: 1e-5 with VGG16, 2e-4 in ONNX, whose converter removes the rounding
# to float16, and 2e-3 with the tests' base of random weights.
TOLERANCE = 5e-3
# For features computed in bfloat16, since the model computes in float32 (observed: 2e-2), and of JPEGs decoded at a reduced
# size, since the model gets them decoded in full (observed: 1e-2).
ROUGH_TOLERANCE = 5e-2
_ROWS, _BATCH = 100, 8
_COLOURS = {
    "srgb": "converted from the file's ICC profile to sRGB",
    "ignored": "as in the file, whatever its ICC profile",
}
_ONLY = "probabilities"  # the output of a model with one
_LARGE_JPEGS = {
    "full": "decoded in full, as all images",
    "scaled": "the head was trained on JPEGs of at least {0} pixels in both directions as libjpeg decodes them at a reduced size. "
    "Decoded in full they differ by a few of 255 levels; for nearly the same pixels: Pillow's image.draft(None, ({1}, {1}))",
}

Run = Callable[[np.ndarray], dict[str, np.ndarray]]  # images to outputs by name


@dataclass(frozen=True)
class ExportedModel:
    """The result of `export`.

    Attributes
    ----------
    path : Path
    format : {'keras', 'onnx', 'savedmodel'}
    class_names : list of str
        In the order of the model's probabilities.
    parity : dict
        Comparison of the model's probabilities with the run's: ``rows``, ``same_class``, ``largest_difference``, ``bound``
        and ``smallest_margin``.
    card : dict
        The contents of ``<out>.json``: the above, and the input, licence, versions and provenance.
    """

    path: Path
    format: str
    class_names: list[str]
    parity: dict[str, Any]
    card: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the card, a JSON-serialisable dict."""
        return self.card


@takes(ExportOptions)
def export(run: str | Path, out: str | Path, **options: Unpack[ExportOptions]) -> ExportedModel:
    """Write one model from uint8 RGB images of any size to probabilities; it needs only Keras or ONNX Runtime.

    Parameters
    ----------
    run : path-like
        The folder of a trained head.
    out : path-like
        ``NAME.keras``, ``NAME.onnx``, or a folder for TensorFlow's SavedModel. A description of the model is written to
        ``<out>.json``, and for people to ``<out>.md``.
    **options

    Returns
    -------
    exported : ExportedModel

    Raises
    ------
    RequestError
        If the head cannot be written as layers, `out` exists already, an extra is missing, or the store or its images are
        missing or have changed.
    UnsafeFile, WeightsError
        If the run is damaged, or its weights are missing or different.
    ParityError
        If the model's probabilities differ from the run's; no file is left.

    Examples
    --------
    >>> exported = pipeline.export("runs/photos-vgg16-logistic", "photos.onnx", rows=0)   # doctest: +SKIP
    >>> exported.parity["same_class"], exported.class_names   # doctest: +SKIP
    """
    rows = options.get("rows", _ROWS)
    path = Path(out)
    card_path = Path(f"{path}.json")
    form = {".keras": "keras", ".onnx": "onnx"}.get(path.suffix, "savedmodel")
    _check_request(path, card_path, form, rows, options.get("overwrite", False))
    trained = load_trained(run, options.get("joblib", False))
    base = prepare_again(trained.made, options.get("weights")).base
    model, parameters = _build(base, trained, form)
    log.info(f"model    {trained.name} on {trained.made.spec.backbone}: {parameters:,} parameters")
    told_path = Path(f"{path}.md")
    with (
        written_whole(card_path) as unfinished_card,
        written_whole(told_path) as unfinished_text,
        written_whole(path, replace=True) as unfinished,
    ):
        _write(model, unfinished, form)
        parity = _compare(unfinished, form, trained, rows, 1 if _takes_one(base) else _BATCH)
        held = {"model": str(path), "format": form, "sha256": sums_of(unfinished)}
        card = {**held, **_describe(trained, base), "parity": parity}
        unfinished_card.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        unfinished_text.write_text(format_card(card, read_run(run)), encoding="utf-8")
        for each in (card_path, told_path):
            # A process killed from here on leaves a model without a card, never with another's.
            each.unlink(missing_ok=True)
    log.info(f"licence  of the weights: {card['weights_licence']}")
    return ExportedModel(path, form, card["class_names"], parity, card)


def _build(base: Base, trained: Trained, form: str) -> tuple[Any, int]:
    """Return the model, of the base's library, and the number of its parameters."""
    if base.library != "onnx":
        model = build_model(base, trained)
        return model, model.count_params()
    if form != "onnx":
        raise RequestError(
            f"{called('out')} must end in .onnx for {trained.made.spec.backbone}, which is an ONNX model; got another format. Rename it."
        )
    from .graphs.onnx_model import build_onnx, count_values

    made = build_onnx(base, trained)
    return made, count_values(made)


def _takes_one(base: Base) -> bool:
    return base.library == "onnx" and base.identity is not None and base.identity["batch"] == 1


def _describe(trained: Trained, base: Base) -> dict[str, Any]:
    """Return the description of the model for its users."""
    made = trained.made
    licences = LICENCES | {name: each.licence for name, each in PACKAGED.items()}
    licence = licences.get(made.spec.backbone) if made.weights == "imagenet" else None
    least = made.spec.image_spec.least
    return {
        "class_names": list(trained.class_names),
        "input": f"images: uint8, ({'1' if _takes_one(base) else 'n'}, height, width, 3), RGB, upright; any size, one size per batch",
        "pixels": f"colours: {_COLOURS[made.spec.colour]}; behind transparent pixels: {made.spec.background}; "
        f"values of more than 8 bits: {made.spec.range}",
        "large_jpegs": _LARGE_JPEGS[made.spec.decode].format(4 * least, 2 * least),
        "output": "probabilities: float32, (n, classes), in the order of class_names"
        + ("" if trained.sets is None else "; set: bool, (n, classes), which classes the set of an image holds"),
        "sets": trained.sets and trained.sets.to_json(),
        "operating_point": trained.point and trained.point.to_json(),
        "decision": str(trained.point or "the class with the highest probability"),
        "head": trained.name,
        "settings": trained.settings,
        "reading": trained.reading.to_json(),
        "weights_licence": licence or "unknown: ask the author of the weights",
        "versions": {name: version(name) for name in ("keras", "tensorflow", "numpy", "pillow")},
        "provenance": made.to_json(),
    }


def _check_request(path: Path, card: Path, form: str, rows: int, overwrite: bool) -> None:
    if rows < 0:
        raise RequestError(f"{called('rows')} must be at least 0; got {rows}. Leave it out for {_ROWS}.")
    if form == "savedmodel" and path.suffix:
        raise RequestError(
            f"{called('out')} must end in .keras or .onnx, or be a folder's name without an extension; got {path}. Rename it."
        )
    there = next((each for each in (path, card, Path(f"{path}.md")) if each.exists()), None)
    if there is not None and not overwrite:
        raise RequestError(
            f"{called('out')} must be a new name; {there} exists. Choose another, or replace it: {option('overwrite', True)}"
        )
    is_model = (path / "saved_model.pb").exists() if form == "savedmodel" else path.is_file()
    if path.exists() and not is_model:
        raise RequestError(
            f"{path} must be an earlier model to be replaced; it is something else. Choose another {called('out')}"
        )
    if form == "onnx":
        for package in ("tf2onnx", "onnxruntime"):
            if importlib.util.find_spec(package) is None:
                raise missing_extra(package, "export", "writing ONNX")


def _write(model: Any, path: Path, form: str) -> None:
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")  # tf2onnx's warnings about NumPy
        if not hasattr(model, "save"):  # an onnx.ModelProto
            path.write_bytes(model.SerializeToString())
        elif form == "keras":
            model.save(path)
        else:
            model(np.zeros((1, 32, 32, 3), np.uint8))  # Keras exports only a model that has been called
            if form == "onnx":
                _write_onnx(model, path)
            else:
                model.export(path, format="tf_saved_model", verbose=False)


def _write_onnx(model: Any, path: Path) -> None:
    """Write a model as ONNX.

    Keras' export makes an input of each constant of a graph, such as the mean that a Normalization subtracts; a graph that has
    some is frozen first, which turns them, and the weights, into values.
    """
    import tensorflow as tf

    signature = tf.TensorSpec(model.inputs[0].shape, tf.uint8, name="images")
    function = tf.function(lambda images: model(images, training=False)).get_concrete_function(signature)
    if all(value.dtype == tf.resource for value, _ in function.graph.captures):
        model.export(path, format="onnx", verbose=False)
        return
    import tf2onnx
    from keras.src.export.onnx import patch_tf2onnx  # what Keras' own export does before it
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    frozen = convert_variables_to_constants_v2(function)
    patch_tf2onnx()
    tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(), input_names=[frozen.inputs[0].name], output_names=[frozen.outputs[0].name],
        output_path=str(path),
    )  # fmt: skip


def _open(path: Path, form: str) -> Run:
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


def _compare(path: Path, form: str, trained: Trained, rows: int, batch: int) -> dict[str, Any]:
    """Compare the written model on the store's image files with the head on their stored features."""
    computed = _open(path, form)
    with FeatureStore(trained.store) as store:
        if store.made.spec != trained.made.spec:
            raise RequestError(
                f"{trained.store} must be the store that the head was trained on; it has been rebuilt with other settings. "
                "Train the head again."
            )
        images = np.flatnonzero(store.rows.views == 0)
        chosen = np.sort(np.random.default_rng(0).permutation(images)[: rows or None])
        expected = trained.probabilities(trained.reading.of_store(store, chosen))
        outputs = list(_predict(computed, store, chosen, batch))
        found = np.stack([each[_ONLY] for each in outputs])
        bounds = np.array([ROUGH_TOLERANCE if _is_rough(store, row) else TOLERANCE for row in chosen])
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
            f"of {len(apart)} images. Nothing was written; use {command('predict')}"
        )
    return int(np.sum(~apart.any(axis=1)))


def _predict(computed: Run, store: FeatureStore, rows: np.ndarray, size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield a model's outputs for the files of some rows; consecutive images of one size form batches."""
    with Progress(len(rows), "images") as progress:
        for _, images in itertools.groupby((_image(store, row) for row in rows), key=np.shape):
            for batch in _batches(images, size):
                found = computed(np.stack(batch))
                yield from ({name: each[place] for name, each in found.items()} for place in range(len(batch)))
                progress.update(len(batch))


def _batches(images: Iterator[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    while batch := list(itertools.islice(images, size)):
        yield batch


def _is_rough(store: FeatureStore, row: int) -> bool:
    """Return whether a row's stored features are less like the model's; see ``ROUGH_TOLERANCE``."""
    spec = store.made.spec
    reduced = spec.decode == "scaled" and is_reduced(_read(store, row), spec.image_spec)
    return spec.engine.precision == "bfloat16" or reduced


def _image(store: FeatureStore, row: int) -> np.ndarray:
    return decode_whole(_read(store, row), store.made.spec.image_spec)


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
