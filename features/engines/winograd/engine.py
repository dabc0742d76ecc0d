"""The engine ``numba`` for bases of convolutions, pools, sums and concatenations, on a CPU in float32."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...errors import EngineError
from ...pooling import pool_maps
from ...runtime.machine import cores
from ..frozen_graph import Frozen
from .graph import CHANNELS, MOST_CHANNELS, Convolution, Pool, Sum
from .graph_file import from_arrays, to_arrays

_KINDS = {Convolution: "convolutions to", Pool: "pools of", Sum: "sums of"}


class WinogradEngine:
    """See `features.engines.registry.Engine`.

    Parameters
    ----------
    frozen : Frozen
    parts : mapping of str to ndarray, optional
        What `convert` returned; by default, it is called.
    threads : int, optional
        By default, one per core. Features do not depend on it.

    Raises
    ------
    EngineError
        See `convert`.
    """

    def __init__(self, frozen: Frozen, parts: Mapping[str, np.ndarray] | None = None, threads: int | None = None):
        graph = from_arrays(self.convert(frozen) if parts is None else parts)
        from .network import Network  # imports llvmlite, which may not be installed

        self._frozen = frozen
        self._network = Network(graph, threads or cores(), frozen.batch_size)

    @staticmethod
    def convert(frozen: Frozen) -> dict[str, np.ndarray]:
        """Return the base as operations on feature maps, in arrays.

        Raises
        ------
        EngineError
            If the base has unsupported layers, or the processor has no AVX2.
        """
        from .loops import registers  # noqa: F401  # refuses the processor
        from .read_keras import read_layers  # for a base that is not ready

        graph = read_layers(frozen.base.model)
        for of in graph.operations:
            depth = graph.maps[of.y].shape[2]
            if depth % CHANNELS or depth > MOST_CHANNELS:
                raise EngineError(
                    f"numba supports {_KINDS[type(of)]} a multiple of {CHANNELS} channels, at most {MOST_CHANNELS}; "
                    f"got {depth}."
                )
        return to_arrays(graph)

    @staticmethod
    def begin() -> None:
        """Let loops be compiled in another process while the base is built."""
        from .loops.machine_code import compile_ahead  # imports llvmlite, which may not be installed

        if cores() > 1:
            compile_ahead()

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See `features.engines.registry.Engine.run`."""
        features, pool = self._network.run(images, self._prepare), self._frozen.pool
        return features if pool == "none" else {layer: pool_maps(maps, pool) for layer, maps in features.items()}

    def _prepare(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(self._frozen.base.preprocess(images.astype(np.float32)), np.float32)
