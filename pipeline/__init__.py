"""Stage two: train heads on a feature store, compare them, and use them."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["compare", "export", "predict", "report", "train_head"]


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `python -m pipeline --help` does not wait for scikit-learn.
    if name == "train_head":
        from .train import train_head

        return train_head
    if name in __all__:
        # Kept, or from now on the module of that name would stand in its place.
        globals()[name] = getattr(importlib.import_module(f"{__name__}.{name}"), name)
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
