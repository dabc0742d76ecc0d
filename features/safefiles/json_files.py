"""JSON from untrusted files, with bounded size and depth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import UnsafeFile
from .regular_files import read_first

MAX_BYTES = (
    16 << 20
)  # results with a thousand classes and all tried settings take a few MB; lists within lists take 44 times as much
_MAX_TEXT = 64 << 20  # of a part of a larger file, such as the texts of all rows


def parse_json(text: str | bytes, where: str | Path, most: int = _MAX_TEXT) -> dict[str, Any]:
    """Return a JSON object.

    Parameters
    ----------
    text : str or bytes
    where : str or path-like
        Name of the file, for messages.
    most : int
        Characters or bytes that are read.

    Raises
    ------
    UnsafeFile
        If it is larger than that, nested too deeply, or not a JSON object.
    """
    if len(text) > most:
        raise UnsafeFile(
            f"JSON must be at most {most:,} bytes; {where} has {len(text):,}. It is not read; use another file."
        )
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise UnsafeFile(f"{where} must be JSON; {reason}. Make it again, or restore a copy.") from error
    if not isinstance(value, dict):
        raise UnsafeFile(
            f"{where} must be a JSON object; got {type(value).__name__}. Make it again, or restore a copy."
        )
    return value


def read_json(path: str | Path) -> dict[str, Any]:
    """Return the JSON object in a regular file, of which at most 16 MiB are read; see `parse_json`."""
    return parse_json(read_first(path, MAX_BYTES + 1), path, MAX_BYTES)
