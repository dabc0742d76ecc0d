"""A small writer of ONNX graphs for convolutional networks whose weights are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...safefiles.onnx_files import import_onnx
from .description import SIDE_KEY

_OPSET, _IR = 17, 8


class GraphBuilder:
    """Adds one operator after the other; each method returns the name of its output, (n, channels, height, width).

    Parameters
    ----------
    name : str
        Of the graph.
    side : int
        Of the images, in pixels.
    """

    def __init__(self, name: str, side: int):
        self._onnx = import_onnx(f"building {name}")
        self._name, self._side = name, side
        self._nodes: list[Any] = []
        self._values: list[Any] = []
        self.input = "images"
        self._sides = {self.input: side}

    def conv(
        self,
        x: str,
        kernel: np.ndarray,
        bias: np.ndarray,
        name: str,
        stride: int = 1,
        groups: int = 1,
        same: bool = True,
    ) -> str:
        """Convolve with a square kernel, (outputs, inputs / groups, size, size), padded as TensorFlow's ``same`` or not at all."""
        names = [self._constant(f"{name}.{what}", values) for what, values in (("weight", kernel), ("bias", bias))]
        size = kernel.shape[-1]
        before, after = self._padding(x, size, stride) if same else (0, 0)
        pads = [before, before, after, after]
        settings = {"kernel_shape": [size, size], "strides": [stride, stride], "pads": pads, "group": groups}
        made = self.add("Conv", [x, *names], name, **settings)
        self._sides[made] = (self._sides[x] + before + after - size) // stride + 1
        return made

    def max_pool(self, x: str, size: int, stride: int, name: str) -> str:
        """Take maxima over windows that lie within the map."""
        made = self.add("MaxPool", [x], name, kernel_shape=[size, size], strides=[stride, stride])
        self._sides[made] = (self._sides[x] - size) // stride + 1
        return made

    def relu(self, x: str, name: str, most: float | None = None) -> str:
        """Return values above 0, and at most `most`."""
        if most is None:
            return self.add("Relu", [x], name)
        ends = [self._constant(f"{name}.{end}", np.float32(value)) for end, value in (("min", 0.0), ("max", most))]
        return self.add("Clip", [x, *ends], name)

    def add(self, kind: str, inputs: Sequence[str], name: str, **settings: Any) -> str:
        """Add any operator of ONNX that keeps height and width."""
        self._nodes.append(self._onnx.helper.make_node(kind, list(inputs), [name], name=name, **settings))
        self._sides[name] = self._sides.get(inputs[0], 1)
        return name

    def dense(self, x: str, kernel: np.ndarray, bias: np.ndarray, name: str) -> str:
        """Multiply vectors, (n, inputs), with a kernel, (outputs, inputs)."""
        names = [self._constant(f"{name}.{what}", values) for what, values in (("weight", kernel), ("bias", bias))]
        return self.add("Gemm", [x, *names], name, transB=1)

    def finish(self, output: str, told: Mapping[str, str]) -> Any:
        """Return the model, an ``onnx.ModelProto``, of any batch, whose last output is this one.

        Parameters
        ----------
        output : str
        told : mapping of str to str
            What else the model says of itself.
        """
        helper, float32 = self._onnx.helper, self._onnx.TensorProto.FLOAT
        images = helper.make_tensor_value_info(self.input, float32, ("n", 3, self._side, self._side))
        last = helper.make_tensor_value_info(output, float32, None)
        graph = helper.make_graph(self._nodes, self._name, [images], [last], self._values)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
        helper.set_model_props(model, {SIDE_KEY: str(self._side), **told})
        return model

    def _constant(self, name: str, values: Any) -> str:
        self._values.append(self._onnx.numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def _padding(self, x: str, size: int, stride: int) -> tuple[int, int]:
        """Return zeros before and after, as TensorFlow's ``same`` has them: the odd one after."""
        side = self._sides[x]
        total = max((math.ceil(side / stride) - 1) * stride + size - side, 0)
        return total // 2, total - total // 2
