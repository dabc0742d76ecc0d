"""What a command answers with, and what the next command is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
