"""Processor time per image of one engine on one base with random weights, alone in its process.

``.venv/bin/python tests/bench/engines.py numba vgg16 224 avx2``: the last word is ``native``, or ``avx2``, which hides wider vectors from
LLVM (numba) and sets oneDNN's ONEDNN_MAX_CPU_ISA (OpenVINO, TensorFlow). Engines in one process would share its cores.
"""

import os
import sys
import time
from functools import partial

import numpy as np


def hide_wide_vectors():
    """Let this process compute as a processor without AVX-512 does."""
    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"
    import llvmlite.binding as llvm

    has = llvm.get_host_cpu_features()
    has.update({name: False for name in has if name.startswith(("avx512", "amx", "avx10"))})
    llvm.get_host_cpu_features = lambda: has


def main(name, backbone, size, vectors, batch=16):
    """Print milliseconds of processor time per image, of three batches after a warm-up."""
    if vectors == "avx2":
        hide_wide_vectors()
    from features.backbones import keras_base
    from features.backbones.registry import find_backbone
    from features.backbones.weights import Weights
    from features.engines.frozen_graph import Frozen
    from features.engines.registry import ENGINES

    keras_base.load_weights = lambda *_: Weights("random", "")
    base = keras_base.build_base(backbone, [find_backbone(backbone).layer], int(size))
    engine = ENGINES[name].make(Frozen(base, int(size), batch))
    images = np.random.default_rng(0).integers(0, 256, (batch, int(size), int(size), 3), np.uint8)
    engine.run(images)
    taken = sorted(map(partial(seconds, engine), [images] * 3))
    print(name, backbone, size, vectors, *(f"{1000 * each / batch:.1f}" for each in taken))


def seconds(engine, images):
    """Return the processor time of a batch."""
    start = time.process_time()
    engine.run(images)
    return time.process_time() - start


if __name__ == "__main__":
    main(*sys.argv[1:])
