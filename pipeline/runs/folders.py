"""Result folders below ``runs/``, which appear only when complete."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from features.errors import RequestError, UnsafeFile, called, command, option
from features.runtime.atomic import written_whole
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


def place_of(store: str | Path, folder: Path) -> dict[str, str]:
    """Return what a run tells of where its store lies: the path as it was given, and as it is seen from the run's folder."""
    return {"store": str(store), "store_from_run": os.path.relpath(Path(store).resolve(), folder.resolve())}


def find_store(told: Mapping[str, Any], folder: Path) -> Path:
    """Return where the store of a run lies: where it did, else where it is if both were moved together."""
    path, beside = Path(told["store"]), told.get("store_from_run")
    if not path.exists() and isinstance(beside, str) and (folder.resolve() / beside).exists():
        return Path(os.path.normpath(folder.resolve() / beside))
    return path


def run_folder(out: str | Path | None, name: str, overwrite: bool) -> Path:
    """Return the folder for a run; without `out`, an unused name below ``runs/``.

    Raises
    ------
    RequestError
        If `out` exists and may not be overwritten, or what would be overwritten is not a run.
    """
    if out is not None:
        folder = Path(out)
        if folder.exists() and not overwrite:
            raise RequestError(
                f"{called('out')} must be a new folder; {out} exists. Choose another, or replace it: {option('overwrite', True)}"
            )
    else:
        folder, number = Path("runs") / name, 1
        while folder.exists() and not overwrite:
            number += 1
            folder = Path("runs") / f"{name}-{number}"
    if folder.exists() and not any((folder / each).exists() for each in RESULTS):
        raise RequestError(
            f"{folder} must be an earlier run to be replaced; it is something else. Choose another {called('out')}"
        )
    return folder


@contextmanager
def whole_folder(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder to write into, which is renamed to `folder`, allowed by `run_folder`, when complete.

    It then also holds the list of its files' checksums.
    """
    with written_whole(folder, replace=overwrite) as unfinished:
        unfinished.mkdir()
        yield unfinished
        write_sums(unfinished)


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
        if isinstance(store, str) and isinstance(heads[0], dict) and isinstance(heads[0].get("head"), str):
            train = command("train-head", store=store, head=heads[0]["head"])
            return RequestError(
                f"{called('run')} must be a trained head; {folder} is a comparison, which keeps none. Train its best: {train}"
            )
    if folder.is_file():
        return RequestError(
            f"{called('run')} must be the folder of a trained head; got {folder}, a file. "
            f"Train one: {command('train-head', store=str(folder) if folder.suffix == '.h5' else 'STORE.h5')}"
        )
    found = [path.parent.name for path in sorted(folder.glob("*/run.json"))][:3]
    inside = f" There are some in it: {', '.join(found)}." if found else ""
    return RequestError(f"{folder} holds no trained head.{inside} Train one: {command('train-head', store='STORE.h5')}")
