"""Untrusted ONNX files: sizes are checked in the file's own table of fields before it is parsed, and nothing outside its folder is read."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import RequestError, UnsafeFile, find_near, missing_extra
from ..runtime.machine import memory_limit

if TYPE_CHECKING:
    import onnx

MAX_BYTES = (1 << 31) - 1  # of one file, as protobuf has it
_SHARE = 0.25  # of this machine's memory that a model's values may take, since an engine holds them more than once
_MAX_FIELDS = 100_000  # nodes, initializers and other fields of a graph
_MAX_NODE_BYTES = 64 << 20  # nodes hold no weights, but for those of a node Constant
# Field numbers and wire types: onnx.proto and protobuf's encoding (protobuf.dev/programming-guides/encoding).
_GRAPH, _MAX_MODEL_FIELD, _GRAPH_NODE = 7, 99, 1
_CONTROL = ("If", "Loop", "Scan", "SequenceMap")  # what runs for as long as the file says
_DOMAINS = ("", "ai.onnx")
# Bytes per value of the types that a model may hold; the types of text and of less than a byte are refused.
_ITEM_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX model that was read.

    Attributes
    ----------
    model : onnx.ModelProto
        Of ONNX' own operators only, sorted and without circles; it holds all its values, as many as it claims.
    sha256 : str
        Of the file, and of the files beside it if there are any.
    outside : tuple of Path
        The files beside it from which values were read.
    """

    model: onnx.ModelProto
    sha256: str
    outside: tuple[Path, ...]


def import_onnx(purpose: str) -> Any:
    """Import onnx, or raise RequestError if it is not installed; `purpose` begins the message."""
    if importlib.util.find_spec("onnx") is None:
        raise missing_extra("onnx", "onnx", purpose)
    import onnx

    return onnx


def read_onnx(path: Path) -> OnnxFile:
    """Read an ONNX model and the values that it keeps in files beside it.

    Parameters
    ----------
    path : Path

    Returns
    -------
    OnnxFile

    Raises
    ------
    RequestError
        If there is no such file, or onnx is not installed.
    UnsafeFile
        If the file is none, names a file outside its folder, claims more than it holds, or has other operators.
    """
    if not path.is_file():
        raise RequestError(f"backbone {path} is not there. {find_near(path)}")
    onnx = import_onnx(f"reading {path.name}")
    _check_fields(path)
    try:
        data = path.read_bytes()
        digest = hashlib.sha256(data)
        model = onnx.ModelProto.FromString(data)
    except Exception as error:  # protobuf's own class of errors depends on its implementation
        raise _unsafe(
            path, f"is not an ONNX model ({str(error).splitlines()[0][:100] or type(error).__name__})"
        ) from error
    _check_names(model, path)
    _check_operators(model, path)
    _check_values(model, path)
    outside = _read_external(model, path)
    for sha256 in outside.values():
        digest.update(sha256)
    return OnnxFile(model, digest.hexdigest(), tuple(outside))


def _unsafe(path: Path, why: str) -> UnsafeFile:
    return UnsafeFile(f"{path} {why}; it is not used. Export the model again, or take it from a source you trust.")


def _check_fields(path: Path) -> None:
    """Check the sizes and the number of a file's fields, seeking over their values."""
    size, most = path.stat().st_size, min(MAX_BYTES, int(_SHARE * memory_limit()))
    if size > most:
        raise _unsafe(path, f"has {size:,} bytes; at most {most:,} are read on this machine")
    with open(path, "rb") as file:
        graphs = [place for number, *place in _fields(file, 0, size, path) if number == _GRAPH]
        if len(graphs) != 1:
            raise _unsafe(path, "is not an ONNX model (it holds no graph)")
        (start, end) = graphs[0]
        in_nodes = sum(last - first for number, first, last in _fields(file, start, end, path) if number == _GRAPH_NODE)
    if in_nodes > _MAX_NODE_BYTES:
        raise _unsafe(path, f"has nodes of {in_nodes:,} bytes; at most {_MAX_NODE_BYTES:,} are read")


def _fields(file: IO[bytes], start: int, end: int, path: Path) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of each field of a protobuf message that takes these bytes of a file."""
    at, count = start, 0
    while at < end:
        file.seek(at)
        head = file.read(min(20, end - at))
        key, used = _varint(head, 0)
        length, after = _varint(head, used)
        wire = key & 7
        skipped = {0: after - used, 1: 8, 2: after - used + length, 5: 4}.get(wire, -1)
        first = at + (after if wire == 2 else used)
        at, count = at + used + skipped, count + 1
        if not 0 < key >> 3 <= _MAX_MODEL_FIELD or skipped < 0 or used == 0 or at > end:
            raise _unsafe(path, "is not an ONNX model (its fields have no valid sizes)")
        if count > _MAX_FIELDS:
            raise _unsafe(path, f"has more than {_MAX_FIELDS:,} nodes and values")
        yield key >> 3, first, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a varint of at most ten bytes, and where it ends; (0, at) if there is none."""
    value = 0
    for index, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    return 0, at


def _check_names(model: onnx.ModelProto, path: Path) -> None:
    """Check that all names are texts: protobuf gives those that are not UTF-8 as bytes."""
    graph = model.graph
    named = (*graph.initializer, *graph.input, *graph.output, *graph.value_info, *graph.node)
    names = [each.name for each in named] + [each.domain for each in model.opset_import]
    names += [text for each in model.metadata_props for text in (each.key, each.value)]
    for node in graph.node:
        names += [node.op_type, node.domain, *node.input, *node.output, *(each.name for each in node.attribute)]
    if any(isinstance(name, bytes) for name in names):
        raise _unsafe(path, "has names that are not UTF-8")


