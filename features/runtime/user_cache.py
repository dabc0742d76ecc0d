"""The per-user folder for what is made once and used by every project."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from .atomic import written_whole


def cache_folder() -> Path:
    """Return the folder; on Linux ``$XDG_CACHE_HOME/cached-features``, or ``~/.cache/cached-features`` where that is not set."""
    return user_cache_path("cached-features", appauthor=False)


def recall(what: str, key: Any) -> Any:
    """Return what `remember` was given under this key, or None."""
    try:
        note = json.loads(_note(what, key).read_text(encoding="utf-8"))
        return note["value"] if note["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # never noted, or damaged: it is found out again


def remember(what: str, key: Any, value: Any) -> None:
    """Keep a value that took long to find, for this user and machine; key and value as JSON has them."""
    with written_whole(_note(what, key)) as path:
        path.write_text(json.dumps({"key": key, "value": value}, indent=1), encoding="utf-8")


def _note(what: str, key: Any) -> Path:
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_folder() / what / f"{name}.json"
