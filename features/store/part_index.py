"""Reading rows that are spread over several files: the parts of a store, and the index over them.

HDF5 could read the parts through the index's virtual datasets, but returns zeros for a part that it cannot open because the
part is missing or too many files are open. Here each part is opened, checked and read explicitly.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..errors import CachedFeaturesError, StoreError, shell
from ..safefiles.hdf5 import DAMAGE, check_own_values
from ..safefiles.regular_files import check_regular, is_out_of_reach
from .chunks import LayerReader, RowReader, stretches
from .schema import REMEDY, check_attributes, get_text, read_layer

_OPEN_FILES = 32  # parts kept open for the next read


def open_part(path: Path) -> h5py.File:
    """Open a part of a store and check that its attributes are intact and that it refers to no other file.

    Raises
    ------
    StoreError, UnsafeFile, OSError
    """
    check_regular(path)
    part = h5py.File(path, "r", locking=False)
    try:
        check_own_values(part, path, layers=True)
        check_attributes(part, path, _remedy(path))
    except BaseException:
        part.close()
        raise
    return part


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise StoreError, naming the file, if a part or an earlier store turns out to be damaged, missing or out of reach."""
    try:
        yield
    except CachedFeaturesError:
        raise
    except FileNotFoundError as error:
        raise StoreError(
            f"{path} is not there, and holds rows of its store. Restore it, or run the same extract again."
        ) from error
    except DAMAGE as error:
        raise fault(path, error, f"{path} is damaged ({error}). {_remedy(path)}") from error


def fault(path: Path, error: Exception, damage: str) -> StoreError:
    """Return the error for a file that cannot be read: as damaged, unless the system could not read it."""
    if is_out_of_reach(error):
        damage = f"{path} cannot be read ({error}). It may be whole, and nothing was removed: run the same command once it can be read."
    return StoreError(damage)


def _remedy(path: Path) -> str:
    """Return the remedy for a damaged file: a part can be computed again, but a store holds everything."""
    return f"Delete it and run the same command: {shell('rm', path)}" if path.name.startswith("part-") else REMEDY


class PartFiles:
    """The layers of several files, opened when needed; thread-safe.

    Parameters
    ----------
    open_file : callable
        ``open_file(path)`` opens a file and checks it; see `open_part`.
    reading : callable
        ``reading(path)`` returns a context in which a file is read; it may translate errors, as `reading` does.
    """

    def __init__(
        self,
        open_file: Callable[[Path], h5py.File],
        reading: Callable[[Path], AbstractContextManager[Any]] = contextlib.nullcontext,
    ):
        self._open_file, self._reading = open_file, reading
        self._lock = threading.Lock()
        self._open: dict[tuple[Path, str], LayerReader] = {}

    def layer(self, path: Path, layer: str) -> LayerReader:
        """Return a layer of a file, which is checked when opened. It stays usable after it is dropped from here.

        Raises
        ------
        StoreError, OSError, ValueError
            If the file is missing or damaged.
        """
        with self._lock, self._reading(path):
            if (path, layer) not in self._open:
                while len(self._open) >= _OPEN_FILES:
                    self._open.pop(next(iter(self._open)))
                file = self._open_file(path)
                try:
                    reader = self._open[path, layer] = read_layer(file, layer, path)
                except BaseException:
                    file.close()
                    raise
                weakref.finalize(reader, file.close) if reader.uses_hdf5 else file.close()
            return self._open[path, layer]

    def read(self, layer: str, paths: Sequence[Path], of: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
        """Read row ``rows[i]`` of the file ``paths[of[i]]`` into ``out[i]``."""
        for first, last in stretches(of, step=0):
            path = paths[of[first]]
            with self._reading(path):
                self.layer(path, layer).read(rows[first:last], out[first:last])


class Index:
    """The parts of one store.

    Parameters
    ----------
    path : Path
        The store.
    folder : Path
        The folder that must contain its parts.
    held : mapping of str to (int, str or None)
        Part, relative to the store's folder → its size in bytes, and the SHA-256 of its attributes (None in format 1).

    Raises
    ------
    StoreError
        If a part is missing, has another size, or is outside `folder`.
    """

    def __init__(self, path: Path, folder: Path, held: Mapping[str, tuple[int, str | None]]):
        self.path, self._held = path, held
        self._root = path.parent.resolve()
        self._files = PartFiles(self._open)
        for name in held:
            if name != f"{folder.name}/{Path(name).name}":
                raise StoreError(f"{path} refers to {name}, outside its own parts; it is not read. {REMEDY}")
            self._check_size(name)

    def is_own(self, name: str, data: h5py.Dataset) -> bool:
        """Return whether a virtual dataset refers only to the datasets of the same name in these parts."""
        made = data.id.get_create_plist()
        return all(
            _name_part(made, each) in self._held and made.get_virtual_dsetname(each).lstrip("/") == name
            for each in range(made.get_virtual_count())
        )

    def layer(self, data: h5py.Dataset) -> IndexedLayer:
        """Return a reader of a virtual dataset of the store."""
        return IndexedLayer(data, self._root, self._files)

    def _open(self, path: Path) -> h5py.File:
        name = path.relative_to(self._root).as_posix()
        self._check_size(name)
        part, (_, sha256) = open_part(path), self._held[name]
        if sha256 is not None and get_text(part, "sha256") != sha256:
            part.close()
            raise StoreError(f"{path} is not the part of {self.path} that had this name. {REMEDY}")
        return part

    def _check_size(self, name: str) -> None:
        part, (size, _) = self._root / name, self._held[name]
        try:
            found = part.stat().st_size
        except OSError as error:
            raise fault(part, error, f"{self.path} lacks its part {part} ({error.strerror}). {REMEDY}") from error
        if found != size:
            raise StoreError(f"{part} is damaged: {found} bytes instead of {size}. {REMEDY}")


def _name_part(made: h5py.h5p.PropDCID, number: int) -> str:
    """Return the file that a virtual dataset's mapping refers to, as passed to `schema.link`."""
    name: str = made.get_virtual_filename(number)
    return name.replace("%%", "%")


class IndexedLayer(RowReader):
    """Reads one layer of a store in parts.

    Raises
    ------
    StoreError
        While reading, if a part was removed or changed after the store was opened.
    """

    def __init__(self, data: h5py.Dataset, root: Path, files: PartFiles):
        made = data.id.get_create_plist()
        count = made.get_virtual_count()
        firsts = [made.get_virtual_vspace(each).get_select_bounds()[0][0] for each in range(count)]
        sources = [made.get_virtual_srcspace(each).get_select_bounds()[0][0] for each in range(count)]
        order = np.argsort(firsts, kind="stable")
        self._firsts = np.array(firsts, np.int64)[order]  # first row of each run of rows in one part
        self._sources = np.array(sources, np.int64)[order]  # its first row there
        found = [_name_part(made, each) for each in range(count)]
        names = {name: number for number, name in enumerate(dict.fromkeys(found))}
        self._of = np.array([names[found[each]] for each in order])
        self._paths = [root / name for name in names]
        self._layer, self._files = data.name.removeprefix("/features/"), files
        self.row_shape, self.dtype = data.shape[1:], data.dtype

    def read(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Read the given rows into an array of this or another number type."""
        stretch = np.searchsorted(self._firsts, rows, "right") - 1
        within = self._sources[stretch] + rows - self._firsts[stretch]
        self._files.read(self._layer, self._paths, self._of[stretch], within, out)
