"""Stage two: train heads on a feature store, compare them, and use them."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .deploy.exporting import export
    from .deploy.prediction import predict
    from .plots import plot
    from .report import report
    from .training.comparison import compare
    from .training.fit import train_head

_MODULES = {"compare": "training.comparison", "export": "deploy.exporting", "plot": "plots", "predict": "deploy.prediction", "train_head": "training.fit"}
__all__ = ["compare", "export", "plot", "predict", "report", "train_head"]


class _Package(ModuleType):
    """Holds its functions by their names: importing ``pipeline.training.comparison`` would put that module in the place of `compare`."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `python -m pipeline --help` does not wait for scikit-learn.
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, name)}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
