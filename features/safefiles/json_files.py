"""JSON from untrusted files, with bounded size and depth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import UnsafeFile

MAX_BYTES = 64 << 20  # results with a thousand classes and all tried settings take a few MB


def parse_json(text: str | bytes, where: str | Path) -> dict[str, Any]:
    """Return a JSON object.

    Parameters
    ----------
    text : str or bytes
    where : str or path-like
        Name of the file, for messages.

    Raises
    ------
    UnsafeFile
        If it is larger than 64 MiB, nested too deeply, or not a JSON object.
    """
    if len(text) > MAX_BYTES:
        raise UnsafeFile(
            f"JSON must be at most {MAX_BYTES:,} bytes; {where} has {len(text):,}. It is not read; use another file."
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
    """Return the JSON object in a file, of which at most 64 MiB are read; see `parse_json`."""
    with open(path, "rb") as file:
        return parse_json(file.read(MAX_BYTES + 1), path)
