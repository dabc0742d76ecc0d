"""Keras on TensorFlow, and PyTorch beside it: imported where a model is built or run, quietly."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import Any

from .log import log
from .machine import limit_cores

_LOUD = "TF_CPP_MIN_LOG_LEVEL" in os.environ  # by the user: tf2onnx sets it, too, once it is imported
_threads: int | None = None


def limit_threads(count: int) -> None:
    """Let engines that are made from now on use so many cores; Keras must not have been imported yet."""
    global _threads
    limit_cores(count)
    _threads = count


def count_gpus() -> int:
    """Return how many GPUs TensorFlow sees."""
    import_keras()
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))


def import_keras() -> Any:
    """Import Keras on TensorFlow and find its devices; TensorFlow takes a GPU's memory as it needs it."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    started = "tensorflow" in sys.modules
    if not started:
        log.info("start    TensorFlow, which takes a few seconds")
    with contextlib.nullcontext() if started else quiet():
        import keras
        import tensorflow as tf

        if _threads is not None:
            with contextlib.suppress(RuntimeError):  # TensorFlow has computed already
                tf.config.threading.set_intra_op_parallelism_threads(_threads)
                tf.config.threading.set_inter_op_parallelism_threads(1)
        for gpu in tf.config.list_physical_devices("GPU"):
            with contextlib.suppress(RuntimeError):  # in use already, as its user has set it up
                tf.config.experimental.set_memory_growth(gpu, True)
    return keras


def import_torch() -> Any:
    """Import PyTorch, before or after TensorFlow.

    TensorFlow shows its symbols to all libraries that are loaded later, LLVM's among them. Triton, which PyTorch for GPUs imports
    when it first needs it, has an LLVM of another version, and crashes unless it prefers its own symbols (Triton 3.8 after
    TensorFlow 2.21).
    """
    if hasattr(os, "RTLD_DEEPBIND") and importlib.util.find_spec("triton") is not None:
        flags = sys.getdlopenflags()
        sys.setdlopenflags(flags | os.RTLD_DEEPBIND)
        try:
            with contextlib.suppress(ImportError):  # PyTorch goes without it
                import triton  # noqa: F401
        finally:
            sys.setdlopenflags(flags)
    import torch

    return torch


def leaves(model: Any) -> Iterator[Any]:
    """Yield a Keras model's layers, those of the models in it instead of these."""
    for layer in model.layers:
        yield from leaves(layer) if hasattr(layer, "layers") else (layer,)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what C++ libraries write at start, which none of their log levels can.

    Errors are raised, not written, so none is lost. Set ``TF_CPP_MIN_LOG_LEVEL`` to see it all.
    """
    if _LOUD:
        yield
        return
    sys.stdout.flush()
    kept, nothing = {fd: os.dup(fd) for fd in (1, 2)}, os.open(os.devnull, os.O_WRONLY)
    for fd in kept:
        os.dup2(nothing, fd)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # C's own buffers, before they would go where Python's results go
        for fd, copy in kept.items():
            os.dup2(copy, fd)
            os.close(copy)
        os.close(nothing)
