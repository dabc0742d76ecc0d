"""One ONNX model of a base that is an ONNX model, and a head: from uint8 RGB images of any size to probabilities."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.backbones.base import Base
from features.engines.frozen_graph import Frozen
from features.engines.runtimes.onnx_graph import IMAGES, Joined, join_graph
from features.errors import RequestError, option
from features.runtime.keras_runtime import import_keras, quiet
from features.store.provenance import FeatureSpec

from ...runs.trained_run import Trained
from .head_layers import apply_head
from .keras_model import check_views, pooled_as_stored, view_of
from .novelty_layers import apply_novelty
from .pillow_resize import resize_as_pillow

if TYPE_CHECKING:
    import keras
    import onnx

_OUTPUTS = ("probabilities", "novelty")  # of the head's part
_OLDEST, _NEWEST = 13, 18  # opsets that tf2onnx writes


def build_onnx(base: Base, trained: Trained, with_novelty: bool = False) -> onnx.ModelProto:
    """Join the resizing of images, a base and a head into one graph; see `build_model`.

    Parameters
    ----------
    base : Base
        An ONNX model that takes any number of images, or one at a time; then the whole takes one at a time.
    trained : Trained
    with_novelty : bool
        See `check_novelty`.

    Returns
    -------
    model : onnx.ModelProto
        Maps ``images``, (n, height, width, 3), uint8, to probabilities, (n, n_classes), float32; if the run has sets of classes, also to
        ``set``, (n, n_classes), bool, and with novelty to ``novelty``, (n,), float32.

    Raises
    ------
    RequestError
        If the head or the views cannot be computed by layers, or the base takes several images at a time.
    """
    import onnx

    spec, reading = trained.made.spec, trained.reading
    check_views(trained)
    batch = _batch(base)
    if (batch or 1) > 1 or (batch == 1 and reading.views > 1):
        raise RequestError(
            f"a base must take any number of images to be part of an exported model; {spec.backbone} takes {batch} at a time. Export "
            f"it from its library with a free batch, or train the head on the images themselves: {option('views', 1)}"
        )
    joined = join_graph(Frozen(base, spec.image_size, 1, spec.pool), batch, flat=False)
    proto = onnx.ModelProto.FromString(joined.graph)
    opset = max(_OLDEST, next(each.version for each in proto.opset_import if each.domain in ("", "ai.onnx")))
    before = _as_onnx(_pixel_model(spec, reading.views), opset)
    after = _as_onnx(_head_model(base, trained, with_novelty), opset)
    return _merge(before, _at_opset(proto, opset), after, joined, trained)


def _batch(base: Base) -> int | None:
    assert base.identity is not None
    batch: int | None = base.identity["batch"]
    return batch


def count_values(model: onnx.ModelProto) -> int:
    """Return the number of a model's parameters."""
    return sum(math.prod(each.dims) for each in model.graph.initializer)


def _pixel_model(spec: FeatureSpec, views: int) -> keras.Model:
    """Return a model from images of any size to the base's input, the views one after the other, uint8."""
    keras = import_keras()
    images = keras.Input((None, None, 3), dtype="uint8", name="images")
    resized = resize_as_pillow(images, spec.image_size, spec.resize, spec.fit)
    parts = [view_of(resized, view) for view in range(views)]
    whole = keras.layers.Concatenate(axis=0)(parts) if views > 1 else parts[0]
    return keras.Model(images, keras.ops.cast(whole, "uint8"), name="pixels")


