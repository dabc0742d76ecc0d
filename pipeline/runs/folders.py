"""Folders of results below ``runs/``: whole or not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from features.errors import RequestError, UnsafeFile, called, command, option
from features.runtime.atomic import written_whole
from features.safefiles.json_files import read_json

RESULTS = (
    "run.json",
    "compare.json",
    "probe.json",
    "lecture.json",
)  # a folder that holds one of these may be overwritten


def run_folder(out: str | Path | None, name: str, overwrite: bool) -> Path:
    """Return the folder for a run, refusing one that is taken; without `out` a free name below ``runs/``.

    Raises
    ------
    RequestError
        If `out` is there and is not to be overwritten, or what would be overwritten is no run.
    """
    if out is not None:
        folder = Path(out)
        if folder.exists() and not overwrite:
            raise RequestError(
                f"{called('out')} must be a new folder; {out} is there. Choose another, or replace it: {option('overwrite', True)}"
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
    """Give a folder to write into that appears as `folder`, which `run_folder` has allowed, only once it is whole."""
    with written_whole(folder, replace=overwrite) as unfinished:
        unfinished.mkdir()
        yield unfinished


def read_run(folder: str | Path) -> dict[str, Any]:
    """Return what ``run.json`` of a trained head says.

    Raises
    ------
    RequestError
        If there is none.
    UnsafeFile
        If it is not what ``train_head`` writes.
    """
    path = Path(folder) / "run.json"
    if not path.is_file():
        raise RequestError(f"{folder} holds no trained head. Train one: {command('train-head', store='STORE.h5')}")
    run = read_json(path)
    kinds = {"head": str, "store": str, "class_names": list, "reading": dict, "provenance": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(run.get(name), kind)]
    if wrong:
        raise UnsafeFile(f"{path} must say {', '.join(wrong)}, as train-head writes it. Train the head again.")
    return run
