"""Stage one: run a frozen convolutional base once over labelled images and keep its feature maps in one HDF5 file."""

from .extract import extract
from .store import FeatureStore

__all__ = ["FeatureStore", "extract"]
__version__ = "0.1.0"
