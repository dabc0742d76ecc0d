"""Tables in CSV files, in the variants that spreadsheets save."""

from __future__ import annotations

import codecs
import csv
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ...errors import SourceError
from ...safefiles.regular_files import read_whole

# By byte-order mark; UTF-32's begins with UTF-16's, so it comes first.
_ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_MAX_BYTES = 1 << 30  # ten million lines
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True)
class Table:
    """Lines of texts under headers.

    Attributes
    ----------
    headers : tuple of str
        Unique, except that columns without a name have an empty header.
    lines : list of (int, list of str)
        Line number in the file, and one text per header.
    notes : tuple of str
        Human-readable notes on how the file was read.
    """

    headers: tuple[str, ...]
    lines: list[tuple[int, list[str]]]
    notes: tuple[str, ...] = ()


def read_table(path: Path) -> Table:
    """Read a CSV file in the encoding of its byte-order mark, else UTF-8, with the separator that splits its header best.

    Raises
    ------
    SourceError
        If it is not a CSV file, two columns have the same name, or a line has more fields than there are headers.
    """
    data = read_whole(path, _MAX_BYTES)
    encoding = next((name for mark, name in _ENCODINGS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
        if "\0" in text:
            raise SourceError(f"{path} must be text; it holds zero bytes. Save it again as CSV in UTF-8.")
        first, separator = _split_header(text)
        # Unless skipped, a blank after a separator would keep the next field's quotes from being recognised.
        blanks = any(header.startswith(" ") for header in first)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=blanks, strict=True)
        headers = tuple(header.strip() for header in next(reader, []))
        lines = [(reader.line_num, fields) for fields in reader if any(field.strip() for field in fields)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path} must be a CSV file in UTF-8; {error}. Save it again as UTF-8.") from error
    twice = [name for name, count in Counter(headers).items() if name and count > 1]
    if twice:
        raise SourceError(f"{path} must name each column once; {', '.join(twice)} is there twice. Rename one.")
    for number, fields in lines:
        if any(field.strip() for field in fields[len(headers) :]):
            raise SourceError(
                f"{path}:{number} must have {len(headers)} fields, as the first line has; got {len(fields)}. "
                f"Put a text that holds {_SEPARATORS[separator]} between quotation marks."
            )
    lines = [(number, (fields + [""] * len(headers))[: len(headers)]) for number, fields in lines]
    read_as = [f"with {_SEPARATORS[separator]} between fields"] if separator != "," else []
    read_as += [f"as {encoding.upper()}"] if encoding not in ("utf-8", "utf-8-sig") else []
    return Table(headers, lines, (f"{path.name} is read {' and '.join(read_as)}",) if read_as else ())


def _split_header(text: str) -> tuple[list[str], str]:
    """Return the fields of the first line and the separator that gives the most of them; a comma if none gives two."""
    found = {each: next(csv.reader(io.StringIO(text, newline=""), delimiter=each), []) for each in _SEPARATORS}
    separator = max(found, key=lambda each: len(found[each]))
    return found[separator], separator
