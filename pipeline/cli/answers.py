"""What a command answers with, and what the next command is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from features.options import flags_of


@dataclass(frozen=True)
class Answer:
    """What a command answers with.

    Attributes
    ----------
    result : dict
        For ``--json``.
    text : str or None
        The same for people; None: nothing is printed.
    after : tuple of str
        What is said after it: the next command.
    """

    result: Mapping[str, Any]
    text: str | None
    after: tuple[str, ...] = ()


def keep_options(given: Mapping[str, Any], of: type) -> dict[str, Any]:
    """Return the given options that the next command also has, except for where results go."""
    own = flags_of(of).keys() - {"out", "overwrite"}
    return {name: value for name, value in given.items() if name in own}
