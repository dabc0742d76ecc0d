"""Checks of untrusted HDF5 files: no external links or storage, and no claim of more data than the file holds."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from ..errors import UnsafeFile
from .regular_files import is_out_of_reach

try:
    import resource
except ImportError:  # Windows has no such module
    resource = None  # type: ignore[assignment]

DEFLATE, LZ4, ZSTD = h5py.h5z.FILTER_DEFLATE, 32004, 32015  # HDF5's filter numbers
_SHUFFLE, _FLETCHER32 = h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32
_TABLES = frozenset({DEFLATE, _SHUFFLE, _FLETCHER32})
# The filters that a store's layers have ever had. Other plugins' filters were seen to crash, hang or exit the process.
_LAYERS = frozenset(
    {(DEFLATE,), (LZ4,), (ZSTD,), (), (LZ4, _FLETCHER32), (ZSTD, _FLETCHER32), (DEFLATE, _FLETCHER32), (_FLETCHER32,)}
)
_MOST_TEXTS = 1 << 30  # bytes of memory
_MOST_SECONDS = 5  # of the processor, to read the texts of a file; those of the largest base take less than one
_STATM, _LIMITED = Path("/proc/self/statm"), threading.Lock()
_MAX_OBJECTS, _MAX_DEPTH = 50_000, 30  # of a file; the weights of the largest base have 3,000 and 5
HEAD_BYTES = 18  # of a chunk are enough for `claimed_bytes`
# What h5py, NumPy and this program raise while they read a damaged or hostile file.
DAMAGE = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, SystemError, TypeError, ValueError)
# Deflate's largest expansion of one byte (RFC 1951: 258 bytes from 2 bits). Zstd exceeds it only on zeros.
_RATIO = 1032

# Reads all attributes of a file, and says so: HDF5 keeps their texts in heaps without checksums, where damage can make it
# search for ever.
_READ_TEXTS = f"""
import sys, h5py
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, ({_MOST_SECONDS}, {_MOST_SECONDS}))
    with open("/proc/self/statm") as used:
        most = int(used.read().split()[0]) * resource.getpagesize() + {_MOST_TEXTS}
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
except (ImportError, OSError, ValueError):  # no such limits, or lower ones already
    pass
with h5py.File(sys.argv[1], "r") as file:
    read = lambda name, node: [node.attrs[each] for each in node.attrs] and None
    read("", file)
    file.visititems(read)
print("read")
"""


def check_weights_file(path: str | Path) -> None:
    """Check an HDF5 file of weights before Keras reads it: `check_own_values`, and that reading its attributes comes to an end.

    Attributes of variable size are read by another process first, whose time is limited.

    Raises
    ------
    UnsafeFile
        If a check fails.
    OSError
        If the system cannot read the file.
    """
    try:
        with little_memory(path), h5py.File(path, "r") as file:
            check_own_values(file, path)
            own = [file, *(file[name] for name, _ in _links(file, path))]
            has_texts = any(node.attrs.get_id(name).dtype.hasobject for node in own for name in node.attrs)
    except DAMAGE as error:
        if isinstance(error, UnsafeFile) or is_out_of_reach(error):
            raise
        raise _damaged(path, " ".join(str(error).split())[:200]) from error
    if has_texts:
        _read_texts(path)


def _read_texts(path: str | Path) -> None:
    # -P: no module of the working directory is imported.
    command = [sys.executable, "-P", "-c", _READ_TEXTS, str(path)]
    try:
        read = subprocess.run(command, capture_output=True, text=True, timeout=20 * _MOST_SECONDS)
    except subprocess.TimeoutExpired:
        raise _damaged(path, f"reading its attributes took more than {20 * _MOST_SECONDS} s") from None
    if read.stdout.strip() != "read":
        last = read.stderr.strip().rpartition("\n")[2] or f"reading its attributes ended with status {read.returncode}"
        raise _damaged(path, last[:200])


def _damaged(path: str | Path, why: str) -> UnsafeFile:
    return UnsafeFile(
        f"{path} must be an HDF5 file that can be read; it is damaged ({why}). Make it again, or restore a copy."
    )


def check_own_values(
    file: h5py.File,
    where: str | Path,
    is_own: Callable[[str, h5py.Dataset], bool] = lambda name, data: False,
    layers: bool = False,
) -> None:
    """Check that reading a file opens no other file and needs no more memory than its size justifies.

    Parameters
    ----------
    file : h5py.File
    where : str or path-like
        Name of the file, for messages.
    is_own : callable
        ``is_own(name, dataset)`` returns whether a virtual dataset's sources are accepted; by default, none are.
    layers : bool
        Whether the file is a store or a part of one, whose features may be compressed by LZ4 or Zstd.

    Raises
    ------
    UnsafeFile
        If a link is soft or external, values are in another file or use a filter that is not ours, or a dataset claims chunks
        that do not exist.
    """
    for name, link in _links(file, where):
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
            _check_size(name, node, where, layers)


def _links(file: h5py.File, where: str | Path) -> list[tuple[str, Any]]:
    """Return the names and links of a file's objects, which must not be too many or too deep to be looked at."""
    links: list[tuple[str, Any]] = []

    def look(name: str, link: Any) -> bool | None:  # h5py swallows errors raised here; True ends the visit
        links.append((name, link))
        return True if len(links) > _MAX_OBJECTS or name.count("/") > _MAX_DEPTH else None

    if file.visititems_links(look):
        raise _unsafe(where, f"has more than {_MAX_OBJECTS:,} objects, or groups within {_MAX_DEPTH} others")
    return links


