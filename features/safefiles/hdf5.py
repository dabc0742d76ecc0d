"""Checks of untrusted HDF5 files: no external links or storage, and no claim of more data than the file holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py

from ..errors import UnsafeFile

DEFLATE, LZ4, ZSTD = h5py.h5z.FILTER_DEFLATE, 32004, 32015  # HDF5's filter numbers
# The filters that this program has ever used. Other plugins' filters were seen to crash, hang or exit the process.
_FILTERS = frozenset({DEFLATE, LZ4, ZSTD, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32})
# What h5py, NumPy and this program raise while they read a damaged or hostile file.
DAMAGE = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
# Deflate's largest expansion of one byte (RFC 1951: 258 bytes from 2 bits). Zstd exceeds it only on zeros.
_RATIO = 1032


def check_own_values(
    file: h5py.File, where: str | Path, is_own: Callable[[str, h5py.Dataset], bool] = lambda name, data: False
) -> None:
    """Check that reading a file opens no other file and needs no more memory than its size justifies.

    Parameters
    ----------
    file : h5py.File
    where : str or path-like
        Name of the file, for messages.
    is_own : callable
        ``is_own(name, dataset)`` returns whether a virtual dataset's sources are accepted; by default, none are.

    Raises
    ------
    UnsafeFile
        If a link is soft or external, values are in another file or use a filter that is not ours, or a dataset claims chunks
        that do not exist.
    """
    links: list[tuple[str, Any]] = []
    file.visititems_links(lambda name, link: links.append((name, link)))  # h5py swallows errors raised in this callback
    for name, link in links:
        if not isinstance(link, h5py.HardLink):
            raise _unsafe(where, f"has a link at {name} to another object or file")
        node = file.get(name)
        if not isinstance(node, h5py.Dataset):
            continue
        if node.is_virtual:
            if not is_own(name, node):
                raise _unsafe(where, f"takes {name} from other files")
        elif node.id.get_create_plist().get_external_count():
            raise _unsafe(where, f"keeps {name} in other files")
        else:
            _check_size(name, node, where)


def filters_of(data: h5py.Dataset) -> tuple[int, ...]:
    """Return HDF5's numbers of a dataset's filters, in order of application."""
    made = data.id.get_create_plist()
    return tuple(made.get_filter(each)[0] for each in range(made.get_nfilters()))


def _check_size(name: str, data: h5py.Dataset, where: str | Path) -> None:
    if data.dtype.hasobject:
        raise _unsafe(where, f"has values of variable size in {name}")
    if not set(filters_of(data)) <= _FILTERS:
        raise _unsafe(where, f"has values in {name} that use an HDF5 filter which is not accepted")
    if not data.size:
        return
    stored, claimed = data.id.get_storage_size(), data.size * data.dtype.itemsize
    if data.chunks:
        chunks = math.prod(-(-length // chunk) for length, chunk in zip(data.shape, data.chunks, strict=True))
        whole = data.id.get_num_chunks() == chunks and claimed <= _RATIO * stored
    else:
        whole = stored == claimed
    if not whole or stored > data.file.id.get_filesize():  # the file itself says how large its chunks are
        raise _unsafe(where, f"claims {claimed:,} bytes in {name} but holds {stored:,}")


def _unsafe(where: str | Path, why: str) -> UnsafeFile:
    return UnsafeFile(f"{where} {why}; it is not read. Use a file from a source you trust, or extract it again.")
