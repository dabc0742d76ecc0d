"""A comparison of bases as its page shows it: what each costs per image, and how good its heads are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from features.errors import UnsafeFile
from features.safefiles.json_files import read_json

from ...evaluation.metrics import Metric
from ...runs.checksums import check_sums
from ...training.studies.base_comparison import BASES, choose_base, compare_next
from .. import figures
from ..run_results import metric_of

_KEYS = {"stores": dict, "repeats": int, "test": str}
# Key of a row, its unit per image, that unit's size, and how it is written.
_COSTS = (
    ("multiply_adds", "GMAC", 1e9, "{:.2f}"),
    ("milliseconds", "ms", 1.0, "{:.1f}"),
    ("stored", "kB of features", 1e3, "{:,.1f}"),
)


def gather_bases(folder: Path) -> dict[str, Any]:
    """Return all that the page of a comparison of bases shows.

    Raises
    ------
    UnsafeFile
        If ``bases.json`` is not what ``compare_bases`` wrote.
    """
    path = folder / BASES
    check_sums(folder, BASES)
    told = read_json(path)
    try:
        metric, rows = metric_of(told, path), told["table"]
        names = [each["base"] if _has_one_head(rows) else f"{each['base']}, {each['head']}" for each in rows]
        page = {key: kind(told[key]) for key, kind in _KEYS.items()} | {"folder": folder.name, "metric": metric}
        return page | {
            "rows_of_table": [
                {**each, **_told(row, name)}
                for each, row, name in zip(figures.leaderboard(rows, metric)["rows"], rows, names, strict=True)
            ],
            "charts": _charts(rows, names, metric),
            "not_fitted": [  # of earlier versions, which compared all or nothing, none
                {key: str(each[key]) for key in ("base", "head", "why")} for each in told.get("not_fitted", [])
            ],
            **dict(zip(("take", "why"), choose_base(rows, metric), strict=True)),
            "command": compare_next(told),
            "tested": sum(told["rows"].get("test", {}).values()),
        }
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise UnsafeFile(f"{path} must be as compare wrote it; {error!r}. Compare the bases again.") from error


def _has_one_head(rows: Sequence[dict[str, Any]]) -> bool:
    return len({each["head"] for each in rows}) == 1


def _told(row: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a row's costs as text, by key, and its name."""
    known = {key: text.format(row[key] / size) for key, _, size, text in _COSTS if row.get(key) is not None}
    return {"name": name, "costs": dict.fromkeys((key for key, *_ in _COSTS), "–") | known}


def _charts(rows: Sequence[dict[str, Any]], names: Sequence[str], metric: Metric) -> list[dict[str, Any]]:
    """Return the charts of the metric against each cost that is known of all rows; earlier versions did not count multiply-adds."""
    found = []
    for key, unit, size, text in _COSTS:
        if all(row.get(key) for row in rows):
            marks = [
                figures.Mark(name, row[key] / size, f"{text.format(row[key] / size)} {unit}")
                for name, row in zip(names, rows, strict=True)
            ]
            found.append({"unit": unit, "chart": figures.cost_chart(rows, marks, metric, f"{unit} per image")})
    return found
