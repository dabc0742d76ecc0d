"""What a label budget beside a run says, laid out for the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from features.errors import UnsafeFile
from features.safefiles.json_files import read_json

from ...evaluation.metrics import METRICS, find_metric
from .. import charts


def newest_budget(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return the newest label budget beside a run that used the same features, as charts and words, if there is one.

    Parameters
    ----------
    folder : Path
        Of the run.
    fingerprint : str
        Of its features.

    Raises
    ------
    UnsafeFile
        If the file does not hold what ``budget`` writes.
    """
    for path in sorted(folder.absolute().parent.glob("*/budget.json"), key=lambda each: -each.stat().st_mtime):
        told = read_json(path)
        try:
            if told["provenance"]["fingerprint"] == fingerprint:
                return _laid_out(told, path.parent.name)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UnsafeFile(f"{path} must be what budget writes; {error!r}. Run budget again.") from error
    return None


def _laid_out(told: dict[str, Any], name: str) -> dict[str, Any]:
    if told["metric"] not in [each.name for each in METRICS]:
        raise ValueError(f"no metric {told['metric']!r}")
    metric = find_metric(told["metric"])
    return {
        "heads": [
            {"head": head["head"], "words": head["words"], "chart": _chart(head, metric.words)}
            for head in told["heads"]
        ],
        "metric": metric.words,
        "images": told["images"],
        "draws": told["draws"],
        "repeats": told.get("repeats", 1),  # files of earlier versions have none
        "group": told["group"],
        "folder": name,
    }


def _chart(head: dict[str, Any], metric: str) -> dict[str, Any]:
    """Return the chart of a head's test figure against the number of training images."""
    curve, seen = head["curve"], [(each["images"], value) for each in head["points"] for value in each["values"]]
    values = [value for _, value in seen] + [end for each in curve for end in each["interval"]]
    box = charts.frame(
        (0, curve[-1]["images"]),
        charts.widened([float(value) for value in values]),
        ("training images", f"test {metric}"),
    )
    x = [each["images"] for each in curve]
    low, high = ([each["interval"][end] for each in curve] for end in (0, 1))
    line = box.path(x, [each["value"] for each in curve])
    return {
        "frame": box,
        "band": f"{box.path([*x, *reversed(x)], [*low, *reversed(high)])}Z",
        "line": line,
        "points": [(box.x.at(n), box.y.at(value)) for n, value in seen],
        "now": box.x.at(head["points"][-1]["images"]),
    }
