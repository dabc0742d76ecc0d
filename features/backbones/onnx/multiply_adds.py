"""Multiply-adds of an ONNX model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .onnx_base import OnnxModel
from .tensors import fix_input, infer_shapes

if TYPE_CHECKING:
    import onnx

Shapes = Mapping[str, tuple[int, tuple[int, ...]]]
# Operators with products whose number is not known here: quantised, recurrent, fused, and those that hold graphs.
_UNKNOWN = (
    "Attention", "ConvInteger", "DeformConv", "Einsum", "GRU", "If", "LSTM", "Loop", "MatMulInteger", "QLinearConv",
    "QLinearMatMul", "RNN", "Scan",
)  # fmt: skip


def count_in_onnx(model: OnnxModel) -> int | None:
    """Return the multiply-adds of what a model computes of one image, up to its layers; None if they cannot be told."""
    proto, batch = model.proto, model.input.batch or 1
    fix_input(proto, model.input, batch, model.side)
    shapes = infer_shapes(proto, "backbone")
    needed = {each.name for each in model.tensors.values()}
    total = 0
    for node in reversed(proto.graph.node):
        if needed.isdisjoint(node.output):
            continue
        needed.update(node.input)
        if node.op_type in _UNKNOWN or node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type in _COUNTS:
            if not all(name in shapes for name in (*node.input[:2], node.output[0])):
                return None
            total += _COUNTS[node.op_type](node, shapes)
    return total // batch


def _convolution(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Each place of the output takes a kernel; of a transposed convolution, each place of the input gives one."""
    places = node.input[0] if node.op_type == "ConvTranspose" else node.output[0]
    return math.prod(shapes[places][1]) * math.prod(shapes[node.input[1]][1][1:])


def _product(node: onnx.NodeProto, shapes: Shapes) -> int:
    transposed = any(each.name == "transA" and each.i for each in node.attribute)  # of Gemm
    return math.prod(shapes[node.output[0]][1]) * shapes[node.input[0]][1][-2 if transposed else -1]


_COUNTS = {"Conv": _convolution, "ConvTranspose": _convolution, "Gemm": _product, "MatMul": _product}
