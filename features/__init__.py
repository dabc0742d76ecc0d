"""Stage one: run a frozen convolutional base once over labelled images and keep its feature maps in one HDF5 file."""

from typing import TYPE_CHECKING, Any

from ._version import __version__
from .extraction.run import extract
from .store.reader import FeatureStore

if TYPE_CHECKING:
    from .transformer import ConvFeatures

__all__ = ["ConvFeatures", "FeatureStore", "__version__", "extract"]


def __getattr__(name: str) -> Any:
    if name == "ConvFeatures":  # imported on first use: opening a store needs no scikit-learn
        from .transformer import ConvFeatures

        return ConvFeatures
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
