"""A frozen base that is an ONNX model, from a file or built here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RequestError, WeightsError, called, option
from ...runtime.versions import own_source
from ...safefiles.onnx_files import read_onnx
from ..base import Base, resolve_layer
from ..normalisation import Normalisation
from ..weights import Weights
from .description import Description, describe_file
from .tensors import Input, Tensor

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class OnnxModel:
    """What an engine needs of an ONNX model.

    Attributes
    ----------
    proto : onnx.ModelProto
        What it leaves free is still free; see `fix_input`.
    input : Input
    side : int
    tensors : dict of str to Tensor
        Layer → tensor.
    normalisation : Normalisation
    """

    proto: onnx.ModelProto
    input: Input
    side: int
    tensors: Mapping[str, Tensor]
    normalisation: Normalisation


def make_base(
    described: Description,
    load: Callable[[], onnx.ModelProto],
    layers: Sequence[str],
    normalisation: Normalisation,
    origin: str,
) -> Base:
    """Return an ONNX model as a base.

    Parameters
    ----------
    described : Description
    load : callable
        Returns the model itself.
    layers : sequence of str
        Names of layers or of tensors, or indices.
    normalisation : Normalisation
    origin : str
        Where its weights come from.

    Raises
    ------
    RequestError
        If it has no such layer.
    """
    of_tensor = {each.name: layer for layer, each in described.tensors.items()}
    chosen = [resolve_layer(of_tensor.get(layer, layer), list(described.tensors)) for layer in layers]
    tensors = {layer: described.tensors[layer] for layer in chosen}

    def build() -> OnnxModel:
        return OnnxModel(load(), described.input, described.side, tensors, normalisation)

    identity = {
        "onnx": described.sha256,
        "layers": {layer: each.name for layer, each in tensors.items()},
        "image_size": described.side,
        "batch": described.input.batch,
        "preprocess": str(normalisation),
        "source": own_source(),
    }
    return Base(
        build,
        {layer: each.shape for layer, each in tensors.items()},
        normalisation,
        {layer: each.kind for layer, each in tensors.items()},
        Weights(origin, described.sha256),
        library="onnx",
        identity=identity,
    )


def build_from_file(
    path: Path, layers: Sequence[str], image_size: int, preprocess: str, weights: str, weights_sha256: str | None
) -> Base:
    """Return the base in an ONNX file; see `features.backbones.keras_base.build_base`."""
    if weights != "imagenet":
        raise RequestError(
            f"{called('weights')} must be left out for {path}, which contains its own; got {weights!r}. Leave {called('weights')} out."
        )
    described = describe_file(path, image_size)
    if weights_sha256 not in (None, described.sha256):
        raise WeightsError(
            f"{path} must have SHA-256 {weights_sha256}; it has {described.sha256}. If this is the model you want: "
            f"{option('weights_sha256', described.sha256)}"
        )

    def load() -> onnx.ModelProto:
        file = read_onnx(path)
        if file.sha256 != described.sha256:
            raise WeightsError(
                f"{path} must not change while it is used; its SHA-256 is another than before. Start again."
            )
        return file.model

    return make_base(described, load, layers, Normalisation.of(preprocess), f"file {path.name}")
