"""What a command answers with, and what the next command is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from features.options import flags_of

Answer = tuple[dict[str, Any], str | None]  # a result as JSON and as text


def keep_options(given: Mapping[str, Any], of: type) -> dict[str, Any]:
    """Return the given options that the next command also has, except for where results go."""
    own = flags_of(of).keys() - {"out", "overwrite"}
    return {name: value for name, value in given.items() if name in own}
