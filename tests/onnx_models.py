"""Small ONNX models with seeded weights; their weights mean nothing."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def values(name, shape, seed=3):
    """Return an initializer of seeded values."""
    random = np.random.default_rng([seed, len(name), *shape])
    return numpy_helper.from_array(random.normal(0, 0.3, shape).astype(np.float32), name)


def model_of(nodes, initializers, shape, output, opset=17, dtype=TensorProto.FLOAT, told=None):
    """Return a model with one input, ``pixels``."""
    images = helper.make_tensor_value_info("pixels", dtype, shape)
    result = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "tiny", [images], [result], initializers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    if told:
        helper.set_model_props(made, told)
    return made


def maps(batch="n", side=16, channels_last=False, opset=17, told=None):
    """Two convolutions, a mean and three logits; maps are (n, 4, 7, 7) and (n, 6, 3, 3) for 16 pixels."""
    start = [helper.make_node("Transpose", ["pixels"], ["turned"], perm=[0, 3, 1, 2])] if channels_last else []
    nodes = [
        *start,
        helper.make_node("Conv", ["turned" if channels_last else "pixels", "conv.w"], ["conv"], strides=[2, 2]),
        helper.make_node("Relu", ["conv"], ["/stem/relu"]),
        helper.make_node("Conv", ["/stem/relu", "last.w"], ["last_conv"], strides=[2, 2]),
        helper.make_node("Relu", ["last_conv"], ["last"]),
        helper.make_node("GlobalAveragePool", ["last"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "fc.w"], ["logits"]),
    ]
    held = [values("conv.w", (4, 3, 3, 3)), values("last.w", (6, 4, 3, 3)), values("fc.w", (6, 3))]
    shape = (batch, side, side, 3) if channels_last else (batch, 3, side, side)
    return model_of(nodes, held, shape, "logits", opset, told=told)


def tokens(batch="n", registers=0):
    """Patches of 4 pixels as 16 tokens of width 8, behind a class token and registers, and a normalisation; side 16."""
    prefix = 1 + registers
    nodes = [
        helper.make_node("Conv", ["pixels", "patch.w"], ["patches"], strides=[4, 4]),
        helper.make_node("Reshape", ["patches", "shape"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["words"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["words", "zero"], ["none"]),
        helper.make_node("Slice", ["none", "start", "stop", "axis"], ["blank"]),
        helper.make_node("Add", ["blank", "first"], ["prefix"]),
        helper.make_node("Concat", ["prefix", "words"], ["all"], axis=1),
        helper.make_node("LayerNormalization", ["all", "gamma"], ["normed"], axis=-1),
        helper.make_node("Gather", ["normed", "zeroth"], ["class"], axis=1),
    ]
    whole = [("shape", [0, 8, -1]), ("start", [0]), ("stop", [prefix]), ("axis", [1]), ("zeroth", 0)]
    held = [
        values("patch.w", (8, 3, 4, 4)),
        values("first", (1, prefix, 8)),
        values("gamma", (8,)),
        numpy_helper.from_array(np.zeros((8, 8), np.float32), "zero"),
        *(numpy_helper.from_array(np.array(each, np.int64), name) for name, each in whole),
    ]
    return model_of(nodes, held, (batch, 3, 16, 16), "class")


def save(model, path, **options):
    """Write a model, and return its path."""
    onnx.save(model, path, **options)
    return path
