"""The tensors of an ONNX model that can be layers: their shapes for one image, kinds and layouts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import RequestError, UnsafeFile, called
from ...pooling import kind_of

if TYPE_CHECKING:
    import onnx

MAX_VALUES = 1 << 27  # of one tensor, for a batch of the model's own size: half a gigabyte
_SMALL = 1 << 10  # values of an initializer that may be a shape
_FLOATS = (1, 10)  # float32 and float16 in onnx.TensorProto
_PIXELS = (1, 10, 2, 11)  # what an input may be: these, uint8 and float64
# Operators whose rank-4 operands and results are (n, channels, h, w) by definition.
_CHANNELS_FIRST = (
    "Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "GlobalLpPool",
    "BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN", "DepthToSpace", "SpaceToDepth",
)  # fmt: skip
# Operators after which axes mean something else.
_OTHER_AXES = ("Reshape", "MatMul", "Gemm", "Einsum", "Squeeze", "Unsqueeze", "Flatten", "Expand", "Split", "Gather")
_LAST = (0, 2, 3, 1)  # from (n, c, h, w) to (n, h, w, c)
_FIRST = (0, 3, 1, 2)


@dataclass(frozen=True)
class Input:
    """A model's only input.

    Attributes
    ----------
    name : str
    dtype : int
        As ``onnx.TensorProto`` numbers it.
    channels_last : bool
    batch, side : int, optional
        What the model fixes; None where it is free.
    """

    name: str
    dtype: int
    channels_last: bool
    batch: int | None
    side: int | None


@dataclass(frozen=True)
class Tensor:
    """A tensor that can be a layer.

    Attributes
    ----------
    name : str
        In the model.
    shape : tuple of int
        For one image, channels last.
    kind : str
        A member of ``KINDS``.
    channels_last : bool
        Whether the model has it so.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    channels_last: bool


def find_input(model: onnx.ModelProto, where: str) -> Input:
    """Return a model's input; `where` is its file, for messages.

    Raises
    ------
    RequestError
        If it does not take one batch of square RGB images.
    """
    values = {each.name for each in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in values]
    told = ", ".join(f"{each.name[:40]} {_told_shape(each)}" for each in inputs) or "none"
    if len(inputs) == 1:
        kind = inputs[0].type.tensor_type
        shape = [each.dim_value if each.HasField("dim_value") else None for each in kind.shape.dim]
        for last, place in ((False, 1), (True, 3)):
            if len(shape) == 4 and shape[place] == 3 and kind.elem_type in _PIXELS:
                height, width = shape[1:3] if last else shape[2:4]
                if height == width and height != 0 and shape[0] != 0:
                    return Input(inputs[0].name, kind.elem_type, last, shape[0], height)
    raise RequestError(
        f"backbone {where} must take RGB images alone, (n, 3, side, side) or (n, side, side, 3), of floats or bytes; it takes {told}. "
        "Export it with one such input."
    )


def _told_shape(value: Any) -> str:
    return "x".join(str(each.dim_value or each.dim_param or "?")[:20] for each in value.type.tensor_type.shape.dim)


def fix_input(model: onnx.ModelProto, given: Input, batch: int | None, side: int) -> None:
    """Set the batch, unless it is None, and the side that a model leaves free, and forget the shapes of its tensors."""
    shape = next(each for each in model.graph.input if each.name == given.name).type.tensor_type.shape.dim
    places = (0, 1, 2) if given.channels_last else (0, 2, 3)
    for place, size in zip(places, (batch, side, side), strict=True):
        if size is not None:
            shape[place].Clear()
            shape[place].dim_value = size
    del model.graph.value_info[:]
    for each in model.graph.output:
        each.type.tensor_type.ClearField("shape")


def find_tensors(model: onnx.ModelProto, given: Input, where: str) -> dict[str, Tensor]:
    """Return layer → tensor, in the order in which the model, with `fix_input`, computes them.

    Raises
    ------
    UnsafeFile
        If shapes contradict each other, or a tensor would take too much memory.
    RequestError
        If no tensor can be a layer.
    """
    shapes = infer_shapes(model, where)
    layouts = _find_layouts(model, given, shapes)
    batch = shapes[given.name][1][0]
    found: dict[str, Tensor] = {}
    for node in model.graph.node:
        for name in node.output:
            dtype, shape = shapes.get(name, (0, ()))
            layout = layouts.get(name)
            if node.op_type == "Constant" or dtype not in _FLOATS or not 2 <= len(shape) <= 4 or shape[0] != batch:
                continue
            if len(shape) == 4 and layout is None:
                continue
            one = (
                tuple(shape[place] for place in _LAST[1:])
                if len(shape) == 4 and layout == "first"
                else tuple(shape[1:])
            )
            found[_free_name(name, found)] = Tensor(name, one, kind_of(one), layout != "first")
    if not found:
        raise RequestError(
            f"backbone {where} must compute a map, tokens or a vector; it has none of a known shape. Name another."
        )
    return found


