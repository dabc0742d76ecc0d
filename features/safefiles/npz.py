"""Untrusted zip and npz files: sizes are checked before anything is read, and no code is run."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tokenize import TokenError
from typing import IO

import numpy as np

from ..errors import UnsafeFile
from .regular_files import check_regular, is_out_of_reach

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# What zipfile raises of damaged files beside ValueError: OSError of a seek before the start, EOFError and struct.error of an early end.
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, OSError)
# What NumPy raises of a damaged header, which it reads as a Python literal.
_HEADER_DAMAGE = (
    ValueError, TypeError, LookupError, EOFError, SyntaxError, TokenError, zipfile.BadZipFile, RecursionError, MemoryError,
)  # fmt: skip


@contextmanager
def reading_archive(path: str | Path) -> Iterator[None]:
    """Raise UnsafeFile for what zipfile raises of a damaged file; that a file is missing or cannot be read stays an OSError."""
    try:
        yield
    except _DAMAGE as error:
        if is_out_of_reach(error) or (isinstance(error, OSError) and error.filename is not None):
            raise
        raise UnsafeFile(f"{path} is damaged ({error}). Make it again, or restore a copy.") from error


def open_archive(path: str | Path, unpacked: int = 0) -> zipfile.ZipFile:
    """Open a zip file after checking that its members are uncompressed and its arrays have the sizes they claim.

    NumPy, skops and Keras do not compress, so a file's size bounds the memory needed to read it. Members may be compressed if
    all together take at most `unpacked` bytes.

    Raises
    ------
    UnsafeFile
        If it is no regular file, no zip file, or a check fails.
    """
    check_regular(path)
    try:
        with reading_archive(path):
            archive = zipfile.ZipFile(path)
    except (ValueError, UnsafeFile) as error:
        reason = error.__cause__ or error
        raise UnsafeFile(f"{path} must be a zip archive; {reason}. Make it again, or restore a copy.") from error
    try:
        with reading_archive(path):
            _check_members(archive, Path(path), unpacked)
    except BaseException:
        archive.close()
        raise
    return archive


def _check_members(archive: zipfile.ZipFile, path: Path, unpacked: int) -> None:
    members = archive.infolist()
    claimed, held = (sum(getattr(member, each) for member in members) for each in ("file_size", "compress_size"))
    ways = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) if claimed <= unpacked else (zipfile.ZIP_STORED,)
    for member in members:
        name = PurePosixPath(member.filename)
        if name.is_absolute() or ".." in name.parts or "\\" in member.filename or ":" in member.filename:
            raise _unsafe(path, f"names a file outside itself, {member.filename!r}")
        if member.compress_type not in ways or member.flag_bits & 1:
            raise _unsafe(path, f"is compressed or encrypted ({member.filename})")
    if len({member.filename for member in members}) < len(members):
        raise _unsafe(path, "names a member twice")
    size = path.stat().st_size
    if held > size or claimed > max(size, unpacked):
        raise _unsafe(path, f"claims {max(held, claimed):,} bytes in a file of {size:,}")
    for member in members:
        if member.filename.endswith(".npy"):
            _check_array(archive, member, path)


def _check_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    """Check an array's header, since NumPy allocates the memory that it claims before reading."""
    try:
        with archive.open(member) as file:
            shape, _, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
            held = member.file_size - file.tell()
    except _HEADER_DAMAGE as error:
        raise _unsafe(path, f"has no readable array {member.filename} ({str(error)[:100]})") from error
    if dtype.hasobject:
        raise _unsafe(path, f"holds Python objects, which can run code, in {member.filename}")
    if (
        min(shape, default=0) < 0
        or max(shape, default=0) > max(held, 1 << 16)
        or math.prod(shape) * dtype.itemsize != held
    ):
        raise _unsafe(path, f"claims an array {'x'.join(map(str, shape))} in {held:,} bytes ({member.filename})")


def _unsafe(path: Path, why: str) -> UnsafeFile:
    return UnsafeFile(f"{path} {why}; it is not read. Use a file from a source you trust, or make it again.")


def read_arrays(path: str | Path, unpacked: int = 0) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file; see `open_archive`."""
    with open_archive(path, unpacked):
        pass
    try:
        with reading_archive(path), np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except ValueError as error:
        raise UnsafeFile(f"{path} is damaged ({error}). Make it again, or restore a copy.") from error


def save_arrays(path: str | Path | IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """Write numeric arrays to an ``.npz`` file, which numpy.load opens without pickle."""
    np.savez(path, allow_pickle=False, **dict(arrays))


def append_array(path: str | Path, name: str, shape: tuple[int, ...], blocks: Iterable[np.ndarray]) -> None:
    """Append a float32 array to an ``.npz`` file, block by block."""
    told = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with zipfile.ZipFile(path, "a") as archive, archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, told)
        for block in blocks:
            file.write(np.ascontiguousarray(block, "<f4").data)
