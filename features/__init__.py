"""Stage one: run a frozen convolutional base once over labelled images and store its feature maps in one HDF5 file."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import (
    CachedFeaturesError,
    ClusterError,
    EngineError,
    ParityError,
    RequestError,
    SourceError,
    StoreError,
    UnsafeFile,
    WeightsError,
    WrongStore,
)

if TYPE_CHECKING:
    from .extraction.cost import plan_cost
    from .extraction.run import extract
    from .store.parts import upgrade_store
    from .store.reader import FeatureStore
    from .transformer import ConvFeatures

__all__ = [
    "CachedFeaturesError",
    "ClusterError",
    "ConvFeatures",
    "EngineError",
    "FeatureStore",
    "ParityError",
    "RequestError",
    "SourceError",
    "StoreError",
    "UnsafeFile",
    "WeightsError",
    "WrongStore",
    "__version__",
    "extract",
    "plan_cost",
    "upgrade_store",
]
_WHERE = {
    "ConvFeatures": "transformer",
    "FeatureStore": "store.reader",
    "extract": "extraction.run",
    "plan_cost": "extraction.cost",
    "upgrade_store": "store.parts",
}


def __getattr__(name: str) -> Any:
    # Imported on first use, so that the command line's help needs no NumPy and opening a store needs no scikit-learn.
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
