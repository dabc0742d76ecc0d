"""Rendering of a report: one self-contained HTML file that runs no script but its own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from features import __version__
from features.errors import UnsafeFile
from features.safefiles.regular_files import read_whole

from ..evaluation.metrics import METRICS
from ..runs.html_page import source_hash
from .side_by_side import SideBySide

_MAX_BYTES = 1 << 30  # of a page
MADE_BY = "Made by cached-features"  # in every page, of earlier versions too


def render(report: dict[str, Any]) -> str:
    """Return the page of a report as HTML.

    All texts are escaped, and data for the script is JSON without ``<``. A Content-Security-Policy blocks the network and all
    styles and scripts except the two whose hashes it names, whatever file and class names contain.

    Parameters
    ----------
    report : dict
        Variables of the template ``report.html``; see `pipeline.reports.build.gather`.
    """
    environment = _environment()
    style = _source(environment, "report.css")
    script = "\n".join(_source(environment, name) for name in ("report.js", "judging.js", "images.js", "map.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src {source_hash(style)}; script-src {source_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return environment.get_template("report.html").render(
        **report, style=Markup(style), script=Markup(script), policy=policy, made_by=MADE_BY
    )


def render_runs(found: SideBySide) -> str:
    """Return the page of runs side by side as HTML; see `render`."""
    return _render_plain("runs.html", found=found, metrics=METRICS)


def render_bases(page: dict[str, Any]) -> str:
    """Return the page of a comparison of bases as HTML; see `render` and `pipeline.reports.analysis.bases.gather_bases`."""
    return _render_plain("bases.html", **page)


def _render_plain(template: str, **variables: Any) -> str:
    """Return a page without a script."""
    environment = _environment()
    style = _source(environment, "report.css")
    policy = f"default-src 'none'; img-src data:; style-src {source_hash(style)}; base-uri 'none'; form-action 'none'"
    return environment.get_template(template).render(
        **variables, style=Markup(style), policy=policy, made_by=MADE_BY, version=__version__
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pipeline.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure, "percent": percent}
    return environment


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
    """Format a fraction in percent; only exact values become 0 % or 100 %."""
    return ">99 %" if 0.995 <= value < 1 else "<1 %" if 0 < value < 0.005 else f"{100 * value:.0f} %"


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
