"""Columns read from paths by patterns, such as the patient in ``ill/p03_f1.jpg``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from ..errors import RequestError, SourceError, called
from .source import Source

Patterns = Mapping[str, re.Pattern[str]]


def compile_patterns(column: Mapping[str, str]) -> Patterns:
    """Return column name → compiled regular expression.

    Raises
    ------
    RequestError
        If a pattern is not a regular expression, or a name is not a valid column name.
    """
    patterns = {}
    for name, pattern in column.items():
        if name in ("", ".") or "/" in name:
            raise RequestError(
                f"{called('column')} must have a name without '/', such as patient; got {name!r}. Rename it."
            )
        try:
            patterns[name] = re.compile(pattern)
        except re.error as error:
            raise RequestError(
                f"{called('column')} {name} must be a regular expression; got {pattern!r} ({error}). Such as 'p[0-9]+' for p03 in ill/p03.jpg"
            ) from error
    return patterns


def find_text(pattern: re.Pattern[str], path: str) -> str | None:
    """Return what the pattern's first group, or else the whole pattern, matches in a path; None if it does not match."""
    match = pattern.search(path)
    return None if match is None else match[min(1, pattern.groups)]


def add_columns(source: Source, patterns: Patterns) -> Source:
    """Return a source with further columns: what each pattern's first group, or else the whole pattern, matches in a path.

    Raises
    ------
    RequestError
        If the source already has a column of that name.
    SourceError
        If a pattern does not match every path.
    """
    columns = dict(source.columns)
    for name, pattern in patterns.items():
        if name in columns:
            raise RequestError(
                f"{called('column')} must be new; {name} is one of the source already. Take another name."
            )
        texts = [find_text(pattern, path) for path in source.paths]
        other = [path for path, text in zip(source.paths, texts, strict=True) if text is None]
        if other:
            raise SourceError(
                f"{called('column')} {name} must match every path; {pattern.pattern!r} does not match "
                f"{'any' if len(other) == len(source) else len(other)} of {len(source)}, such as {', '.join(other[:3])}. "
                f"Correct the pattern, which is searched for in the path below {source.root}"
            )
        columns[name] = tuple(text for text in texts if text is not None)
    return replace(source, columns=columns)