def _head_model(base: Base, trained: Trained, with_novelty: bool) -> keras.Model:
    """Return a model from layers' features, as the base gives them, to probabilities, and novelty."""
    keras = import_keras()
    spec, reading, ops = trained.made.spec, trained.reading, import_keras().ops
    shapes = Frozen(base, spec.image_size, 1, spec.pool).layers
    inputs = [keras.Input(shape, name=f"features{number}") for number, shape in enumerate(shapes.values())]
    of_layer = dict(zip(shapes, inputs, strict=True))
    parts = [pooled_as_stored(of_layer[layer], pool, spec) for layer, pool in reading.layers]
    features = keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]

    def mean(each: Any) -> Any:
        return ops.mean(ops.reshape(each, (reading.views, -1, each.shape[-1])), axis=0)

    if reading.views > 1 and reading.views_as == "mean":
        features = mean(features)
    several = reading.views > 1 and reading.views_as != "mean"
    chances = apply_head(trained.head, features, len(trained.class_names), trained.name)
    outputs = [keras.layers.Identity(name="probabilities")(mean(chances) if several else chances)]
    if with_novelty and trained.novelty is not None:
        outputs.append(apply_novelty(trained.novelty, mean(features) if several else features))
    return keras.Model(inputs, outputs if len(outputs) > 1 else outputs[0], name="head")


def _as_onnx(model: keras.Model, opset: int) -> onnx.ModelProto:
    import numpy as np
    import onnx

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")  # tf2onnx's warnings about NumPy
        zeros = [np.zeros((2, *(each or 8 for each in given.shape[1:])), given.dtype) for given in model.inputs]
        model(zeros if len(zeros) > 1 else zeros[0])  # Keras exports only a model that has been called
        path = Path(folder) / "part.onnx"
        model.export(path, format="onnx", verbose=False, opset_version=min(opset, _NEWEST))
        return _at_opset(onnx.load(path), opset)


def _at_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    import onnx

    own = {each.domain: each.version for each in model.opset_import}
    held = own.get("", own.get("ai.onnx", 0))
    return model if held == opset else onnx.version_converter.convert_version(model, opset)


def _merge(
    before: onnx.ModelProto, base: onnx.ModelProto, after: onnx.ModelProto, joined: Joined, trained: Trained
) -> onnx.ModelProto:
    """Return three models as one."""
    from onnx import compose, helper

    for each, prefix in ((before, "pixels/"), (base, "base/"), (after, "head/")):
        compose.add_prefix(each, prefix, inplace=True)
    for each in (before, base, after):
        each.ir_version = max(model.ir_version for model in (before, base, after))
        used = [every for every in each.opset_import if every.domain in ("", "ai.onnx")]
        del each.opset_import[:]
        each.opset_import.extend([helper.make_opsetid("", used[0].version)])
        del each.metadata_props[:]
    pixels = renamed(before, [before.graph.input[0].name], ["images"])
    whole = compose.merge_models(pixels, base, io_map=[(pixels.graph.output[0].name, f"base/{IMAGES}")])
    # The head's inputs are named by their places among the base's layers, and some may not be read.
    wanted = {f"head/features{number}": f"base/{name}" for number, name in enumerate(joined.outputs)}
    pairs = [(wanted[each.name], each.name) for each in after.graph.input if each.name in wanted]
    names = [each.name for each in after.graph.output]
    whole = renamed(compose.merge_models(whole, after, io_map=pairs, outputs=names), names, _OUTPUTS[: len(names)])
    if trained.sets is not None:
        _add_sets(whole, trained.sets.least.values())
    return whole


def _add_sets(model: onnx.ModelProto, least: Iterable[float]) -> None:
    """Add an output that tells which classes have at least their least probability; see `ClassSets`."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    bounds = np.array([list(least)], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(bounds, "set/least"))
    model.graph.node.append(helper.make_node("GreaterOrEqual", ["probabilities", "set/least"], ["set"]))
    model.graph.output.append(helper.make_tensor_value_info("set", TensorProto.BOOL, ["n", bounds.shape[1]]))


def renamed(model: onnx.ModelProto, old: Sequence[str], new: Sequence[str]) -> onnx.ModelProto:
    """Rename tensors of a model in place, and return it."""
    names = dict(zip(old, new, strict=True))
    for node in model.graph.node:
        node.input[:] = [names.get(each, each) for each in node.input]
        node.output[:] = [names.get(each, each) for each in node.output]
    for each in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        each.name = names.get(each.name, each.name)
    return model
