"""Preprocessing, an ONNX model and pooling as one ONNX graph, from bytes of images to flat features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...backbones.onnx.onnx_base import OnnxModel
from ...backbones.onnx.tensors import fix_input
from ...errors import EngineError
from ...pooling import pools_of, tokens_before
from ..frozen_graph import Frozen

if TYPE_CHECKING:
    import onnx

IMAGES = "cached-features/images"
_AXES_ARE_INPUTS = 18  # opset from which Reduce* take their axes as an input
_OLDEST = 7  # opset from which Mul and Add broadcast as NumPy does


@dataclass(frozen=True)
class Joined:
    """An ONNX model of preprocessing, base and pooling.

    Attributes
    ----------
    graph : bytes
        Serialised; its input is ``IMAGES``, (piece, side, side, 3), uint8.
    outputs : tuple of str
        Name of each layer's output, flat, float32.
    """

    graph: bytes
    outputs: tuple[str, ...]


def piece_of(frozen: Frozen, on_cpu: bool = True) -> int:
    """Return how many images an engine computes at once: as many as an ONNX model fixes, else one per core or a GPU's batch."""
    if not frozen.base.is_onnx or frozen.base.identity is None:
        return 1
    return int(frozen.base.identity["batch"] or (1 if on_cpu else frozen.batch_size))


def join_graph(frozen: Frozen, piece: int | None = 1, flat: bool = True) -> Joined:
    """Return the graph of a base that is an ONNX model.

    Parameters
    ----------
    frozen : Frozen
    piece : int, optional
        Images that the graph takes at once; see `piece_of`. None leaves it free.
    flat : bool
        Whether outputs are flattened, as engines want them, or keep their shapes, channels last.

    Raises
    ------
    EngineError
        If the model's operators are too old to add others to it.
    """
    model: OnnxModel = frozen.base.build()  # a new one, since nodes are added to it
    fix_input(model.proto, model.input, piece, model.side)
    opset = max(each.version for each in model.proto.opset_import if each.domain in ("", "ai.onnx"))
    if opset < _OLDEST:
        raise EngineError(
            f"an ONNX model must use opset {_OLDEST} or later; it uses {opset}. Convert it: onnx.version_converter"
        )
    proto = model.proto
    writer = _Writer(proto.graph, opset)
    nodes = list(proto.graph.node)
    before = _prepare(writer, model)
    after_from = len(writer.nodes)
    outputs = [_output(writer, model, layer, frozen.pool, flat) for layer in frozen.base.layers]
    shapes = [(None,) if flat else (None, *shape) for shape in frozen.layers.values()]
    del proto.graph.node[:]
    proto.graph.node.extend([*writer.nodes[:before], *nodes, *writer.nodes[after_from:]])
    _set_ends(proto, model, piece, dict(zip(outputs, shapes, strict=True)))
    return Joined(proto.SerializeToString(deterministic=True), tuple(outputs))


class _Writer:
    """Adds nodes and constants, under names that no model has, to a graph."""

    def __init__(self, graph: onnx.GraphProto, opset: int):
        self.graph, self.opset = graph, opset
        self.nodes: list[onnx.NodeProto] = []

    def add(self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Add a node, and return its output's name."""
        import onnx

        output = output or f"cached-features/{len(self.nodes)}-{kind}"
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, values: np.ndarray) -> str:
        """Add a constant, and return its name."""
        import onnx

        name = f"cached-features/constant-{len(self.graph.initializer)}"
        self.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name

    def reduce(self, kind: str, tensor: str, axes: Sequence[int]) -> str:
        """Reduce a tensor over axes, which are not kept."""
        if self.opset >= _AXES_ARE_INPUTS:
            return self.add(kind, [tensor, self.constant(np.array(axes, np.int64))], keepdims=0)
        return self.add(kind, [tensor], axes=list(axes), keepdims=0)


def _prepare(writer: _Writer, model: OnnxModel) -> int:
    """Add the preprocessing, which ends in the model's own input; return the number of its nodes."""
    float32 = 1
    pixels = writer.add("Cast", [IMAGES], to=float32)
    if model.normalisation.channels == "bgr":
        pixels = writer.add("Gather", [pixels, writer.constant(np.array([2, 1, 0], np.int64))], axis=3)
    factor, summand = (each.astype(np.float32) for each in model.normalisation.affine)
    if (factor != 1).any():
        pixels = writer.add("Mul", [pixels, writer.constant(factor)])
    if summand.any():
        pixels = writer.add("Add", [pixels, writer.constant(summand)])
    if not model.input.channels_last:
        pixels = writer.add("Transpose", [pixels], perm=[0, 3, 1, 2])
    writer.add("Cast", [pixels], model.input.name, to=model.input.dtype)
    return len(writer.nodes)


def _output(writer: _Writer, model: OnnxModel, layer: str, pool: str, flat: bool) -> str:
    """Add what makes a layer's features of its tensor: channels last, pooled, flat; return the output's name."""
    tensor = model.tensors[layer]
    values = writer.add("Cast", [tensor.name], to=1)
    if tensor.kind == "map" and not tensor.channels_last:
        values = writer.add("Transpose", [values], perm=[0, 2, 3, 1])
    if pool != "none" and tensor.kind != "vector":
        values = _pooled(writer, values, tensor.shape, pool)
    name = f"cached-features/features-{layer}"
    if flat:
        return writer.add("Reshape", [values, writer.constant(np.array([-1], np.int64))], name)
    return writer.add("Identity", [values], name)


def _pooled(writer: _Writer, values: str, shape: Sequence[int], pool: str) -> str:
    """Add the pooling of a map or tokens, of this shape for one image, as `pool_maps` does it."""
    before = tokens_before(shape[0]) if len(shape) == 2 else 0
    seen = values
    if before:
        patches = writer.constant(np.arange(before, shape[0], dtype=np.int64))
        seen = writer.add("Gather", [values, patches], axis=1)
    axes, kinds, each = list(range(1, len(shape))), {"avg": "ReduceMean", "max": "ReduceMax"}, []
    for name in pools_of(pool):
        if name == "cls":
            each.append(writer.add("Gather", [values, writer.constant(np.array(0, np.int64))], axis=1))
        else:
            each.append(writer.reduce(kinds[name], seen, axes))
    return writer.add("Concat", each, axis=1) if len(each) > 1 else each[0]


def _set_ends(proto: onnx.ModelProto, model: OnnxModel, piece: int | None, outputs: Mapping[str, Any]) -> None:
    import onnx

    graph = proto.graph
    kept = [each for each in graph.input if each.name != model.input.name]
    del graph.input[:], graph.output[:], graph.value_info[:]
    shape = ("n" if piece is None else piece, model.side, model.side, 3)
    graph.input.extend([onnx.helper.make_tensor_value_info(IMAGES, onnx.TensorProto.UINT8, shape), *kept])
    graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in outputs.items()
    )
