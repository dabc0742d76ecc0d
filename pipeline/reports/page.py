"""Rendering of a report: one self-contained HTML file that runs no script but its own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from features import __version__
from features.errors import UnsafeFile
from features.safefiles.regular_files import read_whole

from ..evaluation.metrics import METRICS
from ..evaluation.significance import told_p
from ..runs.html_page import fill_page
from .side_by_side import SideBySide

_MAX_BYTES = 1 << 30  # of a page
MADE_BY = "Made by cached-features"  # in every page, of earlier versions too


def render(report: dict[str, Any]) -> str:
    """Return the page of a report as HTML; see `fill_page`. Data for the script is JSON without ``<``.

    Parameters
    ----------
    report : dict
        Variables of the template ``report.html``; see `pipeline.reports.build.gather`.
    """
    scripts = ("report.js", "judging.js", "images.js", "map.js", "scrolling.js")
    return fill_page(__package__, "report", {**report, "made_by": MADE_BY}, scripts=scripts, filters=_FILTERS)


def render_runs(found: SideBySide) -> str:
    """Return the page of runs side by side as HTML; see `render`."""
    return _fill_table("runs", found=found, metrics=METRICS)


def render_bases(page: dict[str, Any]) -> str:
    """Return the page of a comparison of bases as HTML; see `pipeline.reports.analysis.bases.gather_bases`."""
    return _fill_table("bases", **page)


def _fill_table(name: str, **variables: Any) -> str:
    """Return a page whose only script is that of tables that scroll."""
    told = {**variables, "made_by": MADE_BY, "version": __version__}
    return fill_page(__package__, name, told, style="report.css", scripts=("scrolling.js",), filters=_FILTERS)


def is_report(path: Path) -> bool:
    """Tell whether a file is a page of a report, of whatever version."""
    try:
        return MADE_BY.encode() in read_whole(path, _MAX_BYTES)
    except (FileNotFoundError, UnsafeFile):
        return False


def figure(value: float | None, digits: int = 3) -> str:
    """Format a number; None becomes a dash."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def percent(value: float) -> str:
    """Format a fraction in percent, without a blank at which lines break; only exact values become 0 % or 100 %."""
    rounded = ">99" if 0.995 <= value < 1 else "<1" if 0 < value < 0.005 else f"{100 * value:.0f}"
    return f"{rounded}\u00a0%"


_FILTERS = {"figure": figure, "percent": percent, "told_p": told_p}
