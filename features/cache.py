"""The per-user folder for what is made once and used by every project."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/cached-features``, else ``~/.cache/cached-features``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cached-features"
