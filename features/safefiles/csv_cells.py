"""Cells of CSV tables that spreadsheets do not take for formulas, whatever strangers named their files and classes."""

from __future__ import annotations

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that is computed (OWASP, CSV injection)


def text_cell(text: str) -> str:
    """Return a text, behind an apostrophe if it would be a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def plain_text(cell: str) -> str:
    """Return the text of a cell that `text_cell` wrote."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell


def path_cell(path: str) -> str:
    """Return a relative path, behind ``./`` if it would be a formula; it names the same file."""
    return f"./{path}" if path.startswith(_FORMULA) else path
