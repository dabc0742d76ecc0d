"""What an ONNX model is as a base: its input, its layers and its preprocessing; that of a file is kept in the per-user cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import RequestError, called
from ...runtime.user_cache import recall, remember
from ...runtime.versions import own_source
from ...safefiles.onnx_files import read_onnx
from ...safefiles.regular_files import identify_file
from .tensors import Input, Tensor, default_layer, find_input, find_tensors, fix_input

if TYPE_CHECKING:
    import onnx

USUAL_SIDE = 224
# What a model may say about itself among its metadata, so that it need not be said for each pass.
PREPROCESS_KEY, SIDE_KEY = "cached-features.preprocess", "cached-features.image_size"


@dataclass(frozen=True)
class Description:
    """An ONNX model as a base.

    Attributes
    ----------
    sha256 : str
    input : Input
    side : int
        Of the images that it takes, in pixels.
    tensors : dict of str to Tensor
        Layer → tensor, in the order in which they are computed.
    default : str
        The layer that is taken if none is named.
    preprocess : str
        What the model says: a preset or a `Normalisation` as text; empty if it says nothing.
    """

    sha256: str
    input: Input
    side: int
    tensors: dict[str, Tensor]
    default: str
    preprocess: str = ""

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Description:
        """Return what `asdict` was given."""
        tensors = {name: Tensor(**{**each, "shape": tuple(each["shape"])}) for name, each in told["tensors"].items()}
        return cls(**{**told, "input": Input(**told["input"]), "tensors": tensors})


def describe_model(model: onnx.ModelProto, sha256: str, side: int | None, where: str) -> Description:
    """Describe a model; `where` is its file, for messages. It fixes what the model leaves free: one image, of this side.

    Raises
    ------
    RequestError
        If it takes no RGB images, or none of this side.
    UnsafeFile
        See `find_tensors`.
    """
    told = {each.key: each.value for each in model.metadata_props}
    given = find_input(model, where)
    said = told.get(SIDE_KEY, "")
    side = side or given.side or (int(said) if said.isdecimal() and int(said) else USUAL_SIDE)
    if given.side not in (None, side):
        raise RequestError(f"{called('image_size')} must be {given.side} for {where}; got {side}. Leave it out.")
    fix_input(model, given, given.batch or 1, side)
    tensors = find_tensors(model, given, where)
    return Description(sha256, given, side, tensors, default_layer(tensors), told.get(PREPROCESS_KEY, "")[:200])


def describe_file(path: Path, side: int | None = None) -> Description:
    """Describe an ONNX file.

    A file counts as unchanged if its size, times and inode, and those of the files beside it that hold its values, are
    unchanged since it was last read.

    Raises
    ------
    RequestError, UnsafeFile
        See `read_onnx` and `describe_model`.
    """
    try:
        key = {"file": identify_file(path), "side": side, "source": own_source()}
        held = recall("onnx", key)
        if held is not None and all(identify_file(Path(each[0])) == each for each in held["outside"]):
            return Description.from_json(held["description"])
    except OSError:
        key = None
    file = read_onnx(path)
    described = describe_model(file.model, file.sha256, side, path.name)
    if key is not None:
        outside = [identify_file(each) for each in file.outside]
        remember("onnx", key, {"description": asdict(described), "outside": outside})
    return described
