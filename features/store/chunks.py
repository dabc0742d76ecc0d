"""The chunks of a layer: compressed and hashed in threads, located in the file, and read without HDF5's global lock.

HDF5 compresses and decompresses one chunk at a time, under its lock. But it reports where each chunk is in the file, and its gzip
filter writes a zlib stream (RFC 1950). So chunks are compressed before they are written, and read with ``pread``, on all cores.
"""

from __future__ import annotations

import functools
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np

from ..errors import StoreError, missing_extra
from ..runtime.machine import cores
from ..safefiles.hdf5 import DEFLATE, HEAD_BYTES, LZ4, ZSTD, claimed_bytes, filters_of

deflate: Any  # isal compresses and decompresses features several times as fast as zlib, in the same format
try:
    from isal import isal_zlib as deflate
except ImportError:  # no wheel for this machine
    import zlib as deflate

DIRECT = ("gzip", "none")  # every HDF5 program reads these, and this one reads them without HDF5
COMPRESSION = (*DIRECT, "lz4", "zstd")  # the others need hdf5plugin
DIGEST_BYTES = 16
_PLUGINS = {LZ4: "lz4", ZSTD: "zstd"}
_SPAN_BYTES = 1 << 20, 4 << 20  # of values that a thread reads at once: fewer are not worth handing over

# Filters of a dataset → how its chunks are compressed. Chunks with other filters are left to HDF5.
_PACK: dict[tuple[int, ...], Callable[[bytes], bytes]] = {(): bytes, (DEFLATE,): lambda data: deflate.compress(data, 1)}

T = TypeVar("T")
R = TypeVar("R")


def digest(data: Any) -> bytes:
    """Return the 16-byte BLAKE2b hash (RFC 7693) of some bytes."""
    return blake2b(data, digest_size=DIGEST_BYTES).digest()


def filter_options(compression: str) -> dict[str, Any]:
    """Return the arguments of h5py's ``create_dataset`` for a member of ``COMPRESSION``."""
    if compression == "gzip":
        return {"compression": "gzip", "compression_opts": 1}
    if compression == "none":
        return {}
    plugin = _import_plugin(compression)
    return dict(plugin.LZ4() if compression == "lz4" else plugin.Zstd(clevel=1))


def _import_plugin(compression: str) -> Any:
    try:
        import hdf5plugin
    except ImportError as error:
        raise missing_extra("hdf5plugin", "hdf5plugin", f"compression {compression}") from error
    return hdf5plugin