def _check_operators(model: onnx.ModelProto, path: Path) -> None:
    if model.functions:
        raise _unsafe(path, f"defines functions, such as {model.functions[0].name!r:.60}, which are not supported")
    if model.graph.sparse_initializer:
        raise _unsafe(path, "holds sparse values, which are not supported")
    opsets = {each.domain: each.version for each in model.opset_import}
    if not any(domain in opsets for domain in _DOMAINS):
        raise _unsafe(path, "does not say which version of ONNX' operators it uses")
    known = {each.name for each in model.graph.initializer} | {each.name for each in model.graph.input}
    made = {name for node in model.graph.node for name in node.output if name}
    for node in model.graph.node:
        name = f"{node.domain}::{node.op_type}".removeprefix("::")
        if node.domain not in _DOMAINS:
            raise _unsafe(path, f"needs the operator {name!r:.80}, which is not one of ONNX' own")
        if node.op_type in _CONTROL or any(each.HasField("g") or each.graphs for each in node.attribute):
            raise _unsafe(path, f"branches or loops ({name:.60}), which is not supported")
        for each in node.input:
            if each and each not in known:
                what = "runs in a circle, or its nodes are not sorted" if each in made else "lacks a value"
                raise _unsafe(path, f"{what} (node {node.name!r:.60} needs {each!r:.60})")
        twice = [each for each in node.output if each and each in known]
        if twice:
            raise _unsafe(path, f"computes {twice[0]!r:.60} twice")
        known.update(each for each in node.output if each)
    _check_schemas(model, max(opsets.get(domain, 0) for domain in _DOMAINS), path)


def _check_schemas(model: onnx.ModelProto, opset: int, path: Path) -> None:
    import onnx

    for node in model.graph.node:
        try:
            onnx.defs.get_schema(node.op_type, opset, "")
        except onnx.defs.SchemaError as error:
            raise _unsafe(
                path,
                f"needs the operator {node.op_type!r:.60} of opset {opset}, which ONNX {onnx.__version__} does not have",
            ) from error


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _check_values(model: onnx.ModelProto, path: Path) -> None:
    """Check that each tensor holds the values that it claims, and that all together fit into memory."""
    total, most = 0, _SHARE * memory_limit()
    for tensor in _tensors(model):
        name, size = tensor.name[:60], _ITEM_BYTES.get(tensor.data_type)
        if size is None:
            raise _unsafe(path, f"holds {name!r} of a type that is not supported ({tensor.data_type})")
        if any(each < 0 for each in tensor.dims):
            raise _unsafe(path, f"claims a negative size of {name!r}")
        count = math.prod(tensor.dims)
        total += count * size
        if total > most:
            raise _unsafe(
                path,
                f"claims values of {total:,} bytes or more ({name!r}); at most {most:,.0f} are read on this machine",
            )
        held = _held_values(tensor, size)
        if held is not None and held != count:
            raise _unsafe(path, f"claims {count:,} values of {name!r}, but holds {held:,}")


def _held_values(tensor: onnx.TensorProto, size: int) -> int | None:
    """Return how many values a tensor holds; None if they lie in another file."""
    if tensor.data_location == tensor.EXTERNAL:
        return None
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data) // size if len(tensor.raw_data) % size == 0 else -1
    lists = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
    return sum(map(len, lists))


def _read_external(model: onnx.ModelProto, path: Path) -> dict[Path, bytes]:
    """Read the values that lie in files beside the model into it; return the SHA-256 of each file, in order of their names."""
    files: dict[Path, bytes] = {}
    for tensor in _tensors(model):
        if tensor.data_location != tensor.EXTERNAL:
            continue
        told = {each.key: each.value for each in tensor.external_data}
        file, offset, length = _checked_place(told, tensor.name, path)
        wanted = math.prod(tensor.dims) * _ITEM_BYTES[tensor.data_type]
        length = wanted if length is None else length
        with open(file, "rb") as opened:
            if length != wanted or offset + length > os.fstat(opened.fileno()).st_size:
                raise _unsafe(path, f"claims {wanted:,} bytes of {tensor.name!r:.60}, which {file.name} does not hold")
            opened.seek(offset)
            tensor.raw_data = opened.read(length)
            if file not in files:
                opened.seek(0)
                files[file] = hashlib.file_digest(opened, "sha256").digest()
        tensor.data_location = tensor.DEFAULT
        del tensor.external_data[:]
    return dict(sorted(files.items()))


def _checked_place(told: dict[str, str], name: str, path: Path) -> tuple[Path, int, int | None]:
    """Return file, offset and length of a tensor's values; the file must be a regular one beside the model."""
    location = told.get("location", "")
    file = path.parent / location
    if location != Path(location).name or location in ("", ".", "..") or "\\" in location or "\0" in location:
        raise _unsafe(path, f"keeps {name!r:.60} outside its folder, in {location!r:.80}")
    try:
        status = file.lstat()
    except OSError as error:
        raise RequestError(
            f"{path} keeps {name!r:.60} in {file.name!r:.80}, which is not beside it. Copy both files into one folder."
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise _unsafe(path, f"keeps {name!r:.60} in {file.name!r:.80}, which is not a regular file")
    try:
        offset, length = int(told.get("offset", "0")), (int(told["length"]) if "length" in told else None)
    except ValueError as error:
        raise _unsafe(path, f"says no number for where {name!r:.60} is") from error
    if offset < 0 or (length or 0) < 0:
        raise _unsafe(path, f"says a negative number for where {name!r:.60} is")
    return file, offset, length
