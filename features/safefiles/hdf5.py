"""HDF5 files that hold their own values: no links out, no foreign storage, no more claimed than is there."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py

from ..errors import UnsafeFile

DEFLATE, LZ4, ZSTD = h5py.h5z.FILTER_DEFLATE, 32004, 32015  # HDF5's numbers of filters
# All that this program has ever written. Others that a plugin brings were seen to crash, to hang, or to end the process.
_FILTERS = frozenset({DEFLATE, LZ4, ZSTD, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32})
# What deflate can make of one byte at the most (RFC 1951: 258 bytes of 2 bits). Zstd can do better on zeros alone.
_RATIO = 1032


def check_own_values(
    file: h5py.File, where: str | Path, is_own: Callable[[str, h5py.Dataset], bool] = lambda name, data: False
) -> None:
    """Check that reading a file opens no other, and takes no more memory than its size accounts for.

    Parameters
    ----------
    file : h5py.File
    where : str or path-like
        Its name, for people.
    is_own : callable
        ``is_own(name, dataset)`` tells whether a virtual dataset's sources are accepted; none are if left out.

    Raises
    ------
    UnsafeFile
        If a link is soft or external, values lie in another file or went through a filter that is not ours, or a dataset claims
        chunks that are not there.
    """
    links: list[tuple[str, Any]] = []
    file.visititems_links(lambda name, link: links.append((name, link)))  # h5py lets no error out of this
    for name, link in links:
        if not isinstance(link, h5py.HardLink):
            raise _unsafe(where, f"has a link at {name} to somewhere else")
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
    """Return HDF5's numbers of the filters that a dataset's chunks went through, in their order."""
    made = data.id.get_create_plist()
    return tuple(made.get_filter(each)[0] for each in range(made.get_nfilters()))


def _check_size(name: str, data: h5py.Dataset, where: str | Path) -> None:
    if data.dtype.hasobject:
        raise _unsafe(where, f"has values of no fixed size in {name}")
    if not set(filters_of(data)) <= _FILTERS:
        raise _unsafe(where, f"has values in {name} that went through a filter of HDF5 which is not accepted")
    if not data.size:
        return
    stored, claimed = data.id.get_storage_size(), data.size * data.dtype.itemsize
    if data.chunks:
        chunks = math.prod(-(-length // chunk) for length, chunk in zip(data.shape, data.chunks, strict=True))
        whole = data.id.get_num_chunks() == chunks and claimed <= _RATIO * stored
    else:
        whole = stored == claimed
    if not whole:
        raise _unsafe(where, f"claims {claimed:,} bytes in {name} and holds {stored:,}")


def _unsafe(where: str | Path, why: str) -> UnsafeFile:
    return UnsafeFile(f"{where} {why}; it is not read. Use a file from somebody you trust, or extract it again.")