class LayerWriter:
    """Writes one layer's chunks, in any order, and computes the digests of its rows and chunks.

    Parameters
    ----------
    data : h5py.Dataset
        As `schema.create` makes it.

    Attributes
    ----------
    data : h5py.Dataset
    step : int
        Rows per chunk.
    rows, chunks : ndarray of shape (n_rows, 16) and (n_chunks, 16), uint8
        Digests of the values of each row, and of the stored bytes of each chunk.
    """

    def __init__(self, data: h5py.Dataset):
        self.data = data
        self.step = data.chunks[0] if data.chunks else 1
        self.rows = np.zeros((len(data), DIGEST_BYTES), np.uint8)
        self.chunks = np.zeros((-(-len(data) // self.step), DIGEST_BYTES), np.uint8)

    def write(self, first: int, values: np.ndarray) -> None:
        """Write consecutive rows, from the start of a chunk to the end of a chunk or of the layer."""
        values = np.ascontiguousarray(values)
        pieces = [values[start : start + self.step] for start in range(0, len(values), self.step)]
        pack = _PACK.get(filters_of(self.data))
        if pack is None:
            self.data[first : first + len(values)] = values
            self.data.flush()
        for number, (rows, packed) in enumerate(in_threads(functools.partial(_pack, self.step, pack), pieces)):
            start = first + number * self.step
            if packed is None:
                _, packed = self.data.id.read_direct_chunk(self._corner(start))
            else:
                self.data.id.write_direct_chunk(self._corner(start), packed)
            self.rows[start : start + len(rows)] = rows
            self.chunks[start // self.step] = np.frombuffer(digest(packed), np.uint8)

    def put(self, row: int, packed: bytes, row_digest: np.ndarray) -> None:
        """Write a row that is a whole chunk, already compressed in another file."""
        self.data.id.write_direct_chunk(self._corner(row), packed)
        self.rows[row] = row_digest
        self.chunks[row] = np.frombuffer(digest(packed), np.uint8)

    def _corner(self, row: int) -> tuple[int, ...]:
        return (row, *(0,) * (self.data.ndim - 1))


def _pack(step: int, pack: Callable[[bytes], bytes] | None, values: np.ndarray) -> tuple[np.ndarray, bytes | None]:
    """Return the digest of each row, and their chunk, compressed; a layer's last chunk is padded with zeros."""
    rows = np.frombuffer(b"".join(digest(row) for row in values), np.uint8).reshape(-1, DIGEST_BYTES)
    if pack is None:
        return rows, None
    return rows, pack(values.tobytes() + bytes((step - len(values)) * values[0].nbytes))


class RowReader:
    """Reads rows of one layer, wherever they are.

    Attributes
    ----------
    row_shape : tuple of int
    dtype : numpy.dtype
    """

    row_shape: tuple[int, ...]
    dtype: np.dtype

    def read(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Read the given rows into an array of this or another number type."""
        raise NotImplementedError

    def read_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the given rows, in the stored number type."""
        values = np.empty((len(rows), *self.row_shape), self.dtype)
        self.read(rows, values)
        return values

    @property
    def row_bytes(self) -> int:
        """Bytes of the values of one row."""
        return math.prod(self.row_shape) * int(self.dtype.itemsize)


class LayerReader(RowReader):
    """Reads one layer of one file; thread-safe.

    Parameters
    ----------
    data : h5py.Dataset
        Not a virtual one. If `uses_hdf5`, its file must stay open as long as this is used.
    path : Path
        The file that holds it, for messages.
    chunk_digests : ndarray of shape (n_chunks, 16), uint8, optional
        Digests of the chunks' stored bytes; None for format 1.

    Attributes
    ----------
    uses_hdf5 : bool
        Whether HDF5 reads the chunks: because only it can decompress them, or because format 1's checksum is an HDF5 filter.

    Raises
    ------
    StoreError
        If the chunks are not laid out as in a store.
    """

    def __init__(self, data: h5py.Dataset, path: Path, chunk_digests: np.ndarray | None):
        self.path, self.name = path, data.name
        self.row_shape, self.dtype, self._length = data.shape[1:], data.dtype, len(data)
        self._step = data.chunks[0] if data.chunks else 1
        self._filters = filters_of(data)
        for code in self._filters:
            if code in _PLUGINS:
                _import_plugin(_PLUGINS[code])
        self._offsets, self._sizes = _find_chunks(data)
        self._digests = None if chunk_digests is None else chunk_digests.tobytes()
        self.uses_hdf5 = self._digests is None or self._filters not in _PACK
        self._data = data if self.uses_hdf5 else None
        # HDF5's own handle: by now, another file may have the name.
        self._handle = os.dup(data.file.id.get_vfd_handle())
        weakref.finalize(self, os.close, self._handle)

    def read(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Read the given rows into an array of this or another number type.

        Raises
        ------
        OSError, ValueError
            If a chunk is damaged.
        """
        if not len(rows):
            return
        numbers, within = np.divmod(rows, self._step)
        if self._data is not None:
            for number in np.unique(numbers):
                self._check_claim(int(number))
            for first, last in stretches(rows):
                source = np.s_[int(rows[first]) : int(rows[first]) + last - first]
                out[first:last] = self._data[source]
            return
        for first, last in stretches(numbers, step=0):
            values = self._unpack(int(numbers[first]))
            one = last - first == self._step == 1
            copy_values(values if one else values[within[first:last]], out[first:last])

    def __len__(self) -> int:
        return self._length

    def packed(self, number: int) -> bytes:
        """Return the stored bytes of a chunk; raise ValueError if they do not match their digest."""
        data = _read_at(self._handle, self._sizes[number], self._offsets[number])
        if self._digests is not None:
            place = number * DIGEST_BYTES
            if digest(data) != self._digests[place : place + DIGEST_BYTES]:
                raise ValueError(f"chunk {number} of {self.name} in {self.path} does not match its digest")
        return data

    def is_packed_as(self, data: h5py.Dataset) -> bool:
        """Return whether in both datasets each row is a whole chunk, compressed the same way."""
        return self._digests is not None and self._step == data.chunks[0] == 1 and self._filters == filters_of(data)

    def _check_claim(self, number: int) -> None:
        """Raise ValueError unless a chunk that HDF5 will decompress matches its digest and claims its own size."""
        if self._digests is not None:
            head = self.packed(number)[:HEAD_BYTES]
        else:
            head = _read_at(self._handle, min(HEAD_BYTES, self._sizes[number]), self._offsets[number])
        if claimed_bytes(self._filters, head) not in (None, self._bytes):
            raise ValueError(f"chunk {number} of {self.path} claims another size than that of its values")

    def _unpack(self, number: int) -> np.ndarray:
        data = self.packed(number)
        if self._filters:
            try:  # at most one byte more than a chunk's size, since a small stream may expand to gigabytes
                data = deflate.decompressobj().decompress(data, self._bytes + 1)
            except deflate.error as error:
                raise ValueError(f"chunk {number} of {self.path} is no deflate stream ({error})") from error
        if len(data) != self._bytes:
            raise ValueError(f"chunk {number} of {self.path} has not the {self._bytes} bytes of its values")
        return np.frombuffer(data, self.dtype).reshape(self._step, *self.row_shape)

    @functools.cached_property
    def _bytes(self) -> int:
        return self._step * self.row_bytes


def _find_chunks(data: h5py.Dataset) -> tuple[list[int], list[int]]:
    """Return the offset in the file and the size of each chunk, in bytes."""
    if not data.size:
        return [], []
    if data.chunks is None or data.chunks[1:] != data.shape[1:]:
        raise _not_ours(data)
    count = -(-len(data) // data.chunks[0])
    offsets, sizes = [0] * count, [0] * count

    def note(chunk: Any) -> None:
        number = chunk.chunk_offset[0] // data.chunks[0]
        if number < count and not chunk.filter_mask:
            offsets[number], sizes[number] = chunk.byte_offset, chunk.size

    data.id.chunk_iter(note)
    # Deflate adds at most 5 bytes to each 16 kB that it cannot compress (RFC 1951), LZ4 and Zstd less than 1 %.
    largest = int(data.chunks[0] * np.prod(data.shape[1:]) * data.dtype.itemsize * 1.02) + 256
    end = data.file.id.get_filesize()
    if not all(0 < size <= largest and place + size <= end for place, size in zip(offsets, sizes, strict=True)):
        raise _not_ours(data)
    return offsets, sizes


def _not_ours(data: h5py.Dataset) -> StoreError:
    return StoreError(f"{data.file.filename} has chunks in {data.name} that no store has. Do not use this file.")


_lock = threading.Lock()


def _read_at(handle: int, size: int, offset: int) -> bytes:
    """Return bytes of a file without moving its position for other threads."""
    if hasattr(os, "pread"):
        data = os.pread(handle, size, offset)
    else:
        with _lock:
            os.lseek(handle, offset, os.SEEK_SET)
            data = os.read(handle, size)
    if len(data) < size:
        raise ValueError(f"the file ends {size - len(data)} bytes too early")
    return data


def copy_values(values: np.ndarray, out: np.ndarray) -> None:
    """Copy numbers into an array of the same shape and this or another number type.

    NumPy converts float16 bit by bit. A table of all 65,536 values gives the same float32 three times as fast.
    """
    if values.dtype == np.float16 and out.dtype == np.float32 and out.flags.c_contiguous:
        bits = values.view(values.dtype.str.replace("f", "u"))
        _from_float16().take(bits, out=out, mode="wrap")  # not the mode "raise", which copies `out` (NumPy, take)
    else:
        out[...] = values


@functools.cache
def _from_float16() -> np.ndarray:
    """Return the float32 value of each float16 by its bits, (65,536,)."""
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def stretches(numbers: np.ndarray, step: int = 1) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of each run in which numbers increase by `step`; `end` is exclusive. Numbers must not be empty."""
    edges = (np.flatnonzero(np.diff(numbers) != step) + 1).tolist()
    yield from zip([0, *edges], [*edges, len(numbers)], strict=True)


def spans(count: int, row_bytes: int) -> list[slice]:
    """Return slices of `count` rows, large enough to be read efficiently and small enough to keep all threads busy."""
    least, most = (each // max(1, row_bytes) for each in _SPAN_BYTES)
    step = max(1, least, min(-(-count // _pool(os.getpid())[0]), most))
    return [slice(first, min(first + step, count)) for first in range(0, count, step)]


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Yield a function's result for each item, in order, computed with one thread per core."""
    count, threads = _pool(os.getpid())
    yield from map(function, items) if min(count, len(items)) < 2 else threads.map(function, items)


@functools.lru_cache(maxsize=1)
def _pool(process: int) -> tuple[int, ThreadPoolExecutor]:
    """Return this process's number of threads and its pool; a forked child has none of its parent's threads."""
    return cores(), ThreadPoolExecutor(cores(), thread_name_prefix="cached-features-store")
