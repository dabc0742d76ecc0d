"""A `features.engines.winograd.graph.LayerGraph` as arrays, to be kept and read without Keras."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from .graph import Convolution, FeatureMap, LayerGraph, Operation, Pool, Sum

_KINDS: dict[str, type[Operation]] = {kind.__name__: kind for kind in (Convolution, Pool, Sum)}


def to_arrays(graph: LayerGraph) -> dict[str, np.ndarray]:
    """Return the arrays of a graph's operations by their numbers, and all else as JSON, uint8, under ``graph``."""
    arrays: dict[str, np.ndarray] = {}

    def tell(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        number = str(len(arrays))
        arrays[number] = value
        return {"array": number}

    told = {
        "operations": [
            [type(each).__name__, {of.name: tell(getattr(each, of.name)) for of in fields(each)}]
            for each in graph.operations
        ],
        "maps": [[each.shape, each.whole, each.channel] for each in graph.maps],
        "outputs": graph.outputs,
    }
    return {**arrays, "graph": np.frombuffer(json.dumps(told).encode(), np.uint8)}


def from_arrays(arrays: Mapping[str, np.ndarray]) -> LayerGraph:
    """Return the graph that `to_arrays` was given."""

    def read(value: Any) -> Any:
        if isinstance(value, dict):
            return arrays[value["array"]]
        return tuple(map(read, value)) if isinstance(value, list) else value

    told = json.loads(arrays["graph"].tobytes())
    return LayerGraph(
        operations=[
            _KINDS[kind](**{name: read(value) for name, value in given.items()}) for kind, given in told["operations"]
        ],
        maps=[FeatureMap(tuple(shape), whole, channel) for shape, whole, channel in told["maps"]],
        outputs=told["outputs"],
    )
