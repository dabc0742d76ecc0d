"""Names of files as text, also where their bytes are not UTF-8."""

from __future__ import annotations

import os
import re
from pathlib import Path

_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")


def unicode_name(name: str) -> str:
    """Return a file name with bytes that are not UTF-8 escaped, a backslash, x and two digits for each."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def named_file(root: Path, name: str) -> Path:
    """Return the file below a root that `unicode_name` gave this name."""
    file = root / name
    if "\\x" not in name or file.exists():
        return file
    data = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), name.encode())
    return root / os.fsdecode(data)


def absolute_name(file: Path) -> str:
    """Return a file's name from the root of the file system on, without ``..`` unless a link stands before it; links stay."""
    short = os.path.normpath(file.absolute())
    return short if os.path.realpath(short) == os.path.realpath(file) else str(file.absolute())
