"""Reading a store that consists of parts and an index over them.

HDF5 could read the parts through the index's virtual datasets, but returns zeros for a part that it cannot open because the
part is missing or too many files are open. Here each part is opened, checked and read explicitly.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from ..errors import StoreError
from ..safefiles.hdf5 import check_own_values
from .schema import runs

_OPEN_FILES = 32  # parts kept open for the next read
REMEDY = "Extract it again, or restore a copy."


class Index:
    """The parts of one store.

    Parameters
    ----------
    path : Path
        The store.
    folder : Path
        The folder that must contain its parts.
    sizes : mapping of str to int
        Part, relative to the store's folder → size in bytes.

    Raises
    ------
    StoreError
        If a part is missing, has another size, or is outside `folder`.
    """

    def __init__(self, path: Path, folder: Path, sizes: Mapping[str, int]):
        self.path, self._sizes = path, sizes
        self._root = str(path.parent.resolve())
        self._open: dict[str, h5py.File] = {}
        self._places: dict[str, tuple[np.ndarray, np.ndarray, list[str]]] = {}
        for name in sizes:
            if name != f"{folder.name}/{Path(name).name}":
                raise StoreError(f"{path} refers to {name}, outside its own parts; it is not read. {REMEDY}")
            self._check_size(name)

    def is_own(self, name: str, data: h5py.Dataset) -> bool:
        """Return whether a virtual dataset refers only to the datasets of the same name in these parts."""
        made = data.id.get_create_plist()
        return all(
            made.get_virtual_filename(each) in self._sizes and made.get_virtual_dsetname(each).lstrip("/") == name
            for each in range(made.get_virtual_count())
        )

    def read(self, data: h5py.Dataset, rows: np.ndarray, out: np.ndarray) -> None:
        """Read the given rows of a virtual dataset into an array.

        Raises
        ------
        StoreError
            If a part was removed or changed after the store was opened.
        """
        layer = data.name
        if layer not in self._places:
            self._places[layer] = _places(data)
        firsts, sources, names = self._places[layer]
        of = np.searchsorted(firsts, rows, "right") - 1
        within = sources[of] + rows - firsts[of]
        for first, last in runs(within + (of << 40)):
            part = self._part(names[of[first]])
            source = np.s_[int(within[first]) : int(within[first]) + last - first]
            part[layer].read_direct(out, source, np.s_[first:last])

    def close(self) -> None:
        """Close all open parts."""
        for part in self._open.values():
            part.close()
        self._open.clear()

    def _part(self, name: str) -> h5py.File:
        """Return an open part, which is checked when opened."""
        if name not in self._open:
            if len(self._open) >= _OPEN_FILES:
                self._open.pop(next(iter(self._open))).close()
            self._check_size(name)
            part = h5py.File(f"{self._root}/{name}", "r", locking=False)
            try:
                check_own_values(part, f"{self._root}/{name}")
            except BaseException:
                part.close()
                raise
            self._open[name] = part
        return self._open[name]

    def _check_size(self, name: str) -> None:
        part, size = f"{self._root}/{name}", self._sizes[name]
        try:
            found = Path(part).stat().st_size
        except OSError as error:
            raise StoreError(f"{self.path} lacks its part {part} ({error.strerror}). {REMEDY}") from error
        if found != size:
            raise StoreError(f"{part} is damaged: {found} bytes instead of {size}. {REMEDY}")


def _places(data: h5py.Dataset) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return, for each run of rows of a virtual dataset in order: its first row, its first row in the part, and the part."""
    made = data.id.get_create_plist()
    count = made.get_virtual_count()
    firsts = np.array([made.get_virtual_vspace(each).get_select_bounds()[0][0] for each in range(count)], np.int64)
    sources = np.array([made.get_virtual_srcspace(each).get_select_bounds()[0][0] for each in range(count)], np.int64)
    order = np.argsort(firsts, kind="stable")
    names = [made.get_virtual_filename(int(each)) for each in order]
    return firsts[order], sources[order], names
