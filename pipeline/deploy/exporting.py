"""Export of a trained head and its base as one model, checked against the run before it gets its final name."""

from __future__ import annotations

import importlib.util
import json
import warnings
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from features.backbones.base import Base
from features.backbones.onnx.packaged import PACKAGED
from features.backbones.weights import LICENCES
from features.errors import RequestError, called, missing_extra, option
from features.extraction.recompute import prepare_again
from features.images.bounds import MAX_PIXELS
from features.options import takes
from features.runtime.atomic import written_whole
from features.runtime.keras_runtime import quiet
from features.runtime.log import log

from ..options import ExportOptions
from ..runs.checksums import sums_of
from ..runs.folders import read_run
from ..runs.trained_run import Trained, load_trained
from .graphs.keras_model import build_model
from .graphs.novelty_layers import check_novelty
from .model_card import format_card
from .parity import BATCH, compare

_ROWS = 100
_COLOURS = {
    "srgb": "converted from the file's ICC profile to sRGB",
    "ignored": "as in the file, whatever its ICC profile",
}
_LARGE_JPEGS = {
    "full": "decoded in full, as all images",
    "scaled": "the head was trained on JPEGs of at least {0} pixels in both directions as libjpeg decodes them at a reduced size. "
    "Decoded in full they differ by a few of 255 levels; for nearly the same pixels: Pillow's image.draft(None, ({1}, {1}))",
}


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
        Comparison of the model's outputs with the run's: ``rows``, ``same_class``, ``largest_difference``, ``bound`` and
        ``smallest_margin``; of models with these outputs, ``same_set`` and ``novelty_difference``.
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
    images = replace(trained.made.spec.image_spec, max_pixels=options.get("max_pixels", MAX_PIXELS))
    images.check()
    with_novelty = options.get("novelty", False)
    if with_novelty:
        check_novelty(trained)
    base = prepare_again(trained.made, options.get("weights")).base
    model, parameters = _build(base, trained, form, with_novelty)
    log.info(f"model    {trained.name} on {trained.made.spec.backbone}: {parameters:,} parameters")
    told_path = Path(f"{path}.md")
    with (
        written_whole(card_path) as unfinished_card,
        written_whole(told_path) as unfinished_text,
        written_whole(path, replace=True) as unfinished,
    ):
        log.info(f"writing  {path}, and reading it again to compare it with the run")
        _write(model, unfinished, form)
        parity = compare(unfinished, form, trained, images, rows, 1 if _takes_one(base) else BATCH)
        held = {"model": str(path), "format": form, "sha256": sums_of(unfinished)}
        card = {**held, **_describe(trained, base, with_novelty), "parity": parity}
        unfinished_card.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        unfinished_text.write_text(format_card(card, read_run(run)), encoding="utf-8")
        for each in (card_path, told_path):
            # A process killed from here on leaves a model without a card, never with another's.
            each.unlink(missing_ok=True)
    log.info(f"licence  of the weights: {card['weights_licence']}")
    return ExportedModel(path, form, card["class_names"], parity, card)


def _build(base: Base, trained: Trained, form: str, with_novelty: bool) -> tuple[Any, int]:
    """Return the model, of the base's library, and the number of its parameters."""
    if not base.is_onnx:
        model = build_model(base, trained, with_novelty)
        return model, model.count_params()
    if form != "onnx":
        raise RequestError(
            f"{called('out')} must end in .onnx for {trained.made.spec.backbone}, which is an ONNX model; got the format {form}. "
            f"Rename it: {option('out', 'MODEL.onnx')}"
        )
    from .graphs.onnx_model import build_onnx, count_values

    made = build_onnx(base, trained, with_novelty)
    return made, count_values(made)


def _takes_one(base: Base) -> bool:
    return base.is_onnx and base.identity is not None and base.identity["batch"] == 1


def _describe(trained: Trained, base: Base, with_novelty: bool) -> dict[str, Any]:
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
        + ("" if trained.sets is None else "; set: bool, (n, classes), which classes the set of an image holds")
        + ("; novelty: float32, (n,), above 1: unlike all training images" if with_novelty else ""),
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
    is_model = (path / "saved_model.pb").exists() if form == "savedmodel" else path.is_file()
    if path.exists() and not is_model:
        raise RequestError(f"{called('out')} must be a new name; {path} exists and is no model. Choose another.")
    there = next((each for each in (path, card, Path(f"{path}.md")) if each.exists()), None)
    if there is not None and not overwrite:
        raise RequestError(
            f"{called('out')} must be a new name; {there} exists. Choose another, or replace it: {option('overwrite', True)}"
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
    if form == "onnx":
        _name_tensors(path)


def _name_tensors(path: Path) -> None:
    """Name an only output of an ONNX model, and its free dimensions, which converters number."""
    import onnx

    from .graphs.onnx_model import renamed

    model = onnx.load(path)
    if len(model.graph.output) == 1:
        model = renamed(model, [model.graph.output[0].name], ["probabilities"])
    named = [(model.graph.input, ("n", "height", "width")), (model.graph.output, ("n",))]
    for each, names in ((value, names) for values, names in named for value in values):
        for name, dimension in zip(names, each.type.tensor_type.shape.dim, strict=False):
            if not dimension.HasField("dim_value"):
                dimension.dim_param = name
    onnx.save(model, path)


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

    from .graphs.onnx_model import renamed

    frozen = convert_variables_to_constants_v2(function)
    patch_tf2onnx()
    outputs = [each.name for each in frozen.outputs]
    proto, _ = tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(), input_names=[frozen.inputs[0].name], output_names=outputs
    )
    if isinstance(function.structured_outputs, dict):
        names = sorted(function.structured_outputs)  # in which TensorFlow flattens them
        proto = renamed(proto, outputs, names)
    path.write_bytes(proto.SerializeToString())
