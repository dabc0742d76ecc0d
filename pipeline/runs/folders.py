"""Result folders below ``runs/``, which appear only when complete."""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from features.errors import RequestError, UnsafeFile, called, command, find_near, listed, option
from features.runtime.atomic import flock, make_folder, written_whole
from features.safefiles.json_files import read_json

from .checksums import check_sums, write_sums

RESULTS = (
    "run.json",
    "compare.json",
    "bases.json",
    "probe.json",
    "audit.json",
    "budget.json",
    "lecture.json",
    "queue.json",
)  # a folder that holds one of these may be overwritten
_NAMED = 3  # runs of a folder that was given for one


def place_of(store: str | Path, folder: Path) -> dict[str, str]:
    """Return what a run tells of where its store lies: the path as it was given, and as it is seen from the run's folder."""
    return {"store": str(store), "store_from_run": os.path.relpath(Path(store).resolve(), folder.resolve())}


def find_store(told: Mapping[str, Any], folder: Path) -> Path:
    """Return where the store of a run lies: where it did, else where it is if both were moved together."""
    path, beside = Path(told["store"]), told.get("store_from_run")
    if not path.exists() and isinstance(beside, str) and (folder.resolve() / beside).exists():
        return Path(os.path.normpath(folder.resolve() / beside))
    return path


_CLAIMS: dict[
    Path, tuple[int, weakref.finalize[..., object]]
] = {}  # lock → the thread that holds it, and what releases it


class ResultFolder:
    """A folder for results, whose name no other process or thread takes until this object is gone.

    A thread that asks again for a name gets it: its earlier call has ended, even if a traceback still holds the object.

    Parameters
    ----------
    out : str or Path, optional
        By default, an unused name below ``runs/``.
    name : str
        That name, of which ``NAME-2`` and so on are the next.
    overwrite : bool
        Whether earlier results there are replaced.

    Attributes
    ----------
    path : Path

    Raises
    ------
    RequestError
        If `out` exists and may not be overwritten, another process writes it, or what would be overwritten is not a run.
    """

    def __init__(self, out: str | Path | None, name: str, overwrite: bool):
        self._overwrite = overwrite
        for number in itertools.count(1):
            self.path = Path(out) if out is not None else Path("runs") / (name if number == 1 else f"{name}-{number}")
            free = not self.path.exists() or overwrite
            if free and self._claim() and (overwrite or not self.path.exists()):  # it may be there since
                break
            if out is not None or overwrite:
                raise RequestError(self._taken(free))
        if self.path.exists() and not any((self.path / each).exists() for each in RESULTS):
            raise RequestError(
                f"{self.path} must be an earlier run to be replaced; it is something else. Choose another {called('out')}"
            )

    def _claim(self) -> bool:
        """Lock the name until this object is gone; return whether it was free."""
        make_folder(self.path.parent)
        lock, held = self.path.absolute().with_name(f".{self.path.name}.lock"), False
        thread, release = _CLAIMS.get(lock, (0, None))
        if release is not None and thread == threading.get_ident():
            release()
        while not held:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                flock(handle)
            except BlockingIOError:
                os.close(handle)
                return False
            except OSError:  # a file system without locks
                pass
            held = os.fstat(handle).st_nlink > 0  # else its holder has removed it since
            if not held:
                os.close(handle)
        _CLAIMS[lock] = threading.get_ident(), weakref.finalize(self, _release, lock, handle)
        return True

    def _taken(self, free: bool) -> str:
        if free:
            return f"{self.path} must not be in use; another command is writing it. Wait for it, or choose another {called('out')}"
        return (
            f"{called('out')} must be a new folder; {self.path} exists. Choose another, or replace it: "
            f"{option('overwrite', True)}"
        )

    @contextmanager
    def written(self) -> Iterator[Path]:
        """Yield a temporary folder to write into, which becomes `path` when complete, with the list of its files' checksums."""
        with written_whole(self.path, replace=self._overwrite) as unfinished:
            unfinished.mkdir()
            yield unfinished
            write_sums(unfinished)


def _release(lock: Path, handle: int) -> None:
    _CLAIMS.pop(lock, None)
    lock.unlink(missing_ok=True)
    os.close(handle)


def read_results(folder: Path) -> tuple[dict[str, Any], Path]:
    """Return the contents of a comparison's ``compare.json`` or a trained head's ``run.json``, and which file it is.

    As ``store`` they have where the store lies now; see `find_store`.

    Raises
    ------
    RequestError
        If the folder has neither.
    """
    for path in (folder / "compare.json", folder / "run.json"):
        if path.is_file():
            check_sums(folder, path.name)
            told = read_json(path)
            if isinstance(told.get("store"), str):
                told["store"] = str(find_store(told, folder))
            return told, path
    there = "holds neither" if folder.exists() else "is not there"
    raise RequestError(
        f"{called('run')} must be a folder with compare.json or run.json; {folder} {there}.{_inside(folder, RESULTS[:2])} "
        f"{how_to_make(folder, 'compare')}"
    )


def read_run(folder: str | Path) -> dict[str, Any]:
    """Return the contents of a trained head's ``run.json``, and as ``store`` where its store lies now; see `find_store`.

    Raises
    ------
    RequestError
        If the folder has none.
    UnsafeFile
        If it lacks entries that ``train_head`` writes.
    """
    path = Path(folder) / "run.json"
    if not path.is_file():
        raise _no_head(Path(folder))
    check_sums(path.parent, path.name)
    run = read_json(path)
    kinds = {"head": str, "store": str, "class_names": list, "reading": dict, "provenance": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(run.get(name), kind)]
    if wrong:
        raise UnsafeFile(f"{path} must contain {', '.join(wrong)} as train-head writes them. Train the head again.")
    return run | {"store": str(find_store(run, path.parent))}


def _no_head(folder: Path) -> RequestError:
    """Return the error for a folder without a trained head, with the command that is likely meant."""
    if (folder / "compare.json").is_file():
        told = read_json(folder / "compare.json")
        heads, store = told.get("heads") or [{}], told.get("store")
        best = heads[0].get("head") if isinstance(heads[0], dict) else None
        taken = told.get("take", best)  # earlier versions did not keep it
        if isinstance(store, str) and isinstance(taken, str):
            train = command("train-head", store=store, head=taken)
            return RequestError(
                f"{called('run')} must be a trained head; {folder} is a comparison, which keeps none. Train the one to take: {train}"
            )
    if folder.is_file():
        return RequestError(
            f"{called('run')} must be the folder of a trained head; got {folder}, a file. {how_to_make(folder)}"
        )
    wrong = "holds no trained head" if folder.exists() else "is not there"
    return RequestError(
        f"{called('run')} must be the folder of a trained head; {folder} {wrong}.{_inside(folder, RESULTS[:1])} {how_to_make(folder)}"
    )


def _inside(folder: Path, names: Sequence[str]) -> str:
    """Return a sentence that names those folders in a folder that hold one of these files, the newest first; empty if none does."""
    found = [path for name in names for path in folder.glob(f"*/{name}")]
    newest = sorted(found, key=lambda path: -path.stat().st_mtime)
    return f" In it are {listed([str(path.parent) for path in newest], _NAMED)}." if found else ""


def how_to_make(run: Path, by: str = "train-head") -> str:
    """Return the remedy where a run is none: the nearest name if it is not there, else the command that makes one.

    It is of the store that was given instead of a run, or of any.
    """
    is_store = run.suffix == ".h5" and run.is_file()
    make = f"Make one: {command(by, store=str(run) if is_store else 'STORE.h5')}"
    return make if run.exists() else find_near(run, make)