def default_layer(tensors: Mapping[str, Tensor]) -> str:
    """Return the last map of more than one cell, or the last tokens if they come later; else the last vector."""
    wide = [
        name for name, each in tensors.items() if each.kind == "tokens" or (each.kind == "map" and each.shape[0] > 1)
    ]
    return wide[-1] if wide else list(tensors)[-1]


def _free_name(name: str, taken: Mapping[str, Tensor]) -> str:
    """Return a layer's name, which HDF5 and the command line can have: without ``/`` and ``,``."""
    plain = re.sub(r"[^\w.:+-]", ".", name).strip(".")[:100] or "layer"
    plain = f"_{plain}" if re.fullmatch(r"-?\d+", plain) else plain  # else it would be an index
    number, free = 1, plain
    while free in taken:
        number, free = number + 1, f"{plain}_{number}"
    return free


def infer_shapes(model: onnx.ModelProto, where: str) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Return tensor → type and shape, of those whose shape is known."""
    import onnx

    skeleton = _without_values(model)
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1][:160]
        raise UnsafeFile(f"{where} must have shapes that fit each other; {reason}. Export the model again.") from error
    found = {}
    for each in [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]:
        kind = each.type.tensor_type
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
        values = math.prod(abs(size) for size in shape)
        if values > MAX_VALUES:
            raise UnsafeFile(
                f"{where} must compute tensors of at most {MAX_VALUES:,} values; {each.name!r:.60} would have {values:,}. "
                f"Take smaller images ({called('image_size')}), or another model."
            )
        if kind.HasField("shape") and min(shape, default=1) > 0:
            found[each.name] = kind.elem_type, shape
    return found


def _without_values(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose large initializers are inputs, since shapes follow from their shapes alone."""
    import onnx

    skeleton = onnx.ModelProto()
    skeleton.ir_version = model.ir_version
    skeleton.opset_import.extend(model.opset_import)
    graph = skeleton.graph
    graph.name = "skeleton"
    graph.node.extend(model.graph.node)
    values = {each.name for each in model.graph.initializer}
    graph.input.extend(each for each in model.graph.input if each.name not in values)
    graph.output.extend(model.graph.output)
    for each in model.graph.initializer:
        if math.prod(each.dims) <= _SMALL:
            graph.initializer.append(each)
        graph.input.append(onnx.helper.make_tensor_value_info(each.name, each.data_type, each.dims))
    return skeleton


def _find_layouts(model: onnx.ModelProto, given: Input, shapes: Mapping[str, Any]) -> dict[str, str]:
    """Return ``first`` or ``last`` for each rank-4 tensor, by where its channels are; those that cannot be told are left out."""
    layouts = {given.name: "last" if given.channels_last else "first"}
    for node in model.graph.node:
        known = [layouts[name] for name in node.input if name in layouts]
        for name in node.output:
            shape = shapes.get(name, (0, ()))[1]
            if len(shape) != 4:
                continue
            if node.op_type in _CHANNELS_FIRST:
                layouts[name] = "first"
            elif node.op_type == "Transpose":
                layout = _transposed(node, known)
                if layout is not None:
                    layouts[name] = layout
            elif known and node.op_type not in _OTHER_AXES:
                layouts[name] = known[0]
            elif node.op_type in _OTHER_AXES:  # maps of square images are square
                square = [shape[2] == shape[3], shape[1] == shape[2]]
                if square[0] != square[1]:
                    layouts[name] = "first" if square[0] else "last"
    return layouts


def _transposed(node: Any, known: list[str]) -> str | None:
    permutation = next((tuple(each.ints) for each in node.attribute if each.name == "perm"), ())
    if known and (known[0], permutation) in (("first", _LAST), ("last", _FIRST)):
        return "last" if known[0] == "first" else "first"
    return None
