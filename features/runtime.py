"""Keras on TensorFlow: imported where a model is built or run, and quietly."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


def import_keras() -> Any:
    """Import Keras on TensorFlow and find its devices."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with contextlib.nullcontext() if "tensorflow" in sys.modules else quiet():
        import keras
        import tensorflow as tf

        tf.config.list_physical_devices()
    return keras


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what TensorFlow's C++ libraries write as they start, which no log level of theirs does.

    Errors are raised, not written, so none is lost. Set ``TF_CPP_MIN_LOG_LEVEL`` to see it all.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        yield
        return
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