@contextmanager
def little_memory(where: str | Path) -> Iterator[None]:
    """Refuse a file whose attributes take more than 1 GiB of memory while they are read: all texts of one may be the same long one.

    HDF5 tells the sizes of texts only by reading them. The limit is this process's, for that moment, on systems that have one.
    """
    if resource is None or not _STATM.exists():
        yield
        return
    with _LIMITED:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        bound = int(_STATM.read_text(encoding="ascii").split()[0]) * resource.getpagesize() + _MOST_TEXTS
        bound = bound if soft == resource.RLIM_INFINITY else min(bound, soft)
        resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
        try:
            yield
        except (MemoryError, *DAMAGE) as error:  # HDF5's own, which h5py raises as OSError, RuntimeError or KeyError
            if not isinstance(error, MemoryError) and "memory allocation failed" not in str(error):
                raise
            raise _unsafe(where, f"has attributes that take more than {_MOST_TEXTS:,} bytes, or is damaged") from error
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def filters_of(data: h5py.Dataset) -> tuple[int, ...]:
    """Return HDF5's numbers of a dataset's filters, in order of application."""
    made = data.id.get_create_plist()
    return tuple(made.get_filter(each)[0] for each in range(made.get_nfilters()))


def claimed_bytes(filters: tuple[int, ...], head: bytes) -> int | None:
    """Return how many bytes a chunk says it decompresses to; None if no filter trusts such a claim.

    The plugins allocate what a chunk claims before they decompress it.

    Parameters
    ----------
    filters : tuple of int
        See `filters_of`.
    head : bytes
        The chunk's first `HEAD_BYTES`, as stored.

    Raises
    ------
    ValueError
        If the chunk does not begin as its filter writes it.

    Notes
    -----
    LZ4: 8 bytes, big-endian, then the block size in 4 (HDF5's registered filter 32004). Zstd: RFC 8878, section 3.1.1.1.
    """
    if LZ4 in filters:
        if len(head) < 12 or int.from_bytes(head[8:12], "big") == 0:
            raise ValueError("not an LZ4 chunk")
        return int.from_bytes(head[:8], "big")
    if ZSTD in filters:
        if len(head) < 6 or head[:4] != b"\x28\xb5\x2f\xfd":
            raise ValueError("not a Zstd frame")
        single, dictionary = head[4] >> 5 & 1, (0, 1, 2, 4)[head[4] & 3]
        size = (single, 2, 4, 8)[head[4] >> 6]
        start = 5 + (not single) + dictionary
        if not size or len(head) < start + size:
            raise ValueError("a Zstd frame without its size")
        return int.from_bytes(head[start : start + size], "little") + (256 if size == 2 else 0)
    return None


def _check_size(name: str, data: h5py.Dataset, where: str | Path, layers: bool) -> None:
    if data.dtype.hasobject:
        raise _unsafe(where, f"has values of variable size in {name}")
    filters = filters_of(data)
    if not set(filters) <= _TABLES and not (layers and name.startswith("features/") and filters in _LAYERS):
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
