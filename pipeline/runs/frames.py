"""Results as a pandas table, if pandas is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from features.errors import missing_extra


def make_frame(rows: Sequence[dict[str, Any]]) -> Any:
    """Return a ``pandas.DataFrame`` with one row per dict.

    Raises
    ------
    RequestError
        If pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise missing_extra("pandas", "pandas", "to_frame()") from error
    return pandas.DataFrame(list(rows))
