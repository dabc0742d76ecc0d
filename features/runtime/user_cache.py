"""The per-user folder for what is made once and used by every project."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/cached-features``, else ``~/.cache/cached-features``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cached-features"


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a name to write to, which becomes `path` once all is well; others may do the same at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        yield Path(folder) / path.name
        os.replace(Path(folder) / path.name, path)


def recall(what: str, key: Any) -> Any:
    """Return what `remember` was given under this key, or None."""
    try:
        note = json.loads(_note(what, key).read_text(encoding="utf-8"))
        return note["value"] if note["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # never noted, or damaged: it is found out again


def remember(what: str, key: Any, value: Any) -> None:
    """Keep a value that took long to find, for this user and machine; key and value as JSON has them."""
    with new_file(_note(what, key)) as path:
        path.write_text(json.dumps({"key": key, "value": value}, indent=1), encoding="utf-8")


def _note(what: str, key: Any) -> Path:
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_folder() / what / f"{name}.json"
